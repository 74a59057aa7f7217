"""The fits that a network learns from while it trains: of each person the best one so far.

A file in the run's folder, RUN/fits/step-N.npz, holds the fits that were taken before step N. All
files of earlier steps, one after the other, give the table that a step was taken with; those of
later steps, which a killed run may have left, are not read, and written again.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.format.label_files import save_arrays
from data.loading.crops import TAGS
from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file
from finetune.fit.observed import Stretch

COLUMNS = [TAGS.index(name) for name in ("source", "shard", "index", "crop")]
NUMBERS = ("person", "energy", "instants")  # a person's; other arrays have a row an instant
LABEL = "label/"  # before the names of a label's arrays

ClipPlace = tuple[int, int, int]  # source, shard, index in it


@dataclass(eq=False)
class Fit:
    """One person's fit.

    Attributes:
        person: number of the stretch.  energy: less is better.
        error: (T,) mean distance of an instant's keypoints, of the person's size.
        kept: (T,) bool, which instants fit.
        labels: {name: (T, ...)} as training reads them; empty of a fit that the shards hold, whose
            labels the loader reads.
    """

    person: int
    energy: float
    error: np.ndarray
    kept: np.ndarray
    labels: dict[str, np.ndarray]


class FitTable:
    """The best fit of each person.

    Args:
        stretches: the people.  places: {(shard, clip's key): its place in the run's order}.
    """

    def __init__(
        self, stretches: Sequence[Stretch], places: Mapping[tuple[str, str], ClipPlace]
    ) -> None:
        self.fits: dict[int, Fit] = {}
        self._instants: dict[tuple[int, ...], tuple[int, int]] = {}
        for person, stretch in enumerate(stretches):
            rows = {time: row for row, time in enumerate(stretch.times_s)}
            for view in stretch.views:
                for path, key, crop in view.places:
                    at = (*places[path, key], crop)
                    self._instants[at] = person, rows[view.time_s]

    def offer(self, fits: Sequence[Fit]) -> list[Fit]:
        """Take those fits that are better than what there is; returns them."""
        taken = []
        for fit in fits:
            old = self.fits.get(fit.person)
            if np.isfinite(fit.energy) and (old is None or fit.energy < old.energy):
                self.fits[fit.person] = fit
                taken.append(fit)
        return taken

    def find(self, tags: np.ndarray) -> tuple[list[int], dict[str, np.ndarray]]:
        """Return the rows of a batch that have a label here, and {name: (rows, ...)} of it.

        Args:
            tags: (B, columns) of data.loading.crops.
        """
        rows, found = [], []
        for row, at in enumerate(tags[:, COLUMNS].tolist()):
            person, instant = self._instants.get(tuple(at), (-1, 0))
            fit = self.fits.get(person)
            if fit is not None and fit.labels and fit.kept[instant]:
                rows.append(row)
                found.append((fit.labels, instant))
        if not found:
            return [], {}
        names = found[0][0]
        return rows, {name: np.stack([one[name][at] for one, at in found]) for name in names}

    def measure(self, people: int) -> dict[str, float]:
        """{"fits/share", "fits/error"}: of people that have an instant that fits, and how well."""
        kept = [fit.error[fit.kept] for fit in self.fits.values() if fit.kept.any()]
        out = {"fits/share": len(kept) / people}
        return out | ({"fits/error": float(np.concatenate(kept).mean())} if kept else {})


def write_fits(path: Path, fits: Sequence[Fit]) -> None:
    """Write fits that were taken.

    Raises:
        engine.errors.Failure: they cannot be written.
    """
    arrays: dict[str, np.ndarray] = {
        "person": np.array([fit.person for fit in fits], np.int64),
        "energy": np.array([fit.energy for fit in fits], np.float64),
        "instants": np.array([len(fit.kept) for fit in fits], np.int64),
    }
    if fits:
        arrays["error"] = np.concatenate([fit.error for fit in fits])
        arrays["kept"] = np.concatenate([fit.kept for fit in fits])
        for name in fits[0].labels:
            arrays[LABEL + name] = np.concatenate([fit.labels[name] for fit in fits])
    try:
        path.parent.mkdir(exist_ok=True)
        write_file(path, save_arrays(arrays), durable=True)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def read_fits(path: Path) -> list[Fit]:
    """Return the fits of a file.

    Raises:
        UserError: it is missing or damaged.  engine.errors.Failure: it cannot be read.
    """
    resumes = "a run with fit_every resumes with all fits that it made"
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            arrays = {name: file[name] for name in file.files}
        people, energies, counts = (arrays.pop(name) for name in NUMBERS)
        ends = np.cumsum(counts)
        if any(len(values) != counts.sum() for values in arrays.values()):
            raise ValueError("arrays of unequal length")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {resumes}") from None
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): {resumes}") from None
    out = []
    for person, energy, count, end in zip(people, energies, counts, ends, strict=True):
        own = {name: values[end - count : end] for name, values in arrays.items()}
        error, kept = own.pop("error"), own.pop("kept")
        labels = {name.removeprefix(LABEL): values for name, values in own.items()}
        out.append(Fit(int(person), float(energy), error, kept, labels))
    return out
