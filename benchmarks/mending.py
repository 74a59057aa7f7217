"""Per frame, the one-euro filter, a motion module: on videos whose truth is known, and on others.

    python benchmarks/mending.py module=RUN [rendered=DIR found=DIR] [takes=FILE,FILE]
        [fits=DIR,DIR] [hz=1] [rise=4]

``rendered`` holds what benchmarks/rendered_videos.py wrote, ``found`` what
``predict ... video.smooth=none formats=npz`` said of those videos. ``takes`` are such NPZ files of
real videos; ``fits``, one for each, folders of shards that ``counterpose fit`` wrote of the same
seconds, from several cameras, "" where there is none. Nothing here is tuned.

MPJPE and the acceleration error are about the root, of 16 joints, on the frames in which somebody
was seen. Below, 0.32 s of every second are taken away, and what is put there is measured: the line
between the filtered neighbours, or the module; then the 0.2 s after a stretch.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import torch

from benchmarks.options import read_options
from benchmarks.smoothing import JOINTS
from data.bodies.anny_layout import ANNY
from data.bodies.base import BodyModel
from data.bodies.models import open_model
from data.format.clip import decode_meta
from data.format.label_files import load_arrays
from data.format.samples import read_samples
from engine.cli import run
from engine.geometry import similarity_align
from finetune.animation.track import ROWS, Track
from finetune.evaluation.scoring.errors import acceleration_errors
from finetune.temporal.mend import foretell_track, mend_track
from finetune.temporal.module_file import MotionModule, locate_module
from finetune.temporal.one_euro import Cutoff
from finetune.temporal.smooth import smooth_track

OPTIONS = {
    "module": "",
    "rendered": "",
    "found": "",
    "takes": "",
    "fits": "",
    "hz": "1",
    "rise": "4",
}
CHOSEN = [ANNY.joint_names.index(name) for name in JOINTS]
FEET = [JOINTS.index(name) for name in ("foot.L", "foot.R")]
GAP_S, EVERY_S, AHEAD_S = 0.32, 1.0, 0.2
NEAR_S = 0.02  # between a frame and the instant of a fit
Way = Callable[[Track, np.ndarray], Track]  # a track and the video's times; smoothed


@dataclass(eq=False)
class Known:
    """A track and what is true of it.

    Attributes:
        track: as the network saw it.  times: (F,) of the video.
        joints: (F, 16, 3) metres in the camera's frame.
    """

    track: Track
    times: np.ndarray
    joints: np.ndarray


def main(argv: list[str]) -> None:
    """Print the tables; returns nothing."""
    options = read_options(argv, OPTIONS)
    body = open_model("anny").coarse(64)
    module = locate_module(options["module"], "module")
    cutoff = Cutoff(float(options["hz"]), float(options["rise"]))
    ways = list_ways(module, cutoff)
    if options["rendered"]:
        known = list(read_rendered(Path(options["rendered"]), Path(options["found"]), body))
        print_known(known, ways)
        print_gaps(known, ways, module)
    fits = options["fits"].split(",") if options["fits"] else []
    for number, path in enumerate(options["takes"].split(",") if options["takes"] else []):
        track, times = read_track(Path(path), body)
        print_take(path, track, times, ways)
        if number < len(fits) and fits[number]:
            print_fit(fits[number], Path(path).stem, track, times, ways)


def list_ways(module: MotionModule, cutoff: Cutoff) -> dict[str, Way]:
    """Return {name: what smooths a track}."""

    def leave(track: Track, times: np.ndarray) -> Track:
        return track

    def filter_it(track: Track, times: np.ndarray) -> Track:
        return smooth_track(track, cutoff)

    def mend(track: Track, times: np.ndarray) -> Track:
        return mend_track(track, times, module, cutoff, 0.5)

    return {
        "per frame": leave,
        f"one-euro, {cutoff.least_hz:g} Hz, {cutoff.rise:g}": filter_it,
        "learned": mend,
    }


def read_track(path: Path, body: BodyModel) -> tuple[Track, np.ndarray]:
    """Return the longest track of a body in an NPZ file of predict, and the video's times."""
    with np.load(path) as file:
        about = json.loads(str(file["about"]))
        names = [one["name"] for one in about["tracks"] if one["kind"] == "body"]
        # The longest track; of several that long the largest person.
        sizes = {name: np.ptp(file[f"{name}/box"][:, [1, 3]], 1).mean() for name in names}
        name = max(names, key=lambda name: (len(file[f"{name}/frames"]), sizes[name]))
        keys = ("frames", "times", "pose", "shape", "translation", "confidence", "box", "hands")
        arrays: dict[str, Any] = {key: file[f"{name}/{key}"] for key in keys}
        track = Track(name=name, kind="body", body=body, intrinsics=file["intrinsics"], **arrays)
        return track, file["times"]


