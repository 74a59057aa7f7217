"""Focal lengths estimated from people, and what they do to metric depth, on synthetic humans.

    python benchmarks/lenses.py shards=DIRS lens=RUN [body=body] [frames=400] [seed=0] [out=PNG]

``shards`` are of people whom nothing was trained on, near and far (docs/cameras.md has the
commands). Each crop of theirs is the image of a camera; ``frames`` photographs of 1, 2 or 3 people
are composed of such crops as one camera of a random lens takes them: scaled to its focal length and
put where their optical axes meet in the middle. So places are known exactly. Keypoints are the true
ones, with a finder's faults.

First table: by how much the focal length is off, and the depth of a person of known size with it:
of the estimate, of the prior alone, of the image's diagonal, and of the constant that would have
been best. Second table, of frames with several people: where the body network puts them with the
true, the estimated and the diagonal focal length. Intervals are 95 %, by bootstrap over frames.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.options import read_options
from data.bodies.base import BodyModel
from data.config import CropDataConfig
from data.cropping.batch import crop_squares
from data.loading.build import open_crop_order
from data.loading.crops import CENTRE_X, SIDE
from data.loading.validation import val_crops
from engine.cli import run
from engine.config.parser import parse
from engine.errors import UserError
from engine.geometry import axis_angle_to_matrix
from finetune.config import FinetuneConfig
from finetune.evaluation.selection import take_all
from finetune.heads.base import pose_body
from finetune.inference.lens import LensReader, combine_crops
from finetune.inference.predictor import Predictor, check_boxes
from finetune.inference.search import Region
from finetune.losses import project_points
from finetune.prompts import make_prompts
from finetune.views import Targets, view

OPTIONS = {"shards": "", "lens": "", "body": "body", "frames": "400", "seed": "0", "out": ""}
CROP = 128  # pixels of the crops, as they are read
FRAME = (1200, 800)
DIAGONAL = math.hypot(*FRAME)
# Focal lengths on 35 mm film (diagonal 43.27 mm), as phones, webcams and cameras have them.
LENSES_MM = (20, 24, 26, 28, 35, 50, 70, 85, 135)
LEAST_PX, MOST_SHARE = (
    90,
    1.25,
)  # of a person's box: its longer side, and that over the frame's height
NEARLY_M = 0.25  # two people whose depths differ by less have no order
DRAWS = 87
TRIES = 4000
DISTANCES_M = ((0, 2.5), (2.5, 5.5), (5.5, 12), (12, 99))
LENS_BINS_MM = ((0, 27), (27, 40), (40, 75), (75, 999))


@dataclass(eq=False)
class Crop:
    """A crop of one person and all that is true of it.

    Attributes:
        pixels: (CROP, CROP, 3) uint8.  K: (3, 3) of it.
        root: (3,) metres, the pelvis in the camera's frame.
        box: (4,) pixels of the crop around the body.  keypoints: (17, 3) likewise, as found.
    """

    pixels: np.ndarray
    K: np.ndarray
    root: np.ndarray
    box: np.ndarray
    keypoints: np.ndarray

    def place(self, focal: float) -> tuple[float, np.ndarray]:
        """(pixels of a frame for one of the crop, (2,) corner in it) of a focal length."""
        scale = focal / self.K[0, 0]
        return scale, np.array(FRAME) / 2 - scale * self.K[:2, 2]


@dataclass(eq=False)
class Frame:
    """A photograph of known people.

    Attributes:
        image: (H, W, 3) uint8.  focal: pixels.  boxes, keypoints, roots: of each person.
    """

    image: np.ndarray
    focal: float
    boxes: np.ndarray
    keypoints: list[np.ndarray]
    roots: np.ndarray


def read_crops(shards: str, body: BodyModel, seed: int) -> list[Crop]:
    """Return all crops of shards."""
    config = str(Path(__file__).parents[1] / "configs/finetune/lens_body.yaml")
    words = [config, f"data.shards={shards}", "run=nowhere", "init=body"]
    data: CropDataConfig = parse(FinetuneConfig, words, "finetune train").data
    order = open_crop_order(data, 1, 0)
    take_all(order)
    arrays = val_crops(order, data, 1_000_000, choice=body.label_choice)
    if arrays is None:
        raise UserError(f"shards={shards} hold no labelled crops")
    random = np.random.default_rng(seed)
    crops: list[Crop] = []
    for first in range(0, len(arrays["tags"]), 64):
        batch = {k: torch.from_numpy(v[first : first + 64]) for k, v in arrays.items()}
        seen = view(batch, CROP)
        labels = {**batch, "pose": axis_angle_to_matrix(batch["pose"])}
        mesh = pose_body(body, Targets(body)(labels, seen))
        u = torch.from_numpy(random.random((len(seen.K), DRAWS), np.float32))
        points = make_prompts(body, mesh, seen.K, CROP, u, 1.0).numpy()
        points[..., :2] = (points[..., :2] + 0.5) * CROP
        flat = project_points(mesh.vertices, seen.K).numpy()
        boxes = np.concatenate([flat.min(1), flat.max(1)], 1).clip(0, CROP)
        sizes = batch["tags"]
        images = _read_images(batch)
        for row in range(len(sizes)):
            K, root = seen.K[row].double().numpy(), mesh.joints[row, 0].double().numpy()
            crops.append(Crop(images[row], K, root, boxes[row].astype(float), points[row]))
    return crops


def _read_images(batch: Mapping[str, torch.Tensor]) -> np.ndarray:
    """(B, CROP, CROP, 3) uint8 of whole crops."""
    boxes = batch["numbers"][:, CENTRE_X : SIDE + 1]
    pixels = batch["pixels"].permute(0, 3, 1, 2).float()
    cut = crop_squares(pixels, boxes, CROP, torch.zeros(len(boxes)))
    return cut.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def compose_frame(crops: Sequence[Crop], count: int, random: np.random.Generator) -> Frame | None:
    """Return a photograph of so many people by one lens; None where too few fit into it."""
    focal = float(random.choice(LENSES_MM)) / 43.27 * DIAGONAL
    chosen: list[tuple[Crop, np.ndarray]] = []
    for number in random.permutation(len(crops))[:TRIES]:
        crop = crops[number]
        scale, corner = crop.place(focal)
        box = crop.box * scale + np.tile(corner, 2)
        high = max(box[2] - box[0], box[3] - box[1])
        inside = np.clip(box, 0, np.tile(FRAME, 2))
        seen = np.prod(inside[2:] - inside[:2]) / max(np.prod(box[2:] - box[:2]), 1)
        if not LEAST_PX <= high <= MOST_SHARE * FRAME[1] or seen < 0.85:
            continue
        if any(_overlap(box, place) for _, place in chosen):
            continue
        chosen.append((crop, box))
        if len(chosen) == count:
            return _paint(chosen, focal)
    return None


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    return bool((high > low).all())


def _paint(chosen: Sequence[tuple[Crop, np.ndarray]], focal: float) -> Frame:
    """The photograph: the nearest crop last, each where nobody else's box is."""
    image = np.empty((FRAME[1], FRAME[0], 3), np.uint8)
    image[:] = np.median(chosen[0][0].pixels.reshape(-1, 3), 0).astype(np.uint8)
    owner = np.zeros(image.shape[:2], np.int32)
    for number, (_, box) in enumerate(chosen, 1):
        x0, y0, x1, y1 = np.clip(box, 0, np.tile(FRAME, 2)).astype(int).tolist()
        owner[y0:y1, x0:x1] = number
    order = sorted(range(len(chosen)), key=lambda n: -chosen[n][0].root[2])
    for number in order:
        crop, _ = chosen[number]
        scale, corner = crop.place(focal)
        # Pixel centres are at +0.5 in both.
        shift = corner + 0.5 * scale - 0.5
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        inter = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        drawn = cv2.warpAffine(crop.pixels, matrix, FRAME, flags=inter)
        shown = cv2.warpAffine(np.full((CROP, CROP), 255, np.uint8), matrix, FRAME)
        put = (shown > 254) & ((owner == 0) | (owner == number + 1))
        image[put] = drawn[put]
    boxes = np.stack([box for _, box in chosen])
    keypoints = []
    for crop, _ in chosen:
        scale, corner = crop.place(focal)
        points = crop.keypoints.copy()
        points[:, :2] = points[:, :2] * scale + corner
        keypoints.append(points)
    roots = np.stack([crop.root for crop, _ in chosen])
    return Frame(image, focal, boxes, keypoints, roots)


