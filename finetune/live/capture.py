"""The newest frame of a camera, a stream or a video file, read on a thread of its own.

Frames that nobody takes in time are dropped, so that what is shown is never older than what was
just computed. A file is played at its own rate, as if it were a camera.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from engine.errors import EnvironmentFault, UserError
from finetune.live.newest import Newest

OPEN_MS = 10_000  # longest wait for a stream to answer, and then for each of its images
USUAL_HZ = 25.0  # of a file that does not say
MOST_HZ = 1000.0


@dataclass(frozen=True)
class Frame:
    """One image of a camera.

    Attributes:
        number: of the image since the start, those that were dropped counted too.
        time_s: of time.monotonic, when it was taken, or due in a file.
        image: (H, W, 3) uint8 RGB.
    """

    number: int
    time_s: float
    image: np.ndarray


class Capture:
    """Reads a source until it ends or ``stop`` is called.

    Args:
        source: the number of a camera, a URL (rtsp, http), or the path of a video.

    Attributes:
        newest: Newest of Frame; closed when the source has ended.
        fault: why it ended where it should not have, or "".
        size: (width, height) of the images.

    Raises:
        UserError: nothing opens by that name.
    """

    def __init__(self, source: str) -> None:
        self.source, self.fault = source, ""
        self.is_camera = source.isdecimal()
        self.is_stream = "://" in source
        self.newest: Newest[Frame] = Newest()
        self._is_stopped = threading.Event()
        self._video = self._open()
        image = self._read()
        if image is None:
            self._video.release()
            raise UserError(f"camera={source}: it opens and gives no image")
        self.size = image.shape[1], image.shape[0]
        self._first = image
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self, correct: Callable[[np.ndarray], np.ndarray] = lambda image: image) -> None:
        """Begin to read.

        Args:
            correct: what is done to each image, such as to undo its lens.
        """
        self._correct = correct
        self._thread.start()

    def stop(self) -> None:
        """End the reading; a camera that hangs is left to the end of the process."""
        self._is_stopped.set()
        if self._thread.ident is not None:
            self._thread.join(2.0)
        if not self._thread.is_alive():
            self._video.release()

    def _open(self) -> cv2.VideoCapture:
        # OpenCV's and FFmpeg's words are no sentences; what fails is told below.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        if self.is_camera:
            video = cv2.VideoCapture(int(self.source))
            why = "no camera of that number opens; is it plugged in, and free?"
        else:
            waits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC]
            video = cv2.VideoCapture(self.source, cv2.CAP_FFMPEG, [*waits, OPEN_MS])
            why = "nothing answers there" if self.is_stream else "no video opens by that path"
        if not video.isOpened():
            raise UserError(f"camera={self.source}: {why}")
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where the driver obeys: nothing old waits in it
        return video

    def _read(self) -> np.ndarray | None:
        is_there, image = self._video.read()
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if is_there else None

    def _run(self) -> None:
        try:
            self._play() if not (self.is_camera or self.is_stream) else self._watch()
        except cv2.error as error:
            self.fault = f"camera={self.source} fails: {error}"
        finally:
            self.newest.close()

    def _watch(self) -> None:
        """Images as they come."""
        image, number = self._first, 0
        while image is not None and not self._is_stopped.is_set():
            self.newest.put(Frame(number, time.monotonic(), self._correct(image)))
            number += 1
            image = self._read()
        if image is None:
            self.fault = f"camera={self.source} gives no more images after {number}"

    def _play(self) -> None:
        """A file's images when they are due; those that are late are passed over undecoded."""
        told = self._video.get(cv2.CAP_PROP_FPS)
        rate = told if 0 < told <= MOST_HZ else USUAL_HZ
        start, number, image = time.monotonic(), 0, self._first
        while image is not None and not self._is_stopped.wait(
            max(0.0, start + number / rate - time.monotonic())
        ):
            self.newest.put(Frame(number, start + number / rate, self._correct(image)))
            number += 1
            while time.monotonic() > start + (number + 1) / rate and self._video.grab():
                number += 1
            image = self._read()


def require_going(capture: Capture) -> None:
    """Raise the fault of a source that ended too early.

    Raises:
        EnvironmentFault: there is one.
    """
    if capture.fault:
        raise EnvironmentFault(capture.fault)
