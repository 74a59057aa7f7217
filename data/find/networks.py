"""The four networks as functions of pixels, run by LiteRT on the CPU.

Each takes a square of uint8 RGB of its own size and returns what it says in pixels of that square.
Sizes, channels and anchors are those of the networks' published model cards and graphs (MoveNet
MultiPose; MediaPipe's palm_detection, hand_landmark and pose_landmark).
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.find.models import Network, find_network, read_network
from engine.errors import UserError

PEOPLE_SIDE = 256  # of the square that MoveNet gets; it takes any multiple of 32
MASK_SIDE = 256
PALM_SIDE = 192
HAND_SIDE = 224
KEYPOINTS = 17
PALM_POINTS = 7  # wrist, bases of index, middle, ring and little finger, two of the thumb
# The palm network's grids: (cells along a side, boxes a cell).
PALM_GRIDS = ((PALM_SIDE // 8, 2), (PALM_SIDE // 16, 6))
INSTALL = "pip install -e '.[find]' -c constraints.txt"
RUNTIME_NOTE = "Created TensorFlow Lite XNNPACK delegate"


@dataclass
class FoundPeople:
    """What MoveNet says of a square: N people, best first.

    Attributes:
        scores: (N,) 0 to 1.
        boxes: (N, 4) x0, y0, x1, y1.
        keypoints: (N, 17, 3) x, y, confidence in the order of coco17.
    """

    scores: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray


@dataclass
class FoundPalms:
    """What the palm network says of a square: N palms, best first.

    Attributes:
        scores: (N,) 0 to 1.
        boxes: (N, 4) x0, y0, x1, y1.
        points: (N, 7, 2): wrist, bases of index, middle, ring and little finger, two of the thumb.
    """

    scores: np.ndarray
    boxes: np.ndarray
    points: np.ndarray


class Interpreter:
    """One network, ready to run.

    Args:
        network: of data.find.models.
        threads: of the CPU.
        side: of the square that it gets.

    Raises:
        UserError: LiteRT is not installed; the network is not in the cache.
    """

    def __init__(self, network: Network, threads: int, side: int) -> None:
        content = read_network(network)
        litert = import_litert()
        with _hide_note():
            self._network = litert.Interpreter(model_content=content, num_threads=threads)
            place = self._network.get_input_details()[0]["index"]
            self._network.resize_tensor_input(place, (1, side, side, 3))
            self._network.allocate_tensors()
        self._input = self._network.get_input_details()[0]
        # By name: their places differ between files.
        outputs = self._network.get_output_details()
        self._outputs = {output["name"]: output["index"] for output in outputs}

    def run(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return {name: output} without the axis of the batch.

        Args:
            values: (S, S, 3) of the type that the network takes.
        """
        self._network.set_tensor(self._input["index"], values[None].astype(self._input["dtype"]))
        self._network.invoke()
        return {name: self._network.get_tensor(place)[0] for name, place in self._outputs.items()}


def import_litert() -> Any:
    """Return the module of LiteRT's interpreter.

    Raises:
        UserError: it is not installed; the message says how it is.
    """
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise UserError(f"finding people needs ai-edge-litert ({error}): {INSTALL}") from None
    return interpreter


class PeopleNetwork:
    """MoveNet MultiPose: at most six people, their boxes and keypoints."""

    def __init__(self, threads: int) -> None:
        self._run = Interpreter(find_network("movenet_multipose"), threads, PEOPLE_SIDE).run

    def __call__(self, square: np.ndarray) -> FoundPeople:
        """Return the people in (256, 256, 3) uint8 RGB."""
        (rows,) = self._run(square).values()
        return decode_people(rows, PEOPLE_SIDE)


class MaskNetwork:
    """pose_landmark_full, of which the outline of the person in the middle is taken."""

    def __init__(self, threads: int) -> None:
        self._run = Interpreter(find_network("pose_landmark_full"), threads, MASK_SIDE).run

    def __call__(self, square: np.ndarray) -> np.ndarray:
        """Return (256, 256) float32 in 0 to 1, the person, of (256, 256, 3) uint8 RGB."""
        logits = self._run(_to_unit(square))["Identity_2"][..., 0]
        return squash(logits)


