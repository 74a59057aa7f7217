"""What a video holds: each frame that decodes, in the order of display, found by decoding it once.

Headers are not asked how many frames there are nor when: edit lists hide frames, files break off,
and containers without times of display list them in another order.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.stream import Disposition
from av.video.stream import VideoStream

from data.sources.frame_times import NO_PTS, clean_times
from data.sources.upright import Upright, upright_of

# libav's readers of files that hold frames themselves.
_FORMATS = (
    *("mov", "matroska", "avi", "mpeg", "mpegts", "mpegvideo", "mxf", "mxf_opatom", "asf", "flv"),
    *("ogg", "gif", "apng", "ivf", "nut", "dv", "h264", "hevc", "m4v", "mjpeg", "yuv4mpegpipe"),
)
_EVERY = 4  # rows: a frame's mark reads every fourth one
_NOT_SHOWN = 2.5  # frames: a header's duration may be longer by this much before it is said
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273


class Unreadable(Exception):
    """No decoder reads this file; the message says why, without the file's name."""


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Every frame that a video shows, by number.

    Attributes:
        times: (count,) float64 seconds, strictly increasing, the first frame at 0.
        start_s: the first frame's own time on the container's clock.
        pts: (count,) int64 ticks as the decoder gives them, NO_PTS where it gives none.
        marks: (count,) uint32, a checksum of each frame's pixels as decoded from the start.
        keys: numbers of the frames at which decoding may start, increasing.
        width, height: in pixels, as stored.  upright: how they are shown.
        said: what a user should know of this file, in words.
    """

    times: np.ndarray
    start_s: float
    pts: np.ndarray
    marks: np.ndarray
    keys: np.ndarray
    width: int
    height: int
    upright: Upright
    said: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.times)


def open_container(path: str) -> av.container.InputContainer:
    """A video file opened as such: no playlist that names other files, no address of a network.

    Raises:
        av.FFmpegError, OSError: it is none of ``_FORMATS``, or cannot be read.
    """
    limits = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}
    return av.open("file:" + path, options=limits)


def pick_stream(container: av.container.InputContainer) -> VideoStream:
    """The video of a file, decoded by one thread, so that each pass gives the same frames.

    Raises:
        Unreadable: there is none, or a cover image alone.
    """
    moving = [s for s in container.streams.video if Disposition.attached_pic not in s.disposition]
    best = container.streams.best("video")
    stream = best if best in moving else next(iter(moving), None)
    if stream is None:
        kinds = sorted({s.type for s in container.streams})
        raise Unreadable(f"it holds no video, only {' and '.join(kinds) or 'nothing'}")
    if stream.codec_context is None:
        raise Unreadable("its codec is of no kind that PyAV knows")
    stream.codec_context.thread_count = 1
    return stream


def decode_frames(
    container: av.container.InputContainer, stream: VideoStream, faults: list[str]
) -> Iterator[av.VideoFrame]:
    """Yield the frames from where the container stands, in the order of display.

    What cannot be decoded is left out, and why is appended to ``faults``.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            faults.append(describe(error))
            yield from _decode(lambda: stream.codec_context.decode(None), faults)
            return
        if packet is None:
            return
        yield from _decode(packet.decode, faults)


def _decode(step, faults):
    try:
        return step()
    except av.FFmpegError as error:
        if not isinstance(error, av.EOFError):
            faults.append(describe(error))
        return []


def index_video(path: str) -> FrameIndex:
    """The index of a video file, by decoding all of it once.

    Raises:
        Unreadable: it is no video, or its images change their size.
    """
    faults: list[str] = []
    try:
        if os.path.getsize(path) == 0:
            raise Unreadable("it is empty: 0 bytes")
        with open_container(path) as container:
            stream = pick_stream(container)
            return _index(container, stream, faults)
    except (av.FFmpegError, OSError) as error:
        raise Unreadable(f"it is no video that PyAV reads: {describe(error)}") from None


