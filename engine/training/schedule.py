"""Schedules are functions of the step."""

import math


def warmup_cosine(
    step: int, peak: float, floor: float, warmup: int, total: int, fall_share: float = 1.0
) -> float:
    """Return the learning rate of a step: linear warm-up, a level stretch, then half a cosine.

    From 0 to ``peak`` over ``warmup`` steps, then to ``floor`` at step ``total``. With a
    ``fall_share`` below 1 it stays at ``peak`` until that share of all steps is left, so that a run
    is as good as a shorter one at any time before (Zhai et al., CVPR 2022; Hu et al., 2024).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= total:
        return floor
    level = max(warmup, total - round(fall_share * total))
    if step < level:
        return peak
    return floor + (peak - floor) * 0.5 * (
        1 + math.cos(math.pi * (step - level) / max(1, total - level))
    )


def warmup_again(step: int, begins: int, warmup: int) -> float:
    """Return the factor on the learning rate of weights that are trained from step ``begins`` on.

    A linear warm-up of their own; 1 where they are trained from the start, which the schedule warms
    up.
    """
    if not begins:
        return 1.0
    return min(1.0, (step - begins + 1) / max(1, warmup))