def read_rendered(rendered: Path, found: Path, body: BodyModel) -> Iterator[Known]:
    """Yield the videos in which somebody was found."""
    for path in sorted(rendered.glob("*.truth.npz")):
        stem = path.name.removesuffix(".truth.npz")
        if (found / f"{stem}.npz").exists():
            track, times = read_track(found / f"{stem}.npz", body)
            with np.load(path) as truth:
                yield Known(track, times, truth["joints"][:, CHOSEN])


def find_joints(track: Track) -> np.ndarray:
    """Return (T, 16, 3) metres."""
    return track.skeleton[0][:, CHOSEN].astype(np.float64)


def pick_frames(track: Track, frames: np.ndarray) -> np.ndarray:
    """Return (n, 16, 3) joints of some of a track's frames."""
    return find_joints(track)[np.searchsorted(track.frames, frames)]


def measure(found: np.ndarray, true: np.ndarray, frames: np.ndarray) -> list[float]:
    """MPJPE, PA-MPJPE (mm), acceleration error about the root, in the camera (mm/frame^2)."""
    a, b = found - found[:, :1], true - true[:, :1]
    moved = similarity_align(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    runs = np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) > 1) + 1)
    second = [
        np.concatenate([acceleration_errors(x[rows], y[rows], None) for rows in runs]).mean()
        for x, y in ((a, b), (found, true))
    ]
    values = [np.linalg.norm(x - b, axis=-1).mean() for x in (a, moved)]
    return [1000 * float(value) for value in (*values, *second)]


def print_known(known: Sequence[Known], ways: dict[str, Way]) -> None:
    """Print means over videos, and how many of them the module makes better than the filter."""
    print(f"{len(known)} videos, {sum(len(one.track) for one in known)} frames")
    print("| | MPJPE | PA-MPJPE | acceleration error | in the camera |")
    rows = []
    for name, way in ways.items():
        values = []
        for one in known:
            frames = one.track.frames
            found = pick_frames(way(one.track, one.times), frames)
            values.append(measure(found, one.joints[frames], frames))
        rows.append(np.array(values))
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in rows[-1].mean(0)) + " |")
    better = (rows[-1] < rows[-2]).sum(0)
    print(f"learned is better than the filter in {better.tolist()} of {len(known)} videos\n")


def print_gaps(known: Sequence[Known], ways: dict[str, Way], module: MotionModule) -> None:
    """Print MPJPE in frames that were taken away, and in those after a stretch's end."""
    filter_it, mend = list(ways.values())[1:]
    sums: dict[str, list[float]] = {}

    def add(name: str, found: np.ndarray, true: np.ndarray) -> None:
        apart = (found - found[:, :1]) - (true - true[:, :1])
        sums.setdefault(name, []).extend(1000 * np.linalg.norm(apart, axis=-1).mean(-1))

    for one in known:
        track, times = one.track, one.times
        since = (track.times - track.times[0]) % EVERY_S
        gone = (since > EVERY_S / 2) & (since <= EVERY_S / 2 + GAP_S)
        gone &= track.times < track.times[-1] - 0.1
        kept, frames = take_rows(track, ~gone), track.frames[gone]
        if not len(frames):
            continue
        true = one.joints[frames]
        add(
            "gaps: between the filtered neighbours",
            interpolate(filter_it(kept, times), frames, times),
            true,
        )
        add("gaps: learned", pick_frames(mend(kept, times), frames), true)
        add("gaps: seen and filtered", pick_frames(filter_it(track, times), frames), true)
        before = track.times < track.times[-1] - AHEAD_S
        after = track.frames[~before]
        start = take_rows(track, before)
        told = foretell_track(start, after, times[after], module)
        add("ahead: learned", find_joints(told), one.joints[after])
        last = find_joints(filter_it(start, times))[-1:]
        add("ahead: the last filtered frame", np.repeat(last, len(after), 0), one.joints[after])
    for name, values in sums.items():
        print(f"| {name} | {np.mean(values):.1f} |")
    print()


