"""Frames drawn with their people and coded as JPEG on a thread of its own; how fast that goes."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.geometry import crop_intrinsics
from finetune.live.capture import Frame
from finetune.live.newest import Newest
from finetune.person import Person, colour
from finetune.video.film import fit_size
from finetune.viz import draw

WAIT_S = 0.5
QUALITY = 85
TEXT = 16  # pixels
WINDOW_S = 3.0  # of which frames a second are counted


@dataclass(frozen=True)
class Answer:
    """A frame with its people, and the number of each, which chooses their colour."""

    frame: Frame
    people: Sequence[Person]
    numbers: Sequence[int]


class Meter:
    """Counts what was shown; read by one thread while another adds."""

    def __init__(self) -> None:
        self._shown: deque[tuple[float, float]] = deque()
        self.count, self._latencies = 0, deque(maxlen=10_000)

    def add(self, taken_s: float) -> None:
        """Note that a frame is shown now that was taken at a time of time.monotonic."""
        now = time.monotonic()
        self.count += 1
        self._shown.append((now, now - taken_s))
        self._latencies.append(now - taken_s)
        while self._shown and self._shown[0][0] < now - WINDOW_S:
            self._shown.popleft()

    def read(self) -> tuple[float, float]:
        """Return (frames a second, seconds behind the camera) of the last WINDOW_S."""
        now = time.monotonic()
        shown = [one for one in tuple(self._shown) if one[0] >= now - WINDOW_S]
        if len(shown) < 2:
            return 0.0, shown[0][1] if shown else 0.0
        rate = (len(shown) - 1) / max(shown[-1][0] - shown[0][0], 1e-6)
        return rate, float(np.median([late for _, late in shown]))

    def median_latency_s(self) -> float:
        """Return the median of all."""
        return float(np.median(self._latencies)) if self._latencies else 0.0


class Drawer:
    """Draws the newest answer.

    Args:
        longest: most pixels of the longer side of what is drawn.

    Attributes:
        jpegs: Newest of bytes.  meter: of what is shown.
        fault: what ended it, or None.
    """

    def __init__(self, answers: Newest[Answer], longest: int) -> None:
        self.jpegs: Newest[bytes] = Newest()
        self.meter = Meter()
        self.fault: Exception | None = None
        self._answers, self._longest = answers, longest
        self._thread = threading.Thread(target=self._run, name="draw", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def stop(self) -> None:
        """End once the answers are closed and the last one is drawn."""
        self._thread.join(10.0)

    def _run(self) -> None:
        taken = 0
        try:
            while True:
                newer = self._answers.take(taken, WAIT_S)
                if newer is None:
                    if self._answers.is_closed:
                        return
                    continue
                taken, answer = newer
                rate, late_s = self.meter.read()
                words = f"{rate:.1f} frames a second, {1000 * late_s:.0f} ms"
                image = draw_answer(answer, self._longest, words)
                _, coded = cv2.imencode(
                    ".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
                )
                self.jpegs.put(coded.tobytes())
                self.meter.add(answer.frame.time_s)
        except Exception as error:  # noqa: BLE001, raised again by who asks for it
            self.fault = error
        finally:
            self.jpegs.close()


def draw_answer(answer: Answer, longest: int, words: str) -> np.ndarray:
    """Return the frame with its people and some words, (H, W, 3) uint8 RGB.

    Args:
        longest: most pixels of its longer side; 0: as the camera.
    """
    height, width = answer.frame.image.shape[:2]
    size = fit_size(width, height, longest)
    image = cv2.resize(answer.frame.image, size, interpolation=cv2.INTER_AREA)
    people = [
        replace(one, intrinsics=crop_intrinsics(one.intrinsics, (0, 0, width, height), size))
        for one in answer.people
    ]
    image = draw.paint(image, people, [colour(number) for number in answer.numbers])
    shown = Image.fromarray(image)
    font = ImageFont.load_default(TEXT)
    ImageDraw.Draw(shown).text((8, 6), words, "white", font, stroke_width=2, stroke_fill="black")
    return np.asarray(shown)
