"""Schedules are functions of the step."""

import math


def warmup_cosine(step, peak, floor, warmup, total):
    """Linear from 0 to ``peak`` over ``warmup`` steps, then half a cosine to ``floor`` at step
    ``total``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= total:
        return floor
    return floor + (peak - floor) * 0.5 * (
        1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))
    )