def take_rows(track: Track, rows: np.ndarray) -> Track:
    """Some rows of a track."""
    names = [name for name in ROWS if getattr(track, name) is not None]
    arrays: dict[str, Any] = {name: getattr(track, name)[rows] for name in names}
    return replace(track, **arrays)


def interpolate(track: Track, frames: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(n, 16, 3) joints on the line between a track's neighbours in time."""
    joints = find_joints(track)
    flat = joints.reshape(len(joints), -1)
    values = [np.interp(times[frames], track.times, column) for column in flat.T]
    return np.stack(values, 1).reshape(len(frames), -1, 3)


def print_take(path: str, track: Track, times: np.ndarray, ways: dict[str, Way]) -> None:
    """Print how a real take trembles, and how far joints moved from where the network saw them."""
    print(f"{path}: {len(track)} frames")
    print("| | acceleration about the root, mm/frame^2 | moved, px: mean, feet at their fastest |")
    seen, K = find_joints(track), track.intrinsics
    flat = _project(seen, K)
    speed = np.linalg.norm(np.diff(flat[:, FEET], axis=0, prepend=flat[:1, FEET]), axis=-1)
    fastest = speed >= np.quantile(speed, 0.95)
    for name, way in ways.items():
        found = pick_frames(way(track, times), track.frames)
        about = found - found[:, :1]
        shakes = 1000 * acceleration_errors(about, np.zeros_like(about), None).mean()
        moved = np.linalg.norm(_project(found, K) - flat, axis=-1)
        print(
            f"| {name} | {shakes:.1f} | {moved.mean():.1f}, {moved[:, FEET][fastest].mean():.1f} |"
        )
    print()


def _project(points: np.ndarray, K: np.ndarray) -> np.ndarray:
    return points[..., :2] / points[..., 2:] * K[[0, 1], [0, 1]] + K[:2, 2]


def print_fit(
    folder: str, camera: str, track: Track, times: np.ndarray, ways: dict[str, Way]
) -> None:
    """Print errors against a fit from several cameras, at the instants that it has."""
    at, true = read_fit(folder, camera)
    frames, chosen = [], []
    for number, time in enumerate(at):
        nearest = int(np.abs(track.times - time).argmin())
        if abs(track.times[nearest] - time) < NEAR_S:
            frames.append(track.frames[nearest])
            chosen.append(number)
    rows, wanted = np.array(frames), true[chosen]
    print(f"against the fit in {folder}: {len(rows)} instants")
    print("| | MPJPE | PA-MPJPE |")
    for name, way in ways.items():
        found = pick_frames(way(track, times), rows)
        values = measure(found, wanted, np.arange(len(rows)))[:2]
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")
    print()


def read_fit(folder: str, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) seconds and (n, 16, 3) joints in a camera's frame of fitted shards."""
    found: dict[float, np.ndarray] = {}
    for path in sorted(Path(folder).glob("*.tar")):
        for key, members in read_samples(str(path)):
            clip = decode_meta(members["json"], f"{path}:{key}")
            labels = load_arrays(members["labels.npz"])
            for number, crop in enumerate(clip.crops):
                if crop.camera == camera and crop.Rt is not None:
                    world = labels["joints"][labels["instant"][number]][CHOSEN]
                    Rt = np.asarray(crop.Rt)
                    found[crop.time_s] = world @ Rt[:, :3].T + Rt[:, 3]
    times = sorted(found)
    return np.array(times), np.stack([found[time] for time in times])


if __name__ == "__main__":
    run(main)
