"""Reading videos: what the index costs, what sparse reads cost, and how often decord is wrong.

    pip install -e '.[bench]' -c constraints.txt
    python -m benchmarks.frames VIDEO ... [every=10]

CPU milliseconds of one thread a frame of the file. A frame of decord counts as another one where it
lies nearer to one of its neighbours than to the frame of that number in the order of display.
"""

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from data.sources.frames import Frames, Unreadable, open_video
from engine.errors import UserError

NEIGHBOURS = 6


def main(argv: Sequence[str]) -> int:
    """Print a line a video; returns the exit code."""
    paths = [word for word in argv if "=" not in word]
    keys = dict(word.split("=", 1) for word in argv if "=" in word)
    every = int(keys.pop("every", 10))
    if keys or not paths:
        raise UserError("usage: python -m benchmarks.frames VIDEO ... [every=10]")
    print("index | PyAV, sought and checked | decord | frames of decord that are others")
    for path in paths:
        try:
            print(f"{path}: {measure_video(path, every)}")
        except Unreadable as error:
            print(f"{path}: {error}")
    return 0


def measure_video(path: str, every: int) -> str:
    """The figures of one video as text."""
    video, index_ms = _timed(lambda: open_video(path), 1)
    wanted = list(range(0, video.count, every))
    images, read_ms = _timed(lambda: [image for _, image in video.get(wanted)], video.count)
    try:
        other, decord_ms = _timed(lambda: _read_by_decord(path, wanted), video.count)
    except Exception as error:  # decord raises what it likes
        reason = " ".join(str(error).split())[:60]
        return f"{index_ms / video.count:.1f} | {read_ms:.1f} | decord: {reason}"
    wrong = _count_others(video, wanted, images, other)
    return (
        f"{index_ms / video.count:.1f} | {read_ms:.1f} | {decord_ms:.1f} | {wrong} of {len(wanted)}"
    )


def _timed(work: Callable, frames: int) -> tuple:
    """(result, CPU milliseconds a frame)."""
    start = time.process_time()
    result = work()
    return result, 1000 * (time.process_time() - start) / frames


def _read_by_decord(path: str, wanted: Sequence[int]) -> list[np.ndarray]:
    import decord

    decord.logging.set_level(decord.logging.FATAL)
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    return [reader[number].asnumpy() for number in wanted]


def _count_others(
    video: Frames, wanted: Sequence[int], images: Sequence[np.ndarray], other: Sequence[np.ndarray]
) -> int:
    wrong = 0
    for number, image, found in zip(wanted, images, other, strict=True):
        if found.shape != image.shape:
            wrong += 1
            continue
        first, last = max(0, number - NEIGHBOURS), min(video.count, number + NEIGHBOURS + 1)
        around = dict(video.get(range(first, last)))
        away = {n: np.abs(found.astype(np.int16) - near).mean() for n, near in around.items()}
        wrong += min(away, key=lambda n: (away[n], abs(n - number))) != number
    return wrong


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