def make_intrinsics(focal: float) -> np.ndarray:
    """Return (3, 3) of a frame."""
    return np.array([[focal, 0, FRAME[0] / 2], [0, focal, FRAME[1] / 2], [0, 0, 1]])


@torch.no_grad()
def recover_roots(predictor: Predictor, body: BodyModel, frame: Frame, focal: float) -> np.ndarray:
    """Return (n, 3) metres: where the network puts the people of a frame."""
    size = predictor.config.model.size
    squares, _ = check_boxes(frame.boxes, *FRAME, predictor.config.margin, size)
    flip = torch.zeros(len(squares), dtype=torch.bool)
    images, cameras = predictor.cut_crops(frame.image, make_intrinsics(focal), squares, flip)
    prompts = predictor.place_prompts(frame.keypoints, squares, flip)
    return predictor.model(images, cameras, body, prompts).translation.double().numpy()


def compare_places(found: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """Return (depth error, error of the distance between two people, share of depth orders).

    Metres, means over people and pairs; NaN where no pair has an order.
    """
    depth = np.abs(found[:, 2] - true[:, 2]).mean()
    ways, orders = [], []
    for a in range(len(true)):
        for b in range(a):
            apart = [np.linalg.norm(points[a] - points[b]) for points in (found, true)]
            ways.append(abs(apart[0] - apart[1]))
            before = true[a, 2] - true[b, 2]
            if abs(before) > NEARLY_M:
                orders.append((found[a, 2] - found[b, 2]) * before > 0)
    return float(depth), float(np.mean(ways)), float(np.mean(orders)) if orders else math.nan


def interval(values: np.ndarray, statistic: Callable[[np.ndarray], np.floating] = np.median) -> str:
    """Return "value (low, high)" by bootstrap, values of all rows."""
    values = values[np.isfinite(values)]
    if len(values) < 5:
        return "-"
    random = np.random.default_rng(0)
    draws = [statistic(random.choice(values, len(values))) for _ in range(400)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{statistic(values):.3g} ({low:.3g}, {high:.3g})"


def tell_ratios(rows: Sequence[Mapping[str, float]]) -> None:
    """Print the first table."""
    true = np.array([row["focal"] for row in rows])
    best = float(np.exp(np.median(np.log(true))))
    guesses = {
        "estimated": np.array([row["estimated"] for row in rows]),
        "prior alone": np.full(len(rows), combine_crops([], DIAGONAL).focal_px),
        "diagonal": np.full(len(rows), DIAGONAL),
        "best constant": np.full(len(rows), best),
    }
    depth = np.array([row["depth"] for row in rows])
    people = np.array([row["people"] for row in rows])
    film = true / DIAGONAL * 43.27
    groups = {"all": np.ones(len(rows), bool)}
    groups |= {f"{count} people": people == count for count in (1, 2, 3)}
    groups |= {f"{a}-{b} m": (depth >= a) & (depth < b) for a, b in DISTANCES_M}
    groups |= {f"{a}-{b} mm": (film >= a) & (film < b) for a, b in LENS_BINS_MM}
    print(
        "| frames | n | "
        + " | ".join(f"{name}: off by %, 90 %; depth m" for name in guesses)
        + " |"
    )
    print("|---|---|" + "---|" * len(guesses))
    for name, chosen in groups.items():
        cells = [name, str(chosen.sum())]
        for guess in guesses.values():
            off = 100 * np.expm1(np.abs(np.log(guess / true)))[chosen]
            metres = (np.abs(guess / true - 1) * depth)[chosen]
            if len(off):
                cells.append(
                    f"{interval(off)}, {np.quantile(off, 0.9):.0f}; {np.median(metres):.2f}"
                )
        print("| " + " | ".join(cells) + " |")
    off = np.abs(np.log(guesses["estimated"] / true))
    other = np.abs(np.log(guesses["best constant"] / true))
    print("log ratio, estimated less best constant:", interval(off - other, np.mean))
    sure = np.log([row["factor"] for row in rows])
    print(f"within the factor that is told: {100 * np.mean(off <= sure):.0f} % (68 % wanted)")


def main(words: list[str]) -> int:
    """Print both tables; returns the exit code."""
    options = read_options(words, OPTIONS)
    if not options["shards"] or not options["lens"]:
        raise UserError("shards= and lens= are to be set")
    random = np.random.default_rng(int(options["seed"]))
    reader, predictor = LensReader(options["lens"], "cpu"), Predictor(options["body"], "cpu")
    body = predictor.body.coarse(256)
    crops = read_crops(options["shards"], body, int(options["seed"]))
    rows: list[dict[str, float]] = []
    placed: dict[str, list[tuple[float, float, float]]] = {}
    shown: list[np.ndarray] = []
    for number in range(int(options["frames"])):
        frame = compose_frame(crops, 1 + number % 3, random)
        if frame is None:
            continue
        regions = {
            str(n): Region(box, keypoints=points)
            for n, (box, points) in enumerate(zip(frame.boxes, frame.keypoints, strict=True))
        }
        estimate = combine_crops(reader.read_crops(frame.image, regions), DIAGONAL)
        depth = float(np.median(frame.roots[:, 2]))
        rows.append({"focal": frame.focal, "estimated": estimate.focal_px, "depth": depth})
        rows[-1] |= {"people": float(len(frame.boxes)), "factor": estimate.factor}
        if len(shown) < 6:
            shown.append(cv2.resize(frame.image, None, fx=0.5, fy=0.5))
        if len(frame.boxes) < 2:
            continue
        focals = {"true": frame.focal, "estimated": estimate.focal_px, "diagonal": DIAGONAL}
        for name, focal in focals.items():
            found = recover_roots(predictor, body, frame, focal)
            placed.setdefault(name, []).append(compare_places(found, frame.roots))
    tell_ratios(rows)
    print("\n| focal length | depth off, m | distance between two off, m | depth orders right, % |")
    print("|---|---|---|---|")
    for name, values in placed.items():
        depth, way, order = np.array(values).T
        share = interval(100 * order, np.mean)
        print(f"| {name} | {interval(depth)} | {interval(way)} | {share} |")
    if options["out"]:
        rows_of = [np.concatenate(shown[i : i + 3], 1) for i in (0, 3)]
        Image.fromarray(np.concatenate(rows_of)).save(Path(options["out"]))
    return 0


if __name__ == "__main__":
    run(main)
