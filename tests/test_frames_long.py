"""Frames and times beside ffmpeg's own, over containers, codecs, key frames, B-frames and edits."""

import itertools
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from drawn_videos import SIDE, read_number, trim, turn, write

from data.sources.frames import open_video

pytestmark = pytest.mark.long
CONTAINERS = {
    "mp4": ("libx264", "libx265", "mpeg4", "mpeg2video", "libvpx-vp9", "libsvtav1"),
    "mov": ("libx264", "mpeg4", "mjpeg"),
    "mkv": ("libx264", "libx265", "mpeg2video", "libvpx", "ffv1"),
    "webm": ("libvpx", "libvpx-vp9"),
    "avi": ("libx264", "mpeg4", "mpeg2video", "mjpeg", "ffv1"),
    "mpg": ("mpeg2video",),
    "mts": ("libx264", "mpeg2video"),
    "ts": ("libx264", "libx265", "mpeg2video"),
    "flv": ("libx264",),
}
REORDERING = {"libx264", "libx265", "mpeg4", "mpeg2video"}
CASES = [
    (suffix, codec, gop, between)
    for suffix, codecs in CONTAINERS.items()
    for codec, gop in itertools.product(codecs, (1, 12, 250))
    if gop > 1 or codec != "libsvtav1"
    for between in ((0, 2) if codec in REORDERING and gop > 1 else (0,))
]
OPTIONS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx": {"cpu-used": "8"},
    "libvpx-vp9": {"cpu-used": "8"},
    "libsvtav1": {"preset": "8", "crf": "20", "svtav1-params": "lp=1"},
}
PIXELS = {"mjpeg": "yuvj420p"}
COUNT = 70


def make(path: Path, codec: str, gop: int, between: int) -> Path:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    pixels = PIXELS.get(codec, "yuv420p")
    return write(
        path, COUNT, codec, gop=gop, between=between, pixels=pixels, **OPTIONS.get(codec, {})
    )


def check(path: Path, first: int, count: int, late: float = 0.0) -> None:
    video = open_video(str(path))
    assert video.count == count
    np.testing.assert_allclose(video.times, np.arange(count) / 25, atol=0.0011 + late)
    random = np.random.default_rng(count)
    some = [sorted(random.choice(count, 5, False).tolist()) for _ in range(6)]
    for wanted in ([*range(count)], [count - 1], *some):
        numbers = [read_number(image) for _, image in video.get(wanted)]
        assert numbers == [first + number for number in wanted]


@pytest.mark.parametrize(("suffix", "codec", "gop", "between"), CASES)
def test_every_frame_of_every_container(tmp_path, suffix, codec, gop, between):
    # libav's own writer of MPEG-PS leaves a gap of a frame in the times where all are key frames.
    late = 0.04 if (suffix, gop) == ("mpg", 1) else 0.0
    check(make(tmp_path / f"a.{suffix}", codec, gop, between), 0, COUNT, late)


@pytest.mark.parametrize("hidden", [1, 12, 13, 31])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_every_frame_behind_an_edit_list(tmp_path, codec, hidden):
    check(trim(make(tmp_path / "a.mp4", codec, 12, 2), hidden), hidden, COUNT - hidden)


@pytest.fixture(scope="session")
def ffmpeg():
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("there is no ffmpeg program")
    return program


def run(program: str, path: Path, *words: str) -> bytes:
    command = [program, "-v", "error", "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough"]
    return subprocess.run([*command, *words, "-"], check=True, capture_output=True).stdout


def read_times(program: str, path: Path) -> np.ndarray:
    """Seconds of ffmpeg's frames, from the first."""
    text = run(program, path, "-enc_time_base", "demux", "-c:v", "rawvideo", "-f", "framecrc")
    lines = text.decode().splitlines()
    tick = next(Fraction(line.split()[-1]) for line in lines if line.startswith("#tb"))
    ticks = np.array([int(line.split(",")[2]) for line in lines if not line.startswith("#")])
    return (ticks - ticks[0]) * float(tick)


@pytest.mark.parametrize("case", ["mp4", "trimmed", "mkv", "webm", "mts", "mpg", "uneven"])
def test_the_frames_are_those_of_ffmpeg(tmp_path, ffmpeg, case):
    path = tmp_path / f"a.{'mp4' if case in ('trimmed', 'uneven') else case}"
    codec = {"webm": "libvpx-vp9", "mpg": "mpeg2video"}.get(case, "libx264")
    uneven = np.cumsum([0] + [40 if i % 5 else 180 for i in range(49)])
    at = (lambda i: int(uneven[i])) if case == "uneven" else None
    write(path, 50, codec, between=0 if case == "webm" else 2, at=at, **OPTIONS.get(codec, {}))
    if case == "trimmed":
        trim(path, 20)
    video = open_video(str(path))
    theirs = np.frombuffer(run(ffmpeg, path, "-f", "rawvideo", "-pix_fmt", "rgb24"), np.uint8)
    theirs = theirs.reshape(-1, SIDE, SIDE, 3)
    assert video.count == len(theirs)
    for number, image in video.get(range(video.count)):
        assert np.abs(image.astype(int) - theirs[number]).mean() < 3
        assert read_number(image) == read_number(theirs[number])
    np.testing.assert_allclose(video.times, read_times(ffmpeg, path), atol=0.0011)


@pytest.mark.parametrize(
    "matrix",
    [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)],
)
def test_turns_are_those_of_ffmpeg(tmp_path, ffmpeg, matrix):
    path = turn(write(tmp_path / "a.mp4", 3), matrix)
    theirs = np.frombuffer(run(ffmpeg, path, "-f", "rawvideo", "-pix_fmt", "rgb24"), np.uint8)
    theirs = theirs.reshape(3, SIDE, SIDE, 3)
    for number, image in open_video(str(path)).get(range(3)):
        assert np.abs(image.astype(int) - theirs[number]).mean() < 3
