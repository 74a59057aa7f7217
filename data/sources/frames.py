"""Frames of a video, behind one small interface.

decord reads most files fastest but leaks memory, crashes when threads share it and cannot read some
VP9 files; PyAV reads those. So a video is opened in a process of its own, by decord where it is
installed and can, else by PyAV.
"""

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence

import av
import numpy as np

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts")


class Unreadable(Exception):
    """No decoder reads this file; the message says why, without the file's name."""


class Frames:
    """A video opened for reading forward.

    Attributes:
        path, decoder: the file and who reads it.
        count: number of frames.  fps: frames a second, the average of the file.  width, height: in
            pixels.
        note: why an earlier decoder could not read it, or nothing.
    """

    def __init__(
        self, path: str, decoder: str, count: int, fps: float, size: tuple[int, int]
    ) -> None:
        self.path, self.decoder, self.count, self.fps = path, decoder, count, fps
        self.width, self.height = size
        self.note = ""

    def read_by(self, decoder: str) -> "Frames":
        """The same video for another decoder."""
        return Frames(self.path, decoder, self.count, self.fps, (self.width, self.height))

    def get(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index, (H, W, 3) uint8 RGB) for increasing ``indices``, decoding the file once.

        Raises:
            Unreadable: the file breaks off or is damaged before the last index.
        """
        wanted = sorted(set(indices))
        read = self._decord if self.decoder == "decord" else self._av
        done = 0
        for index, image in read(wanted):
            yield index, image
            done += 1
        if done < len(wanted):
            raise Unreadable(
                f"frame {wanted[done]} of {self.count} cannot be decoded ({self.decoder})"
            )

    def _decord(self, wanted):
        import decord

        reader = _decord_reader(self.path)
        for index in wanted:
            try:
                image = reader[index].asnumpy()
            except (decord.DECORDError, IndexError):
                return
            yield index, image

    def _av(self, wanted):
        left = iter(wanted)
        target = next(left, None)
        try:
            with av.open(self.path) as container:
                for index, frame in enumerate(container.decode(video=0)):
                    if target is None:
                        return
                    if index == target:
                        yield index, frame.to_ndarray(format="rgb24")
                        target = next(left, None)
        except av.FFmpegError:
            return


def open_video(path: str, decoders: Sequence[str] = ("decord", "av")) -> Frames:
    """The first of ``decoders`` that reads the file's first frame.

    Raises:
        Unreadable: none does.
    """
    reasons = []
    for decoder in decoders:
        if decoder == "decord" and importlib.util.find_spec("decord") is None:
            continue  # it has no wheels outside x86-64 Linux
        try:
            frames = _OPENERS[decoder](path)
        except Unreadable as error:
            reasons.append(f"{decoder}: {error}")
            continue
        frames.note = "; ".join(reasons)
        return frames
    raise Unreadable("; ".join(reasons))


def find_videos(where: str) -> dict[str, str]:
    """{stem: path} of a video file, or of the videos right inside a folder, sorted.

    Raises:
        ValueError: two videos differ in their suffix alone.
        FileNotFoundError: nothing there.
    """
    if os.path.isfile(where):
        paths = [where]
    else:
        paths = [
            os.path.join(where, n)
            for n in sorted(os.listdir(where))
            if n.lower().endswith(VIDEO_SUFFIXES)
        ]
    found = {}
    for path in paths:
        stem = os.path.splitext(os.path.basename(path))[0]
        if stem in found:
            raise ValueError(f"{found[stem]} and {path} have the same name")
        found[stem] = path
    return found


def _decord_reader(path):
    import decord

    decord.logging.set_level(decord.logging.FATAL)
    try:
        return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise Unreadable(_decord_says(error)) from None


def _decord_says(error):
    """Return the words of decord without its source file, line and failed condition."""
    line = " ".join(str(error).split("\n")[0].split())
    return line.split("ERROR ")[-1].split("Check failed: ")[-1][:120]


def _open_decord(path):
    import decord

    reader = _decord_reader(path)
    try:
        first = reader[0].asnumpy()
    except (decord.DECORDError, IndexError) as error:
        raise Unreadable(_decord_says(error)) from None
    return Frames(
        path, "decord", len(reader), float(reader.get_avg_fps()), (first.shape[1], first.shape[0])
    )


def _open_av(path):
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise Unreadable("it holds no video")
            stream = container.streams.video[0]
            rate, count = stream.average_rate, stream.frames
            first = next(container.decode(video=0), None)
            if first is None:
                raise Unreadable("it holds no frames")
            if first.rotation:
                raise Unreadable(
                    f"it is stored rotated by {first.rotation} degrees; re-encode it upright"
                )
        return Frames(
            path,
            "av",
            count or _count_packets(path),
            float(rate or 25),
            (first.width, first.height),
        )
    except (av.FFmpegError, OSError) as error:
        raise Unreadable(" ".join(str(error).split())[:120]) from None


def _count_packets(path):
    """Frames of a file whose header does not say (matroska); reads the file, decodes nothing."""
    with av.open(path) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


_OPENERS = {"decord": _open_decord, "av": _open_av}
