"""``counterpose fit SHARDS-or-VIDEO out=DIR``: labelled clips, without annotators."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from data.bodies.models import open_model
from data.format.clip import decode_meta
from data.format.samples import read_samples
from data.format.shards import find_shards, write_samples
from engine.config.parser import flat, parse_keys
from engine.errors import UserError, explain, failure_of
from engine.logging import progress
from engine.logging.console import get_logger
from engine.run.files import make_folder, write_file
from finetune.fit.answers import Answer, ask_network
from finetune.fit.batches import cut_batches
from finetune.fit.config import NOBODY, FitConfig
from finetune.fit.fitter import Fitted, Fitter
from finetune.fit.footage import cut_video, is_video
from finetune.fit.labels import Shown, find_kind, label_clip
from finetune.fit.observed import Rules, Stretch, freeze_people, read_shards, read_stretches
from finetune.fit.photos import cut_photos, is_photo
from finetune.fit.prior import sample_body
from finetune.inference.image_camera import CameraFinder
from finetune.inference.predictor import Predictor, check_intrinsics

COMMAND = "finetune fit"
RECIPE = "fit.json"
REPORT = ".fit.json"  # after a shard's name: what became of its people
FREE_KEYS = ("out", "device")  # which do not change what is fitted

log = get_logger(__name__)


@dataclass
class Tally:
    """What became of a shard's people.

    Attributes:
        clips, crops: that were read, and written.
        instants, kept: of the people in the shard, and those of them that fit.
        errors, errors_px: mean of each crop that was kept.
    """

    clips_read: int = 0
    clips: int = 0
    crops_read: int = 0
    crops: int = 0
    instants: int = 0
    kept: int = 0
    errors: list[float] = field(default_factory=list)
    errors_px: list[float] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add another shard's."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


def main(argv: Sequence[str]) -> int:
    """Fit a body model to the people in shards and write them with labels.

    Returns:
        0, or 1 where nobody fits.
    Raises:
        UserError: bad keys, clips without keypoints or cameras, a folder of another fit.
    """
    config, paths = parse_keys(FitConfig, argv, COMMAND)
    kind = find_kind(config.body)
    with _leave_no_empty(config.out):
        return _run(config, paths, kind)


def _run(config: FitConfig, paths: Sequence[str], kind: str) -> int:
    shards, K = _prepare(config, paths, kind)
    total = Tally()
    todo = []
    for path in shards:
        done = _read_report(config, path)
        if done is None:
            todo.append(path)
        else:
            total.add(done)
    if len(todo) < len(shards):
        log.info("%d of %d shards are there already", len(shards) - len(todo), len(shards))
    if todo:
        total.add(_fit_shards(config, shards, todo, K))
    _print_total(config, total)
    return 0 if total.clips else 1


@contextlib.contextmanager
def _leave_no_empty(out: str) -> Iterator[None]:
    """Remove a folder that the block made, where it fails before anything is in it but a recipe."""
    was_there = os.path.isdir(out)
    try:
        yield
    except BaseException:
        if not was_there:
            with contextlib.suppress(OSError):
                inside = [name for _, _, names in os.walk(out) for name in names]
                if set(inside) <= {RECIPE}:
                    shutil.rmtree(out)
        raise


def _prepare(
    config: FitConfig, paths: Sequence[str], kind: str
) -> tuple[list[str], np.ndarray | None]:
    """(shards, (3, 3) intrinsics of the images of uncalibrated crops or None)."""
    for path in paths:
        if (is_video(path) or is_photo(path)) and not os.path.isfile(path):
            raise UserError(f"{path}: no such file")
    if any(is_video(path) or is_photo(path) for path in paths):
        finder = CameraFinder(config.intrinsics, config.calibration, config.camera)
        return _cut(config, paths, kind, finder)
    if config.calibration:
        raise UserError(
            f"calibration={config.calibration} is for photographs and videos: clips in shards have "
            "cameras of their own, or intrinsics="
        )
    shards = find_shards(list(paths))
    names = [os.path.basename(path) for path in shards]
    if len(set(names)) < len(names):
        raise UserError(f"two of the {len(names)} shards have one name: fit them one by one")
    _claim(config, names)
    K = None
    if config.intrinsics:
        fx, fy, cx, cy = config.intrinsics
        K = check_intrinsics([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], 1, 1)
    return shards, K


def _cut(
    config: FitConfig, paths: Sequence[str], kind: str, finder: CameraFinder
) -> tuple[list[str], np.ndarray | None]:
    """The shards of a video or of photographs, and the video's intrinsics."""
    names = [os.path.basename(path) for path in paths]
    if all(is_photo(path) for path in paths):
        _claim(config, names)
        return find_shards([cut_photos(paths, config.out, kind, finder)]), None
    if len(paths) > 1:
        raise UserError(
            f"{len(paths)} paths, {paths[0]} first: one video is fitted at a time, or photographs "
            "alone"
        )
    _claim(config, names)
    folder, K = cut_video(paths[0], config.out, config.rate_hz, kind, finder)
    return find_shards([folder]), K


