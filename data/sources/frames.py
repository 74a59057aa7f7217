"""Frames of a video: a frame's number and the time at which it is shown are one thing.

A video is decoded once in order (``data.sources.frame_index``); what is read later is checked
against that pass, by time and by pixels, so that a seek never gives another frame silently. All
reading is PyAV's. decord's random access gives other frames without a word in files with edit
lists, in MPEG-TS and MPEG-PS and in AVI, and reads no faster.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain, islice

import av
import numpy as np

from data.sources.frame_index import (
    FrameIndex,
    Unreadable,
    decode_frames,
    describe,
    index_video,
    mark_of,
    open_container,
    pick_stream,
    pts_of,
    to_rgb,
)
from data.sources.frame_times import NO_PTS

__all__ = ["Frames", "Unreadable", "open_video"]

_WORTH_A_SEEK = 8  # frames that a seek must save
_FAILURES = 3  # of seeks in one pass, after which a file is decoded in order
_REORDERED = 64  # frames that may come before a key frame that was sought
_KEYS_BACK = (1, 2, 4)  # how many key frames before the wanted one a seek is tried at


class Frames:
    """A video by the numbers of its frames. Small, picklable, holds nothing open.

    Attributes:
        path: the file.  index: what it holds.
        count: number of frames that decode, in the order of display.
        times: (count,) float64 seconds since the first frame, strictly increasing.
        start_s: the first frame's own time on the container's clock.
        width, height: in pixels, of the upright image.
        note: what a user should know of this file, or nothing.
    """

    def __init__(self, path: str, index: FrameIndex) -> None:
        self.path, self.index = path, index
        self.count, self.times, self.start_s = index.count, index.times, index.start_s
        self.width, self.height = index.upright.size(index.width, index.height)
        self.note = "; ".join(index.said)

    @property
    def fps(self) -> float:
        """Frames a second, on average; 25 for a single frame."""
        return (self.count - 1) / float(self.times[-1]) if self.count > 1 else 25.0

    def get(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8 RGB, upright) for the sorted set of ``indices``.

        Sparse numbers are reached by seeking; where a seek does not give the very frames of the
        index, the file is decoded from its start.

        Raises:
            Unreadable: a number outside the video, or the file is no longer what was indexed.
        """
        wanted = sorted(set(indices))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.count:
            outside = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise Unreadable(f"frame {outside} is none of its {self.count} frames")
        if not wanted:
            return
        try:
            with closing(_Reader(self.path, self.index)) as reader:
                for number in wanted:
                    yield number, self.index.upright.apply(to_rgb(reader.read(number)))
        except (av.FFmpegError, OSError) as error:
            raise Unreadable(describe(error)) from None


def open_video(path: str) -> Frames:
    """The frames of a video file, by decoding all of it once.

    Raises:
        Unreadable: it is no video, or not one that can be read.
    """
    return Frames(path, index_video(path))


class _Reader:
    """One pass over a file.

    Attributes:
        next: the number of the frame that the decoder gives next.
        failures: how often seeks have led nowhere; after a few, there are no more of them.
        sought: whether it stands where it does by a seek.
        keys: {time in ticks: number} of the frames at which decoding may start.
    """

    def __init__(self, path: str, index: FrameIndex) -> None:
        self.path, self.index = path, index
        self.failures = 0
        self.keys = {int(index.pts[key]): int(key) for key in index.keys}
        self.container = open_container(path)
        self._start()

    def close(self) -> None:
        """Let go of the file."""
        self.container.close()

    def _start(self):
        """Stand before the first frame."""
        self.sought = False
        self.stream = pick_stream(self.container)
        self.decoded = decode_frames(self.container, self.stream, [])
        self.next = 0

    def read(self, target: int) -> av.VideoFrame:
        """The frame of a number that is not below ``next``.

        Raises:
            Unreadable: the file does not give it, not even from its start.
        """
        may_seek = self.failures < _FAILURES
        if may_seek and self._key_before(target) >= self.next + _WORTH_A_SEEK:
            self._jump(target)
        frame = self._advance(target)
        if frame is None and self.sought:
            self._start_again()
            frame = self._advance(target)
        if frame is None:
            raise Unreadable(
                f"frame {target} is no longer what it was when the file was indexed; it has changed"
            )
        return frame

    def _advance(self, target):
        """The frame ``target``, or None where what is decoded is not what the index says."""
        for frame in self.decoded:
            number = self.next
            self.next += 1
            if number > target or pts_of(frame) != self.index.pts[number]:
                return None
            if number == target:
                return frame if mark_of(frame) == self.index.marks[number] else None
        return None

    def _key_before(self, target, back=1):
        """The last frame up to ``target`` at which decoding may start, or ``back`` - 1 before."""
        keys = self.index.keys
        at = int(np.searchsorted(keys, target, "right")) - back
        return int(keys[at]) if at >= 0 else 0

    def _jump(self, target):
        """Stand before a key frame up to the target; before the first frame where no seek works."""
        tried = -1
        for back in _KEYS_BACK:
            key = self._key_before(target, back)
            if key in (0, tried):
                break
            tried = key
            if self._seek(key, target):
                return
        self._start_again()

    def _seek(self, key, target):
        """Whether decoding now stands before a key frame up to the target.

        Formats without an index (MPEG-TS and -PS) land behind the frame that was sought.
        """
        pts = self.index.pts[key]
        if pts == NO_PTS:
            return False
        self.sought = True
        try:
            self.container.seek(int(pts), stream=self.stream, backward=True)
        except av.FFmpegError:
            return False
        self.decoded = decode_frames(self.container, self.stream, [])
        before = self._key_before(key, _KEYS_BACK[-1] + 1)
        for frame in islice(self.decoded, target - before + _REORDERED):
            number = self.keys.get(pts_of(frame)) if frame.key_frame else None
            if number is not None:
                self.decoded = chain([frame], self.decoded)
                self.next = number
                return number <= target
        return False

    def _start_again(self):
        self.failures += 1
        self.close()
        self.container = open_container(self.path)
        self._start()
