"""The file of every sample that was looked at, by which a search that was killed goes on.

Samples are asked for in an order that the seed and the errors before decide. So a search that is
started again asks the same, and gets what is in the file until that ends.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file
from finetune.examine.points import Ask, Point, Sample

FILE = "samples.jsonl"


class Ledger:
    """Answers from the file what is in it, and asks and appends the rest.

    Args:
        path: of the file; what a kill left of a batch is dropped, for a batch is one computation.
        ask: gives the samples of a batch of points.

    Attributes:
        known: samples of the file that were not asked for again yet.
        asked: how many were computed.
    """

    def __init__(self, path: Path, ask: Ask) -> None:
        self.path, self.ask, self.asked = path, ask, 0
        batches = read_batches(path)
        self.known = [sample for batch in batches for sample in batch]
        if path.exists():
            write_file(path, "".join(_dump(batch) for batch in batches))
        self._at = 0

    def __call__(self, points: Sequence[Point]) -> list[Sample]:
        """Return the samples of a batch of points.

        Raises:
            UserError: the file holds a batch of other points.
        """
        if not points:
            return []
        there = self.known[self._at : self._at + len(points)]
        if there:
            if [sample.point for sample in there] != list(points):
                raise UserError(
                    f"{self.path}: line {self._at + 1} is not what this search asks for there "
                    f"({points[0].stage} {points[0].group}): another version of the software or "
                    f"other weights wrote it; name another folder with out="
                )
            self._at += len(points)
            return there
        samples = self.ask(points)
        self.asked += len(samples)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_dump(samples))
        except OSError as error:
            raise failure_of(error, f"{self.path} cannot be written: {explain(error)}") from None
        return samples


def read_batches(path: Path) -> list[list[Sample]]:
    """Return the complete batches of the file; none where there is no file.

    Raises:
        UserError: a line that is not the last does not read.
    """
    if not path.exists():
        return []
    batches: list[list[Sample]] = []
    batch: list[Sample] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline was cut off
        try:
            tree = json.loads(line)
            last = tree.pop("last")
            place, latents = tree.pop("point"), tuple(tree.pop("latents"))
            point = Point(place["stage"], place["group"], place["index"], latents)
            batch.append(Sample(point=point, **tree))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: line {number} is no sample ({error})") from None
        if last:
            batches.append(batch)
            batch = []
    return batches


def _dump(samples: Sequence[Sample]) -> str:
    lines = []
    for number, sample in enumerate(samples, 1):
        tree: dict[str, Any] = asdict(sample)
        tree["latents"] = list(tree["point"].pop("latents"))
        tree["last"] = number == len(samples)
        lines.append(json.dumps(tree) + "\n")
    return "".join(lines)
