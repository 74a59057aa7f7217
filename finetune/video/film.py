"""A video with the people on it: written stretch by stretch, joined with the source's sound.

Each frame keeps the time at which the source shows it. Stretches are coded alike, without frames
that depend on later ones, so that joining them copies packets.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from data.sources.frame_index import open_container
from data.sources.frames import Frames
from engine.errors import EnvironmentFault, explain, failure_of
from engine.geometry import crop_intrinsics
from engine.logging.console import get_logger
from engine.run.files import replace_file
from finetune.animation.track import Take
from finetune.person import Person, colour
from finetune.viz import draw
from finetune.viz.confidence import overlay_confidence

TICKS = 90_000  # a second
LONE_S = 0.04  # how long the only frame of a video is shown
CODEC = {"crf": "20", "preset": "veryfast", "bf": "0"}
# What a player of MP4 knows; others are left out.
SOUND = ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac")

log = get_logger(__name__)


def fit_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Return the even width and height of a drawn frame.

    Args:
        longest: most pixels of the longer side; 0: as the source.
    """
    scale = min(1.0, longest / max(width, height)) if longest else 1.0
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def shrink_frames(
    frames: Iterable[tuple[int, np.ndarray]], longest: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, image) of frames whose longer side has at most so many pixels."""
    for number, image in frames:
        height, width = image.shape[:2]
        yield number, shrink_frame(image, fit_size(width, height, longest))


def shrink_frame(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image of some width and height, itself where it has them."""
    if image.shape[1::-1] == size:
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def pose_frame(take: Take, frame: int, size: tuple[int, int]) -> list[Person]:
    """Return the people of a frame, in an image of some width and height; ``track`` is whose."""
    people = []
    K = crop_intrinsics(take.intrinsics, (0, 0, take.width, take.height), size)
    for number, row in take.list_frame(frame):
        person = take.tracks[number].make_person(row, number)
        person.intrinsics = K
        people.append(person)
    return people


def draw_frame(
    image: np.ndarray, people: Sequence[Person], confident: bool, side_by_side: bool
) -> np.ndarray:
    """Return a frame with its people, beside the source where asked for; (H, W, 3) uint8.

    Args:
        image: (H, W, 3) uint8.  people: of ``pose_frame``, for its size.
        confident: coloured by how sure the network is, not by who it is.
    """
    if confident:
        drawn = overlay_confidence(image, people)
    else:
        drawn = draw.paint(image, people, [colour(person.track or 0) for person in people])
    return np.concatenate([image, drawn], 1) if side_by_side else drawn


def write_stretch(
    path: Path, images: Iterable[tuple[int, np.ndarray]], times: np.ndarray, rate: float
) -> None:
    """Write drawn frames as H.264 in MP4, the first at time 0.

    Args:
        images: (number, (H, W, 3) uint8), in order.
        times: (F,) seconds of all frames of the video.  rate: frames a second, for the coder.
    Raises:
        Failure: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as temporary:
            with av.open(str(temporary), "w", format="mp4") as container:
                _encode(container, images, times, rate)
    except av.FFmpegError as error:
        raise EnvironmentFault(f"{path} cannot be coded: {error}") from None
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def _encode(
    container: av.container.OutputContainer,
    images: Iterable[tuple[int, np.ndarray]],
    times: np.ndarray,
    rate: float,
) -> None:
    stream, first = None, 0.0
    for number, image in images:
        if stream is None:
            first = float(times[number])
            stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = image.shape[1], image.shape[0], "yuv420p"
            stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS)
            stream.options = {**CODEC}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = round((float(times[number]) - first) * TICKS)
        frame.time_base = Fraction(1, TICKS)
        container.mux(stream.encode(frame))
    if stream is not None:
        container.mux(stream.encode())


def join_film(
    path: Path, stretches: Sequence[tuple[int, Path]], times: np.ndarray, source: Frames | None
) -> str:
    """Write the stretches as one video, with the sound of its source; returns what was left out.

    Args:
        stretches: (number of the first frame, file), in order.
        times: (F,) seconds of all frames of the video.
        source: whose sound is copied, or None for a silent film.
    Raises:
        Failure: it cannot be written, or a stretch is no longer what was written.
    """
    said = ""
    try:
        with replace_file(path) as temporary:
            with av.open(str(temporary), "w", format="mp4") as out:
                with av.open(str(stretches[0][1])) as first:
                    template = first.streams.video[0]
                    video = out.add_stream_from_template(template)
                video.time_base = Fraction(1, TICKS)
                sound = _Sound(out, source) if source else None
                try:
                    for time_s, packet in _list_packets(stretches, times, video):
                        if sound:
                            sound.copy_until(time_s)
                        out.mux(packet)
                    if sound:
                        sound.copy_until(float(times[-1]) + 1.0)
                        said = sound.said
                finally:
                    if sound:
                        sound.close()
    except av.FFmpegError as error:
        raise EnvironmentFault(f"{path} cannot be joined: {error}") from None
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None
    return said


def _list_packets(
    stretches: Sequence[tuple[int, Path]], times: np.ndarray, video: av.VideoStream
) -> Iterator[tuple[float, av.Packet]]:
    """(seconds, packet) of all stretches at the times of the whole."""
    last_s = float(times[-1]) / (len(times) - 1) if len(times) > 1 else LONE_S
    for first, path in stretches:
        number = first
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                if packet.dts is None:
                    continue
                packet.time_base = Fraction(1, TICKS)
                at = round(float(times[number]) * TICKS)
                end_s = float(times[number + 1]) if number + 1 < len(times) else times[-1] + last_s
                packet.pts = packet.dts = at
                packet.duration = max(1, round(end_s * TICKS) - at)
                packet.stream = video
                yield float(times[number]), packet
                number += 1


class _Sound:
    """The sound of a source, copied as it is beside the pictures.

    Attributes:
        said: why there is none, or "".
    """

    def __init__(self, out: av.container.OutputContainer, source: Frames) -> None:
        self.said, self.stream = "", None
        self.next: tuple[float, av.Packet] | None = None
        self.container = open_container(source.path)
        self.start_s = source.start_s
        audio = next(iter(self.container.streams.audio), None)
        if audio is None:
            return
        if audio.codec_context.name not in SOUND:
            self.said = (
                f"its sound is {audio.codec_context.name}, which MP4 does not carry everywhere: "
                "left out"
            )
            return
        self.stream = out.add_stream_from_template(audio)
        self.packets = (one for one in self.container.demux(audio) if one.dts is not None)
        self.out = out
        self.next = self._take()

    def _take(self) -> tuple[float, av.Packet] | None:
        """(seconds, packet) of the next one that does not begin before the first picture."""
        for packet in self.packets:
            if packet.pts is None or packet.dts is None:
                continue
            shift = round(self.start_s / packet.time_base)
            at = packet.pts - shift
            packet.pts, packet.dts = at, packet.dts - shift
            if at >= 0:
                return float(at * packet.time_base), packet
        return None

    def copy_until(self, time_s: float) -> None:
        """Copy what is heard up to a time."""
        while self.next is not None and self.next[0] <= time_s:
            packet = self.next[1]
            packet.stream = self.stream
            self.out.mux(packet)
            self.next = self._take()

    def close(self) -> None:
        """Let go of the source."""
        self.container.close()