def _claim(config: FitConfig, names: Sequence[str]) -> None:
    """Say in the folder what is written there; UserError where it is of something else."""
    place = Path(config.out) / RECIPE
    keys = {name: value for name, value in flat(config).items() if name not in FREE_KEYS}
    recipe = json.loads(json.dumps({"keys": keys, "shards": sorted(names)}))
    make_folder(config.out, f"out={config.out}")
    try:
        names_there = os.listdir(config.out)
        # Nothing is lost where no shard was fitted before something was found to be wrong.
        if place.exists() and any(name.endswith(REPORT) for name in names_there):
            found = json.loads(place.read_text(encoding="utf-8"))
            _compare(config, found, recipe)
        elif names_there and not place.exists():
            raise UserError(
                f"out={config.out} is not empty and was not made by this command; take another "
                "folder"
            )
        write_file(place, json.dumps(recipe, indent=1))
    except OSError as error:
        raise failure_of(error, f"{place} cannot be used: {explain(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{place} is no recipe of a fit: take another folder") from None


def _compare(config: FitConfig, before: dict, now: dict) -> None:
    for name, new in sorted(now["keys"].items()):
        # A folder of before there was a key has what the key is by default.
        old = before["keys"].get(name, flat(FitConfig()).get(name))
        if old != new:
            raise UserError(
                f"out={config.out} was made with {name}={old}, now it is {new}; take another folder"
            )
    if before["shards"] != now["shards"]:
        raise UserError(
            f"out={config.out} holds fits of {len(before['shards'])} shards, now there are "
            f"{len(now['shards'])} or others; take another folder"
        )