def _index(container, stream, faults):
    pts, marks, keys, broken, first = [], [], [], [], None
    for number, frame in enumerate(decode_frames(container, stream, faults)):
        if first is None:
            first = _look_at(frame)
        if (frame.width, frame.height) != first.size:
            raise Unreadable(
                f"its images change from {first.size[0]}x{first.size[1]} to "
                f"{frame.width}x{frame.height} pixels at frame {number}; cut it there"
            )
        pts.append(pts_of(frame))
        marks.append(mark_of(frame))
        broken.append(frame.is_corrupt)
        if frame.key_frame:
            keys.append(number)
    # A piece that the file's end cuts through gives a frame that was never recorded.
    whole = np.flatnonzero(~np.array(broken, bool))
    if first is None or not len(whole):
        reason = f" ({faults[0]})" if faults else ""
        raise Unreadable(f"not one frame of it can be decoded{reason}")
    count = int(whole[-1]) + 1
    pts, marks = pts[:count], marks[:count]
    tick = float(stream.time_base or 1 / 1000)
    ticks = np.array(pts, np.int64)
    times, said = clean_times(ticks, tick, float(stream.average_rate or 25))
    start_s = float(ticks[0] * tick) if ticks[0] != NO_PTS else 0.0
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        said.append(f"its pixels are {aspect.numerator}:{aspect.denominator}, kept as stored")
    said += first.said + _say_damage(container, stream, times, faults)
    if count > len(whole):
        said.append(f"{count - len(whole)} of its {count} frames are damaged")
    return FrameIndex(
        times=times,
        start_s=start_s,
        pts=ticks,
        marks=np.array(marks, np.uint32),
        keys=np.array([key for key in keys if key < count], np.int64),
        width=first.size[0],
        height=first.size[1],
        upright=first.upright,
        said=tuple(said),
    )


@dataclass
class _First:
    size: tuple[int, int]
    upright: Upright
    said: list[str]


def _look_at(frame):
    """What the first frame says of all."""
    try:
        upright = upright_of(frame)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    said = []
    if frame.color_trc in _HDR:
        said.append(f"it is HDR ({_HDR[frame.color_trc]}); its colours are taken as they are, pale")
    return _First((frame.width, frame.height), upright, said)


def _say_damage(container, stream, times, faults):
    """Say in words what of the file could not be decoded."""
    said = []
    if faults:
        said.append(f"{len(faults)} pieces of it cannot be decoded ({faults[0]})")
    promised, slack = _promised_s(container, stream)
    step = float(times[-1]) / max(len(times) - 1, 1)
    if len(times) > 1 and promised - times[-1] > max(_NOT_SHOWN * step, slack):
        said.append(
            f"it breaks off: its header promises {promised:.2f} s, its {len(times)} frames end at "
            f"{times[-1] + step:.2f} s"
        )
    return said


def _promised_s(container, stream):
    """(seconds of video by the header, what it may err by); sound often lasts a little longer."""
    if stream.duration and stream.time_base:
        promised = float(stream.duration * stream.time_base)
        return promised, 0.02 * promised
    promised = (container.duration or 0) / av.time_base
    return promised, 0.02 * promised if len(container.streams) == 1 else max(1, 0.05 * promised)


def pts_of(frame: av.VideoFrame) -> int:
    """A frame's time in ticks as the decoder gives it, NO_PTS where it gives none."""
    return NO_PTS if frame.pts is None else frame.pts


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a decoded frame as stored, by the colour matrix that it names."""
    return frame.to_ndarray(format="rgb24")


def mark_of(frame: av.VideoFrame) -> int:
    """A checksum of a decoded frame's brightness (the first plane's every fourth row)."""
    plane = frame.planes[0]
    if plane.line_size <= 0:  # stored from the bottom up, as in uncompressed AVI
        return zlib.crc32(to_rgb(frame)[::_EVERY].tobytes())
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return zlib.crc32(rows[::_EVERY, : plane.width].tobytes())


def describe(error: BaseException) -> str:
    """Libav's words, on one line, without its numbers and names of files."""
    words = getattr(error, "strerror", None) or str(error)
    return " ".join(str(words).split())[:120]
