"""Who is who in a video whose people are found in each frame anew.

Each frame's people are given to the tracks by an assignment of least total cost, of where in space
somebody is, of the boxes and of the embedding that the network gives. Who is hidden waits where
they were last seen, moving on a little, for ``lost_s`` seconds. Deterministic: equal people give
equal tracks.
"""

from dataclasses import dataclass

import numpy as np

from data.find.assignment import assign_rows
from data.find.tracking import iou
from finetune.video.recover import Rows

LIMIT = 0.75  # cost of a pair that is not one
# Standard deviations of where somebody is found, in shares of the depth and in metres, and by how
# much they grow with each second unseen. One camera tells the depth worse.
ALONG, ACROSS = (0.08, 0.05, 0.8), (0.02, 0.08, 1.0)
REACH = 3.0  # standard deviations beyond which nobody comes
LEARNING = 0.3  # share of the newest step in a speed, and of the newest look
FASTEST = 8.0  # metres a second
GLIDE_S = 0.3  # how long somebody unseen is taken to move on


@dataclass(eq=False)
class _Followed:
    """Somebody so far.

    Attributes:
        number: of the person.  time_s: when they were last seen.
        place, speed: (3,) metres, metres a second.  box: (4,) pixels.
        look: (E,) of length 1; E is 0 where nobody computes one.
    """

    number: int
    time_s: float
    place: np.ndarray
    speed: np.ndarray
    box: np.ndarray
    look: np.ndarray

    def expect(self, time_s: float) -> np.ndarray:
        """(3,) where they are to be found."""
        return self.place + self.speed * min(time_s - self.time_s, GLIDE_S)

    def see(self, time_s: float, place: np.ndarray, box: np.ndarray, look: np.ndarray) -> None:
        """Take the newest sighting."""
        gap_s = max(time_s - self.time_s, 1e-3)
        step = (place - self.place) / gap_s
        step *= min(1.0, FASTEST / max(float(np.linalg.norm(step)), 1e-9))
        self.speed = (1 - LEARNING) * self.speed + LEARNING * step
        mixed = (1 - LEARNING) * self.look + LEARNING * look
        self.look = mixed / max(float(np.linalg.norm(mixed)), 1e-9)
        self.time_s, self.place, self.box = time_s, place, box


def follow_people(rows: Rows, times: np.ndarray, lost_s: float) -> np.ndarray:
    """Return (N,) int64, whose each row is, numbered in the order in which they are first seen.

    Args:
        rows: of one body model, in order of frames, the surest of a frame first.
        times: (F,) seconds of the video's frames.
        lost_s: longest time that somebody may be hidden and stay the same.
    """
    who = np.full(len(rows.frame), -1, np.int64)
    live: list[_Followed] = []
    known = 0
    for frame in np.unique(rows.frame):
        mine, now = np.flatnonzero(rows.frame == frame), float(times[frame])
        live = [one for one in live if now - one.time_s <= lost_s]
        cost = np.array(
            [[_measure(one, rows, row, now, lost_s) for row in mine.tolist()] for one in live]
        ).reshape(len(live), len(mine))
        for track, column in assign_rows(cost, LIMIT):
            row = mine[column]
            live[track].see(now, rows.translation[row], rows.box[row], rows.embedding[row])
            who[row] = live[track].number
        for row in mine[who[mine] < 0]:
            who[row] = known
            seen = rows.translation[row], np.zeros(3), rows.box[row], rows.embedding[row]
            live.append(_Followed(known, now, *seen))
            known += 1
    return who


def _measure(one: _Followed, rows: Rows, row: int, now: float, lost_s: float) -> float:
    """How unlikely a row is somebody's, 0 to 1; inf where it cannot be."""
    gap_s = now - one.time_s
    place, expected = rows.translation[row].astype(np.float64), one.expect(now)
    depth = float(np.linalg.norm(expected))
    ray = expected / max(depth, 1e-9)
    apart = place - expected
    along = float(apart @ ray)
    across = float(np.linalg.norm(apart - along * ray))
    spreads = [part * depth + least + rise * gap_s for part, least, rise in (ALONG, ACROSS)]
    away = float(np.hypot(along / spreads[0], across / spreads[1])) / REACH
    if away > 1:
        return np.inf
    # Where somebody was counts less, the longer ago; how they look does not.
    fresh = max(0.0, 1 - gap_s / max(lost_s, 1e-6))
    terms = [(0.5, away), (0.3 * fresh, 1 - iou(one.box, rows.box[row]))]
    if len(one.look):
        terms.append((0.5, float(np.clip(1 - one.look @ rows.embedding[row], 0, 1))))
    return sum(weight * cost for weight, cost in terms) / sum(weight for weight, _ in terms)
