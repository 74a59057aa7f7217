"""``predict`` of a video from end to end: frames a second, each stage's share, memory.

    python -m benchmarks.video video=FILE [people=1,3] [frames=120] [rounds=3] [run=body,hand]
    python -m benchmarks.video video=FILE memory=10000 [run=body]

The first prints wall seconds on one thread (one process that searches, video.threads=false) and by
the usual keys, in turn, and what each stage takes of them. people=3 has the middle of the image
three times beside itself. The second repeats 100 small frames of the video so often, with a box in
each instead of a search, and prints the private memory of the process while it recovers and draws.
"""

import contextlib
import io
import os
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

from benchmarks.options import own_temporary, read_options
from data.sources.frames import Frames, open_video
from engine.errors import UserError
from engine.pipeline import Seconds
from finetune.verb_config import PredictFilesConfig, VideoConfig

# What imports torch is imported where it is used: processes that search import this module first.
if TYPE_CHECKING:
    from finetune.inference.predictor import Predictor

DEFAULTS = {
    "video": "",
    "people": "1,3",
    "frames": "120",
    "rounds": "3",
    "run": "body,hand",
    "memory": "0",
    "data": "",
}
REPEATED = 100  # frames of the long clip that are repeated
SMALL_PX = 192  # longer side of its frames
TOLD = (1000, 2000, 5000, 10_000)  # frames after which the memory is told
POLL_S = 0.2
MODES = {
    "one thread": VideoConfig(threads=False, workers=1),
    "threads": VideoConfig(),
}


def main(argv: Sequence[str]) -> int:
    """Print the tables; returns the exit code."""
    options = read_options(argv, DEFAULTS)
    if not options["video"]:
        raise UserError("video= is not set: name a clip of a person")
    from finetune.inference.predictor import Predictor

    frames = open_video(options["video"])
    folder = Path(options["data"] or own_temporary("counterpose-video"))
    opened = [Predictor(run, "cpu") for run in options["run"].split(",")]
    predictors = {one.body.kind: one for one in opened}
    if options["memory"] != "0":
        measure_memory(frames, int(options["memory"]), folder, predictors)
        return 0
    for people in (int(word) for word in options["people"].split(",")):
        clip = write_clip(folder / f"people{people}.mp4", frames, people, int(options["frames"]))
        measure_speed(clip, people, folder, predictors, int(options["rounds"]))
    return 0


def measure_speed(
    clip: Path, people: int, folder: Path, predictors: dict[str, "Predictor"], rounds: int
) -> None:
    """Print the table of one clip: the rounds of the ways are taken in turn."""
    wall = {name: [] for name in MODES}
    spent: dict[str, list[Seconds]] = {name: [] for name in MODES}
    for _ in range(rounds):
        for name, keys in MODES.items():
            config = PredictFilesConfig(video=keys)
            seconds, took = time_video(clip, folder / "out", config, predictors)
            wall[name].append(took)
            spent[name].append(seconds)
    count = open_video(str(clip)).count
    print(f"\n{people} in {count} frames, medians of {rounds} rounds taken in turn")
    for name, found in wall.items():
        took = float(np.median(found))
        print(f"{name}: {took:.1f} s, {count / took:.2f} frames a second")
    ratio = np.array(wall["one thread"]) / np.array(wall["threads"])
    print(f"ratio of each round: {', '.join(f'{one:.2f}' for one in ratio)}")
    print("stage | ms a frame on one thread | share | ms a frame with threads")
    stages = dict.fromkeys(stage for found in spent.values() for one in found for stage in one)
    medians = {
        name: {stage: float(np.median([one[stage] for one in found])) for stage in stages}
        for name, found in spent.items()
    }
    alone = medians["one thread"]
    for stage, took in alone.items():
        beside = medians["threads"][stage]
        share = took / float(np.median(wall["one thread"]))
        print(f"{stage} | {1000 * took / count:.1f} | {share:.0%} | {1000 * beside / count:.1f}")


def time_video(
    clip: Path, out: Path, config: PredictFilesConfig, predictors: dict[str, "Predictor"]
) -> tuple[Seconds, float]:
    """Return (seconds of each stage, wall seconds) of a clip from nothing to its files."""
    from finetune.inference.image_camera import CameraFinder
    from finetune.video.command import predict_video

    shutil.rmtree(out, ignore_errors=True)
    seconds: Seconds = defaultdict(float)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        predict_video(
            str(clip), replace(config, out=str(out)), predictors, CameraFinder(), seconds=seconds
        )
    return seconds, time.perf_counter() - start


def write_clip(path: Path, frames: Frames, people: int, count: int) -> Path:
    """Write the first frames of a video, of the middle of its image so many times in a row."""
    shown = (image for _, image in frames.get(range(min(count, frames.count))))
    width = frames.width // people // 2 * 2
    left = (frames.width - width) // 2

    def repeat() -> Iterator[np.ndarray]:
        for image in shown:
            yield np.tile(image[:, left : left + width], (1, people, 1))

    write_video(path, repeat(), frames.fps)
    return path


def write_video(path: Path, images: Iterable[np.ndarray], rate: float) -> None:
    """Write (H, W, 3) uint8 images as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = None
        for image in images:
            if stream is None:
                stream = container.add_stream("libx264", Fraction(rate).limit_denominator(1001))
                stream.height, stream.width = (side // 2 * 2 for side in image.shape[:2])
                stream.options = {"crf": "18", "preset": "veryfast"}
            even = np.ascontiguousarray(image[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def measure_memory(
    frames: Frames, count: int, folder: Path, predictors: dict[str, "Predictor"]
) -> None:
    """Print the private memory while a long clip is recovered and drawn."""
    few = frames.get(range(min(REPEATED, frames.count)))
    scale = SMALL_PX / max(frames.width, frames.height)
    size = round(frames.width * scale), round(frames.height * scale)
    small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for _, image in few]
    clip, boxes = folder / "long.mp4", folder / "long.csv"
    write_video(clip, (small[n % len(small)] for n in range(count)), frames.fps)
    whole = f"a,{size[0] // 4},0,{3 * size[0] // 4},{size[1]}"
    rows = [f"long,{frame},{whole}" for frame in range(count)]
    boxes.write_text("\n".join(["video,frame,person,x0,y0,x1,y1", *rows]) + "\n")
    config = PredictFilesConfig(boxes=str(boxes), formats=["npz"])
    with watch_memory(folder / "out" / "long.parts", config.video.stretch):
        _, took = time_video(clip, folder / "out", config, predictors)
    print(f"{count} frames in {took:.0f} s")


@contextlib.contextmanager
def watch_memory(parts: Path, stretch: int) -> Iterator[None]:
    """Print the private memory whenever so many frames are recovered, or drawn, in a block."""
    ended = threading.Event()

    def watch() -> None:
        told: set[tuple[str, int]] = set()
        while not ended.wait(POLL_S):
            for word, pattern in (("recovered", "rows.*.npz"), ("drawn", "film.*.?????.mp4")):
                done = len(list(parts.glob(pattern))) * stretch
                for count in TOLD:
                    if done >= count and (word, count) not in told:
                        told.add((word, count))
                        print(f"{count} {word}: {read_private_mb():.0f} MB", file=sys.stderr)

    thread = threading.Thread(target=watch, name="memory")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        print(f"at the end: {read_private_mb():.0f} MB", file=sys.stderr)


def read_private_mb() -> float:
    """Return the megabytes that are this process's alone (Linux)."""
    lines = Path(f"/proc/{os.getpid()}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
