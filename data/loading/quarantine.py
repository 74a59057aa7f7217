"""Samples with bad bytes: listed in the run's folder, counted by shard and reason.

Too many of them stop the run.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from data.storage.fetch import base_name
from engine.errors import UserError, explain, failure_of
from engine.logging.console import get_logger
from engine.run.files import write_file
from engine.run.run_folder import RunFolder

log = get_logger(__name__)

MOST_PENDING = 100_000  # entries that wait for space on a full disk: some 20 MB
ENOUGH = 1000  # slots from which on a share says anything


class BadSampleList:
    """Writes ``RUN/bad_samples.jsonl``, and the counts in bad_samples.json.

    A line is a bad sample or a read that was tried again.

    One process writes it. A disk that is full, or fails, ends no run: what could not be written is
    kept, counted and written when there is space again.

    Args:
        folder: the run's.  slot: from which the run resumes; entries of slots that are read again
            are dropped.
    Attributes:
        counts: Counter of (shard, reason), of what is written and what is not yet.
        pending: entries that are not written yet, at most MOST_PENDING; further ones are counted
            alone.
    """

    def __init__(self, folder: str | Path, slot: int) -> None:
        self.path, self.counts, self.pending = RunFolder(folder).bad_samples, Counter(), []
        self._ready, self._warned = True, False
        text = self._read()
        if text:
            kept, entries = _before(text, slot)
            self._count(entries)
            # Written anew by the first ``add`` if it cannot be now, so that no entry stands there
            # twice.
            self._kept = kept
            self._ready = self._try(self._write_kept)

    def add(self, bad: Sequence[tuple[int, str, int, str]]) -> None:
        """Append [(slot, shard, index, reason), ...], and what could not be written before."""
        if not bad and not self.pending:
            return
        entries = [
            {"slot": slot, "shard": shard, "index": index, "reason": reason}
            for slot, shard, index, reason in bad
        ]
        self._count(entries)
        self.pending += entries[: max(0, MOST_PENDING - len(self.pending))]
        if self._try(self._write_pending) and self._warned:
            self._warned = False
            log.info("note: %s is written again", self.path)

    def by_shard(self) -> dict[str, dict[str, int]]:
        """{shard: {reason: times}}, the worst shard first."""
        totals = Counter()
        for (shard, _), times in self.counts.items():
            totals[shard] += times
        return {
            shard: {
                reason: times
                for (name, reason), times in self.counts.most_common()
                if name == shard
            }
            for shard, _ in totals.most_common()
        }

    def _read(self):
        try:
            return self.path.read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise failure_of(error, f"{self.path} cannot be read: {explain(error)}") from None

    def _write_kept(self) -> None:
        write_file(self.path, self._kept.encode(errors="surrogateescape"))

    def _write_pending(self):
        if not self._ready:
            self._write_kept()
            self._ready = True
        text = "".join(json.dumps(entry) + "\n" for entry in self.pending)
        with open(self.path, "ab") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                file.write(text.encode())
                file.flush()
            except OSError:
                os.truncate(self.path, end)  # half a line would be lost, and the next one with it
                raise
        self.pending = []
        content = json.dumps(self.by_shard(), indent=1)
        write_file(RunFolder(self.path.parent).bad_sample_counts, content)

    def _try(self, write):
        """Whether write() came off.

        A warning, once for each time of trouble, says that it did not.
        """
        try:
            write()
            return True
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning(
                    "%s cannot be written: %s; bad samples are counted and listed when it can",
                    self.path,
                    explain(error),
                )
            return False

    def _count(self, entries):
        # What follows a colon differs from sample to sample.
        self.counts.update(
            (base_name(entry["shard"]), entry["reason"].split(":")[0]) for entry in entries
        )


def _before(text, slot):
    """(lines, entries) of a list's text whose slots come before ``slot``.

    A line that a kill left half is dropped; one that is damaged stays as it is and counts for
    nothing.
    """
    kept, entries = [], []
    for line in text.splitlines(True):
        if not line.endswith("\n"):
            continue
        try:
            entry = json.loads(line)
            if entry["slot"] >= slot:
                continue
            entries.append({"shard": str(entry["shard"]), "reason": str(entry["reason"])})
        except (ValueError, KeyError, TypeError):
            pass
        kept.append(line)
    return "".join(kept), entries


class BadRate:
    """Stops a run whose share of bad samples is above ``most``.

    The share is taken since the last look or since the run began.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.looked: tuple[int, int] | None = None

    def check(self, slots: int, bad: int, words: Callable[[], str]) -> None:
        """Compare how many of ``slots`` were bad so far, over all processes.

        Args:
            words: () -> what to say of the worst shards.
        Raises:
            UserError: the share is above the limit.
        """
        before = self.looked or (slots, bad)
        for first, first_bad in ((0, 0), before):
            share = (bad - first_bad) / max(1, slots - first)
            if slots - first >= ENOUGH and share > self.most:
                raise UserError(
                    f"{bad - first_bad} of {slots - first} samples had bad bytes, a share of "
                    f"{share:.3g}, and "
                    f"data.bad_max={self.most:g}{words()}; see bad_samples.jsonl in the run's "
                    f"folder and "
                    f"`python -m data "
                    f"verify`, list shards to leave out in its bad_shards.json, or raise "
                    f"data.bad_max"
                )
        if self.looked is None or slots - self.looked[0] >= ENOUGH:
            self.looked = slots, bad


def worst(folder: str | Path) -> str:
    """Return ", most in SHARD (N: REASON)" of a run's folder, empty where nothing is listed."""
    try:
        counts = json.loads(RunFolder(folder).bad_sample_counts.read_text(encoding="utf-8"))
        shard, reasons = next(iter(counts.items()))
        return f", most in {shard} ({sum(reasons.values())}: {next(iter(reasons))})"
    except (OSError, ValueError, AttributeError, TypeError, StopIteration):
        return ""  # these words only help; what is said without them is true
