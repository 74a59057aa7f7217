"""Schedules are functions of the step."""

import math


def warmup_cosine(step: int, peak: float, floor: float, warmup: int, total: int) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine.

    From 0 to ``peak`` over ``warmup`` steps, then to ``floor`` at step ``total``.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= total:
        return floor
    return floor + (peak - floor) * 0.5 * (
        1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))
    )
