"""The table of a study: JSON lines in studies/rows/NAME.jsonl, one measurement a line.

JSON lines rather than Parquet: a new row is one new line of a diff, it is read without a package,
and all studies together are 2.5 MB. Each line names what it is in "record":

errors    an arm, a seed, a share of labels: the commands that make it, and the errors of every clip
angles    an arm, a seed: loss and reference gain by the angle between the cameras
take      an arm, a seed, a share: overlap with the outlines of a real take
seconds   what a step of each arm takes on one machine

Lines are sorted by record, arm, share and seed, so that the order in which runs end changes
nothing.
"""

import json
from pathlib import Path
from typing import Any

from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file
from engine.run.locks import lock_file

RECORDS = ("errors", "angles", "take", "seconds")
KEYS = ("record", "arm", "seed", "share")  # what a line is of; those that it has come first


class RowTable:
    """The measurements of one study."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self, record: str) -> list[dict[str, Any]]:
        """Return the lines of one of RECORDS, in order; none where there is no file.

        Raises:
            UserError: the file cannot be read, or a line is no record.
        """
        return [found for found in self._read_all() if found["record"] == record]

    def find(self, record: str, **keys: str | int | float) -> dict[str, Any] | None:
        """Return the line that has these keys, or None."""
        for found in self.read(record):
            if all(found.get(name) == value for name, value in keys.items()):
                return found
        return None

    def add(self, record: str, found: dict[str, Any]) -> None:
        """Put a measurement into the table, in place of one of the same keys.

        Rows of several processes may come at once: a lock beside the file holds the others back,
        and the file is replaced as a whole.

        Raises:
            UserError: the file cannot be read or written.
        """
        line = {"record": record, **{name: found[name] for name in KEYS if name in found}, **found}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path.with_suffix(".lock"), "w", encoding="utf-8") as lock:
                lock_file(lock)
                kept = [other for other in self._read_all() if _key(other) != _key(line)]
                lines = sorted([*kept, line], key=_key)
                write_file(self.path, "".join(_dump(one) for one in lines))
        except OSError as error:
            raise failure_of(error, f"{self.path} cannot be written: {explain(error)}") from None

    def _read_all(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError as error:
            raise failure_of(error, f"{self.path} cannot be read: {explain(error)}") from None
        lines = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            if not isinstance(found, dict) or found.get("record") not in RECORDS:
                raise UserError(f"{self.path}, line {number} is no record of {', '.join(RECORDS)}")
            lines.append(found)
        return lines


def _key(line: dict[str, Any]) -> tuple[int, str, float, int]:
    """Return what a line is of, to sort by and to compare."""
    return (
        RECORDS.index(line["record"]),
        line.get("arm", ""),
        line.get("share", 0.0),
        line.get("seed", 0),
    )


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"
