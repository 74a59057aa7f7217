"""Samples with bad bytes: listed in the run's folder, counted by shard and reason, and too many of them stop the run."""

import json
import os
from collections import Counter
from pathlib import Path

from data.remote import base_name
from engine.errors import UserError, explain, failure_of

LIST, SUMMARY = "bad_samples.jsonl", "bad_samples.json"
ENOUGH = 1000  # slots from which on a share says anything


class BadList:
    """``RUN/bad_samples.jsonl``, a line a bad sample or a read that was tried again, and their counts in bad_samples.json.

    One process writes it.

    Args:
        folder: the run's.  slot: from which the run goes on; entries of slots that are read again are dropped.
    """

    def __init__(self, folder, slot):
        self.path, self.counts = Path(folder) / LIST, Counter()
        if self.path.exists():
            lines = [line for line in self.path.read_text(encoding="utf-8").splitlines(True) if line.endswith("\n")]
            kept = [line for line in lines if json.loads(line)["slot"] < slot]
            self._count(json.loads(line) for line in kept)
            _write(self.path, "".join(kept))

    def add(self, bad):
        """Append [(slot, shard, index, reason), ...]."""
        if not bad:
            return
        entries = [{"slot": slot, "shard": shard, "index": index, "reason": reason} for slot, shard, index, reason in bad]
        self._count(entries)
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(entry) + "\n" for entry in entries))
        except OSError as error:
            raise failure_of(error, f"{self.path} cannot be written: {explain(error)}") from None
        _write(self.path.with_name(SUMMARY), json.dumps(self.by_shard(), indent=1))

    def by_shard(self):
        """{shard: {reason: times}}, the worst shard first."""
        totals = Counter()
        for (shard, _), times in self.counts.items():
            totals[shard] += times
        return {shard: {reason: times for (name, reason), times in self.counts.most_common() if name == shard}
                for shard, _ in totals.most_common()}

    def _count(self, entries):
        # What follows a colon differs from sample to sample.
        self.counts.update((base_name(entry["shard"]), entry["reason"].split(":")[0]) for entry in entries)


class BadRate:
    """Stops a run whose share of bad samples is above ``most``, since the last look or since the run began."""

    def __init__(self, most):
        self.most, self.looked = most, None

    def check(self, slots, bad, words):
        """Look at how many of ``slots`` were bad so far, over all processes.

        Args:
            words: () -> what to say of the worst shards.
        Raises:
            UserError: the share is above the limit.
        """
        before = self.looked or (slots, bad)
        for first, first_bad in ((0, 0), before):
            share = (bad - first_bad) / max(1, slots - first)
            if slots - first >= ENOUGH and share > self.most:
                raise UserError(f"{bad - first_bad} of {slots - first} samples had bad bytes, a share of {share:.3g}, and "
                                f"data.bad_max={self.most:g}{words()}; see {LIST} in the run's folder and `python -m data "
                                f"verify`, list shards to leave out in its bad_shards.json, or raise data.bad_max")
        if self.looked is None or slots - self.looked[0] >= ENOUGH:
            self.looked = slots, bad


def worst(folder):
    """", most in SHARD (N: REASON)" of a run's folder, empty where nothing is listed."""
    path = Path(folder) / SUMMARY
    if not path.exists():
        return ""
    shard, reasons = next(iter(json.loads(path.read_text(encoding="utf-8")).items()))
    reason = next(iter(reasons))
    return f", most in {shard} ({sum(reasons.values())}: {reason})"


def _write(path, text):
    temporary = path.with_suffix(".writing")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
