"""What a camera's people did, kept while it runs and written at the end as that of a video."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.bodies.base import BodyModel
from finetune.animation.formats import FORMATS
from finetune.animation.track import Take
from finetune.live.follow import Followed
from finetune.person import Person
from finetune.temporal.one_euro import Cutoff
from finetune.temporal.smooth import smooth_take
from finetune.verb_config import VideoConfig
from finetune.video.asked import Who
from finetune.video.recover import Rows, join_rows, pack_people
from finetune.video.settle import LEAST_FRAMES, make_take

Shown = Sequence[tuple[Followed, Person]]


class Record:
    """Rows of each frame: about 4 kB a person and frame.

    Args:
        bodies: {"body", "hand": the full body model}.
    """

    def __init__(self, bodies: Mapping[str, BodyModel]) -> None:
        self._bodies = bodies
        self._times: list[float] = []
        self._rows: dict[str, list[Rows]] = {}
        self._everybody: dict[int, Who] = {}

    def add(self, time_s: float, shown: Shown) -> None:
        """Take one frame's people."""
        frame = len(self._times)
        self._times.append(time_s)
        for kind, body in self._bodies.items():
            mine = [(one, person) for one, person in shown if one.kind == kind]
            if not mine:
                continue
            for one, person in mine:
                self._everybody.setdefault(one.number, Who(f"{kind}{one.number}", person.kind))
            rows = pack_people(
                [person for _, person in mine],
                body,
                [one.number for one, _ in mine],
                [frame] * len(mine),
                [one.score for one, _ in mine],
                [None] * len(mine),  # those of the last search are not of this frame
            )
            self._rows.setdefault(kind, []).append(rows)

    def write(
        self,
        source: str,
        size: tuple[int, int],
        K: np.ndarray,
        focal_from: str,
        stem: Path,
        formats: Sequence[str],
        keys: VideoConfig,
    ) -> list[Path]:
        """Write the files of animation; none where nobody was there in two frames.

        Args:
            source: name of the camera.  size, K: of its images.  stem: of the files.
        """
        rows = {kind: join_rows(parts) for kind, parts in self._rows.items()}
        seen = [int(np.bincount(one.who).max()) for one in rows.values()]
        if max(seen, default=0) < LEAST_FRAMES:
            return []
        times = np.array(self._times) - self._times[0]
        most = max(self._everybody)
        everybody = [self._everybody.get(n, Who(str(n))) for n in range(most + 1)]
        take: Take = make_take(source, times, size, K, rows, everybody, self._bodies)
        if keys.smooth == "one_euro":
            take = smooth_take(take, Cutoff(keys.smooth_hz, keys.smooth_rise))
        take.focal_from = focal_from
        written: list[Path] = []
        for name in formats:
            written += FORMATS.find(name)(take, stem)
        return written
