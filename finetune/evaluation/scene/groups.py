"""Whom a row of the table is of: all people, or those of some number, share shown or height."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finetune.evaluation.scene.frame_scores import FrameScores

NUMBERS = ((1, 1), (2, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 254))
SHARES = ((0.0, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 1.0))
HEIGHTS_PX = ((0, 60), (60, 120), (120, 240), (240, 1_000_000))


@dataclass(frozen=True)
class Group:
    """Some of the people.

    Attributes:
        key, name: for files and for people.
        choose: gives (P,) bool of a frame's people who count.
        whole: whether it takes all people of a frame or none, so that its false ones are known.
    """

    key: str
    name: str
    choose: Callable[[FrameScores], np.ndarray]
    whole: bool = True

    def takes_frame(self, scores: FrameScores) -> bool:
        """Return whether the frame's false people are the group's; of a group of frames alone."""
        if not self.whole:
            return False
        return bool(self.choose(scores).all()) if len(scores) else self.key == "all"


def list_groups() -> list[Group]:
    """Return all groups in the order of the table."""
    groups = [Group("all", "all", lambda one: np.ones(len(one), bool))]
    for low, high in NUMBERS:
        words = f"{low}" if low == high else f"{low} to {high}" if high < 100 else f"{low} or more"
        name = f"{words} {'person' if low == high == 1 else 'people'} in the frame"
        groups.append(Group(f"people_{low}", name, _by_number(low, high)))
    for low, high in SHARES:
        name = f"shown {100 * low:.0f} to {100 * high:.0f} %"
        groups.append(Group(f"shown_{100 * low:.0f}", name, _by_share(low, high), whole=False))
    for low, high in HEIGHTS_PX:
        words = f"{low} to {high}" if high < 1000 else f"{low} and more"
        groups.append(Group(f"px_{low}", f"{words} px", _by_height(low, high), whole=False))
    return groups


def _by_number(low: int, high: int) -> Callable[[FrameScores], np.ndarray]:
    return lambda one: np.full(len(one), low <= len(one) <= high)


def _by_share(low: float, high: float) -> Callable[[FrameScores], np.ndarray]:
    # The last takes who is shown whole too.
    return lambda one: (one.shown >= low) & ((one.shown < high) | (high >= 1))


def _by_height(low: float, high: float) -> Callable[[FrameScores], np.ndarray]:
    return lambda one: (one.height >= low) & (one.height < high)