def _read_report(config: FitConfig, path: str) -> Tally | None:
    """The Tally of a shard that was fitted before, or None."""
    place = Path(config.out) / (os.path.basename(path) + REPORT)
    if not place.exists():
        return None
    try:
        return Tally(**json.loads(place.read_text(encoding="utf-8"))["total"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fit_shards(
    config: FitConfig, shards: Sequence[str], todo: Sequence[str], K: np.ndarray | None
) -> Tally:
    """Fit and write the shards that are not there yet.

    Args:
        K: (3, 3) of the images of uncalibrated crops, or None.
    """
    body = open_model(config.body, config.variant)
    rules = Rules(body.kind, config.fit.confidence_min, config.fit.min_points, K)
    stretches, counts = read_stretches(read_shards(shards), rules)
    if counts.few or counts.others:
        log.info(
            "note: %d crops have fewer than %d keypoints of confidence %g (fit.min_points, "
            "fit.confidence_min), %d are no crops of a %s: they are left out",
            counts.few, rules.min_points, rules.confidence_min, counts.others, body.kind,
        )  # fmt: skip
    if config.fit.frozen:
        freeze_people(stretches)
    # Weights that ship are called by the kind of what they recover.
    run = config.run or body.kind
    predictor = None if run == NOBODY else Predictor(run, config.device)
    if predictor is not None:
        predictor.require_mesh("fit")
        if predictor.body.kind != body.kind:
            raise UserError(
                f"run={run} recovers a {predictor.body.kind}, body={config.body} is a "
                f"{body.kind}: name another network, or run={NOBODY}"
            )
    network_body = "" if predictor is None else predictor.body.name
    fitter = Fitter(body, sample_body(body), config.fit, network_body, config.up)
    found: dict[int, Fitted] = {}
    total = Tally()
    for path in todo:
        mine = [one for one in stretches if path in one.shards and id(one) not in found]
        answers = {} if predictor is None else ask_network(predictor, mine)
        found |= _fit_batches(fitter, mine, answers)
        whole = [found[id(one)] for one in stretches if path in one.shards]
        total.add(_write_shard(config, path, whole, fitter))
    return total


def _fit_batches(
    fitter: Fitter, stretches: Sequence[Stretch], answers: dict[int, Answer]
) -> dict[int, Fitted]:
    """{id of a stretch: its bodies}; those of one length side by side."""
    out: dict[int, Fitted] = {}

    with progress.bar(len(stretches), "person", description="fitting") as bar:
        for part in cut_batches(stretches):
            for one in fitter.fit(part, answers):
                out[id(one.stretch)] = one
            bar.update(len(part))
    return out


def _write_shard(config: FitConfig, path: str, whole: Sequence[Fitted], fitter: Fitter) -> Tally:
    """Write one shard and its report."""
    name = os.path.basename(path)
    place = Path(config.out) / name
    tally = Tally()
    shown: dict[str, list[Shown]] = {}
    rows = []
    for fitted in whole:
        fits = fitted.find_instants(config.fit.max_error)
        here = _sort_crops(fitted, fits, path, shown)
        tally.instants += len(here)
        tally.kept += int(fits[here].sum())
        rows.append(_describe(fitted, fits))
    samples = _label_samples(path, shown, fitter, tally)
    first = next(samples, None)
    if first is not None:
        write_samples(str(place), _chain(first, samples))
    report = {"total": asdict(tally), "people": rows}
    try:
        write_file(str(place) + REPORT, json.dumps(report, indent=1))
    except OSError as error:
        raise failure_of(error, f"{place}{REPORT} cannot be written: {explain(error)}") from None
    return tally


def _chain(
    first: tuple[str, dict[str, bytes]], rest: Iterator[tuple[str, dict[str, bytes]]]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    yield first
    yield from rest


def _sort_crops(
    fitted: Fitted, fits: np.ndarray, path: str, shown: dict[str, list[Shown]]
) -> np.ndarray:
    """Put the crops of a shard that fit under their clips' keys; the instants it shows."""
    instants = set()
    for number, view in enumerate(fitted.stretch.views):
        row = int(fitted.instant[number])
        for shard, key, crop in view.places:
            if shard != path:
                continue
            instants.add(row)
            if fits[row]:
                error, px = float(fitted.errors[number]), float(fitted.errors_px[number])
                shown.setdefault(key, []).append(Shown(crop, view, fitted, row, error, px))
    return np.array(sorted(instants), np.int64)


def _describe(fitted: Fitted, fits: np.ndarray) -> dict[str, object]:
    """A row of the report: one person."""
    count = len(fits)
    counted = np.bincount(fitted.instant, minlength=count)
    error = np.bincount(fitted.instant, fitted.errors, count) / counted
    return {
        "person": fitted.stretch.name,
        "cameras": sorted({view.camera for view in fitted.stretch.views}),
        "time_s": fitted.stretch.times_s,
        "error": np.round(error, 5).tolist(),
        "kept": [bool(fit) for fit in fits],
        "shape": np.round(fitted.parameters.shape[0].numpy().astype(float), 4).tolist(),
    }


def _label_samples(
    path: str, shown: dict[str, list[Shown]], fitter: Fitter, tally: Tally
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the clips that have a crop that fits, labelled."""
    for key, members in read_samples(path):
        clip = decode_meta(members["json"], f"{path}:{key}")
        tally.clips_read += 1
        tally.crops_read += len(clip.crops)
        kept = _choose_person(shown.get(key, []))
        if not kept:
            continue
        tally.clips += 1
        tally.crops += len(kept)
        tally.errors += [one.error for one in kept]
        tally.errors_px += [one.error_px for one in kept]
        yield key, label_clip(clip, members, kept, fitter.body)


def _choose_person(shown: Sequence[Shown]) -> list[Shown]:
    """The crops of a clip that are labelled: those of one hand where it shows both."""
    if not shown:
        return []
    owners = [id(one.fitted) for one in shown]
    owner = max(owners, key=owners.count)
    kept = [one for one in shown if id(one.fitted) == owner]
    return sorted(kept, key=lambda one: one.number)


def _print_total(config: FitConfig, total: Tally) -> None:
    print(
        f"wrote {total.clips} of {total.clips_read} clips, {total.crops} of {total.crops_read} "
        f"crops, with labels of {config.body} to {config.out}"
    )
    left_out = total.instants - total.kept
    if total.errors:
        print(
            f"{total.kept} of {total.instants} instants fit: keypoints are "
            f"{np.mean(total.errors):.3f} of the person's size off, "
            f"{np.mean(total.errors_px):.1f} px of the crops; {left_out} are left out "
            f"(fit.max_error={config.fit.max_error:g})"
        )
    else:
        log.warning(
            "nobody fits: of %d instants none has an error below fit.max_error=%g",
            total.instants, config.fit.max_error,
        )  # fmt: skip
