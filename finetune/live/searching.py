"""The search for people beside the rest, on a thread of its own: slow, now and then."""

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from data.find.looks import PeopleFinder
from engine.errors import Failure
from finetune.inference.search import Region, order_keypoints
from finetune.live.capture import Frame
from finetune.live.newest import Newest

WAIT_S = 0.5

Found = dict[str, list[tuple[Region, float]]]


@dataclass(frozen=True)
class Searched:
    """What a search found in a frame, {kind: (where, how sure) of each}."""

    frame: Frame
    found: Found


class Searcher:
    """Searches the newest frame, at most so many a second.

    Args:
        finder: of people, and of hands where those are wanted; of this thread alone.
        kinds: "body" or "hand", or both.  least_score: less sure ones are left out.
        side: of the hands that are kept; None: both.

    Attributes:
        answers: Newest of Searched.
        gap_s: from the start of a search to that of the next at least.
        count, busy_s: searches, and the seconds that they took.
        fault: what ended it, or None.
    """

    def __init__(
        self,
        frames: Newest[Frame],
        finder: PeopleFinder,
        kinds: Collection[str],
        least_score: float,
        rate_hz: float,
        side: str | None = None,
    ) -> None:
        self.answers: Newest[Searched] = Newest()
        self.count, self.busy_s = 0, 0.0
        self.fault: Exception | None = None
        self._frames, self.gap_s = frames, 1 / rate_hz
        self._look = lambda image: find_all(finder, image, kinds, least_score, side)
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="search", daemon=True)

    def start(self) -> None:
        """Begin to search."""
        self._thread.start()

    def stop(self) -> None:
        """End after the search that is under way."""
        self._is_stopped.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        try:
            self._search(self._look)
        except (Failure, RuntimeError, ValueError) as error:
            self.fault = error
            self.answers.close()

    def _search(self, look: Callable) -> None:
        taken = 0
        while not self._is_stopped.is_set():
            newer = self._frames.take(taken, WAIT_S)
            if newer is None:
                if self._frames.is_closed:
                    return
                continue
            taken, frame = newer
            start = time.monotonic()
            found = look(frame.image)
            spent = time.monotonic() - start
            self.count, self.busy_s = self.count + 1, self.busy_s + spent
            self.answers.put(Searched(frame, found))
            self._is_stopped.wait(max(0.0, self.gap_s - spent))


def find_all(
    finder: PeopleFinder,
    image: np.ndarray,
    kinds: Collection[str],
    least_score: float,
    side: str | None = None,
) -> Found:
    """Return {kind: (where, how sure) of each} in an image.

    Args:
        image: (H, W, 3) uint8 RGB.  side: of the hands that are kept; None: both.
    """
    people = finder.find_people(image)
    found: Found = {}
    if "body" in kinds:
        found["body"] = [
            (Region(one.box, keypoints=order_keypoints(one)), one.score)
            for one in people
            if one.score >= least_score
        ]
    if "hand" in kinds:
        found["hand"] = [
            (Region(one.box, one.side, one.keypoints), one.score)
            for one in finder.find_hands(image, people)
            if one.score >= least_score and side in (None, one.side)
        ]
    return found