class PalmNetwork:
    """palm_detection_full."""

    def __init__(self, threads: int) -> None:
        self._run = Interpreter(find_network("palm_detection_full"), threads, PALM_SIDE).run
        self._anchors = palm_anchors()

    def __call__(self, square: np.ndarray, least: float) -> FoundPalms:
        """Return the palms of at least a score in (192, 192, 3) uint8 RGB."""
        outputs = self._run(_to_unit(square))
        return decode_palms(outputs["Identity"], outputs["Identity_1"], self._anchors, least)


class HandNetwork:
    """hand_landmark_full."""

    def __init__(self, threads: int) -> None:
        self._run = Interpreter(find_network("hand_landmark_full"), threads, HAND_SIDE).run

    def __call__(self, square: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Return ((21, 2) pixels in the order of hand21, presence, that it is a right hand).

        Both are 0 to 1. The right hand is that of a person in an image that is not mirrored: at
        wrists whose side the body tells, the network agrees (docs/finding.md).

        Args:
            square: (224, 224, 3) uint8 RGB, the fingers pointing up.
        """
        outputs = self._run(_to_unit(square))
        points = outputs["Identity"].reshape(21, 3)[:, :2]
        return points, float(outputs["Identity_1"][0]), float(outputs["Identity_2"][0])


def decode_people(rows: np.ndarray, side: int) -> FoundPeople:
    """Return the people of MoveNet's output.

    Args:
        rows: (6, 56): 17 times y, x, confidence; then y0, x0, y1, x1 and score; all of 0 to 1.
        side: of the square in pixels.
    """
    order = np.argsort(-rows[:, 55], kind="stable")
    rows = rows[order].astype(np.float64)
    points = rows[:, : 3 * KEYPOINTS].reshape(-1, KEYPOINTS, 3)
    keypoints = points[..., [1, 0, 2]] * [side, side, 1]
    return FoundPeople(rows[:, 55], rows[:, [52, 51, 54, 53]] * side, keypoints)


def palm_anchors() -> np.ndarray:
    """Return (2016, 2) x, y of the cells' centres, in 0 to 1, in the order of the output."""
    grids = []
    for cells, boxes in PALM_GRIDS:
        centres = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], 1), boxes, axis=0))
    return np.concatenate(grids)


def decode_palms(
    rows: np.ndarray, logits: np.ndarray, anchors: np.ndarray, least: float
) -> FoundPalms:
    """Return the palms of at least a score, those that a better one covers left out.

    Args:
        rows: (2016, 18) x, y of the centre from its anchor, width, height, then 7 points from the
            anchor, in pixels of the square.
        logits: (2016, 1) of the scores.
    """
    scores = squash(logits[:, 0].astype(np.float64))
    chosen = np.flatnonzero(scores >= least)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    rows = rows[chosen].astype(np.float64)
    middle = anchors[chosen] * PALM_SIDE
    centres, half = rows[:, :2] + middle, rows[:, 2:4] / 2
    boxes = np.concatenate([centres - half, centres + half], 1)
    points = rows[:, 4:].reshape(-1, PALM_POINTS, 2) + middle[:, None]
    kept: list[int] = []
    for i in range(len(chosen)):
        if all(box_overlap(boxes[i], boxes[j]) < 0.3 for j in kept):
            kept.append(i)
    return FoundPalms(scores[chosen][kept], boxes[kept], points[kept])


def box_overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over the union of two boxes; 0 where both are empty."""
    common = box_area(np.concatenate([np.maximum(one, other)[:2], np.minimum(one, other)[2:]]))
    union = box_area(one) + box_area(other) - common
    return common / union if union > 0 else 0.0


def box_area(box: np.ndarray) -> float:
    """Return the area of a box x0, y0, x1, y1, 0 where it is turned inside out."""
    x0, y0, x1, y1 = box.tolist()
    return max(0.0, x1 - x0) * max(0.0, y1 - y0)


def squash(logits: np.ndarray) -> np.ndarray:
    """Return the logistic function of logits, without overflow."""
    return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))


def _to_unit(square: np.ndarray) -> np.ndarray:
    return square.astype(np.float32) / 255


@contextlib.contextmanager
def _hide_note() -> Generator[None]:
    """Drop the line that LiteRT's C++ code writes to stderr at each opening, no other."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        usual = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(usual, 2)
            os.close(usual)
        caught.seek(0)
        lines = caught.read().decode(errors="replace").splitlines(True)
    sys.stderr.write("".join(line for line in lines if RUNTIME_NOTE not in line))
