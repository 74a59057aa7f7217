"""``python -m finetune predict``: meshes of the people, or hands, in images."""

import math
import os
import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from data.bodies.models import open_model
from data.format.clip import KINDS
from data.loading.augment import normalise
from data.loading.border import BLACK
from data.sources.tables import rows
from engine.checkpoint import checkpoints
from engine.config.parser import key, parse, parse_keys
from engine.distributed import process_group
from engine.errors import Failure, UserError, explain, failure_of
from engine.geometry import crop_intrinsics
from engine.logging import progress
from finetune import draw, export
from finetune.config import FinetuneConfig
from finetune.model import Recovery
from finetune.people import make_people
from finetune.views import mirrored_camera
from pretrain import header
from pretrain.files import check_finite, read_metadata

USAGE = "python -m finetune predict run=DIR out=DIR IMAGE ... [boxes=FILE] [intrinsics=fx,fy,cx,cy] [side=right|left]"
COLUMNS = ("image", "x0", "y0", "x1", "y1")
BATCH = 32
MOST_OUTSIDE = 10  # a box's side over the image's: more is a mistake, and would not fit into memory
# What Pillow raises for files that are broken, depending on their format.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    EOFError,
    IndexError,
    TypeError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass
class PredictConfig:
    run: str = key("", "a fine-tuning run, or one of its checkpoints", path="one")
    out: str = key("", "folder for overlays, meshes and numbers", path="one")
    boxes: str = key(
        "",
        "CSV or JSON with image,x0,y0,x1,y1 and perhaps side, a row a person; default: the whole "
        "image",
        path="one",
    )
    intrinsics: list[float] = key(
        [], "fx,fy,cx,cy of the images in pixels; default: the focal length is the diagonal"
    )
    side: str = key(
        "right",
        "which hands are looked for where boxes= does not say (runs on hands)",
        choices=("right", "left"),
    )
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))


class Predictor:
    """A trained network with its body model.

        people = load(run)(image)

    Args:
        run: a run's folder, or one of its checkpoints.  device: "auto", "cpu" or "cuda".  name: of
            the key, for messages.
    Raises:
        UserError: there is no such run, or it has no whole checkpoint.
    """

    def __init__(self, run, device="auto", name="run"):
        folder, weights = _find(Path(run), name)
        self.folder, self.checkpoint = folder, weights
        self.config = parse(FinetuneConfig, [str(folder / "config.yaml")], "finetune train")
        self.device = process_group.device_of(device)
        self.body = open_model(self.config.body_model).to(self.device)
        with torch.random.fork_rng(devices=[]):
            model = Recovery(self.config.model, self.config.head, self.body)
        header.check_roles(
            read_metadata(weights / "model.safetensors"), model.roles, weights / "model.safetensors"
        )
        self.step = checkpoints.load_model(weights, model)
        check_finite(model.state_dict(), weights / "model.safetensors")
        self.model = model.eval().to(self.device)

    def __call__(self, image, boxes=None, intrinsics=None, sides=None):
        """The finetune.person.Person of each box, in the order of the boxes.

        Args:
            image: (H, W, 3) uint8 RGB, a PIL image or a path.
            boxes: (n, 4) x0, y0, x1, y1 in pixels around each person or hand; None: the whole
                image is one.
            intrinsics: (3, 3) of the image, first pixel's centre at (0.5, 0.5); None: the focal
                length is taken to be the image's diagonal (as CLIFF does, ECCV 2022), so depths
                are a guess.
            sides: n of "left" or "right", for runs on hands; None: right.
        Raises:
            UserError: an image that cannot be read, a box that lies outside of it, intrinsics that
                are none.
        """
        pixels = read_image(image)
        height, width = pixels.shape[:2]
        K = _intrinsics(intrinsics, width, height)
        squares, boxes = _squares(boxes, width, height, self.config.margin)
        sides = ["right"] * len(boxes) if sides is None else list(sides)
        if len(sides) != len(boxes) or set(sides) - {"left", "right"}:
            raise UserError(f"sides={sides} for {len(boxes)} boxes: each is 'left' or 'right'")
        hand = self.body.kind == "hand"
        kinds = [f"{side}_hand" if hand else KINDS[0] for side in sides]
        flip = torch.tensor([hand and side == "left" for side in sides], device=self.device)
        out = []
        for i in range(0, len(boxes), BATCH):
            found = self._recover(pixels, K, squares[i : i + BATCH], flip[i : i + BATCH])
            whole = (
                torch.from_numpy(K)
                .float()
                .to(self.device)
                .expand(len(squares[i : i + BATCH]), 3, 3)
            )
            out += make_people(
                found,
                flip[i : i + BATCH],
                self.body,
                whole,
                boxes[i : i + BATCH],
                kinds[i : i + BATCH],
            )
        return out

    @torch.no_grad()
    def _recover(self, pixels, K, squares, flip):
        size = self.config.model.image_size
        images = torch.from_numpy(np.stack([cut(pixels, square, size) for square in squares])).to(
            self.device
        )
        images = normalise(images.permute(0, 3, 1, 2).float().div_(255))
        cameras = np.stack([crop_intrinsics(K, square, (size, size)) for square in squares])
        cameras = mirrored_camera(torch.from_numpy(cameras).float().to(self.device), flip, size)
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        return self.model(images, cameras, self.body)


def load(run, device="auto"):
    """A Predictor; see there."""
    return Predictor(run, device)


def read_image(image):
    """(H, W, 3) uint8 RGB of an array, a PIL image or a path; a photograph's orientation tag is
    obeyed.

    Raises:
        UserError: the file is missing or broken; pixels that are no bytes.
    """
    name = f"image {image}" if isinstance(image, (str, os.PathLike)) else "the image"
    try:
        if isinstance(image, (str, os.PathLike)):
            with Image.open(image) as opened:
                image = _rgb(opened)
        elif isinstance(image, Image.Image):
            image = _rgb(image)
    except FileNotFoundError:
        raise UserError(f"{name} does not exist") from None
    except UnidentifiedImageError:
        raise UserError(f"{name} is of no format that is known") from None
    except BROKEN as error:
        words = (
            getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        )
        raise UserError(f"{name} cannot be read: {words}") from None
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UserError(
            f"an image is (H, W, 3) uint8 RGB, this one is {pixels.shape} {pixels.dtype}"
        )
    return np.ascontiguousarray(pixels)


def _rgb(image):
    """(H, W, 3) uint8 of a PIL image, upright."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError(
            "its pixels are floating-point numbers, whose white nobody knows; save it with 8 or 16 "
            "bits"
        )
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("RGB"))
    # 16 bits of grey: Pillow would cut them off at 255.
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError(f"its greys span {grey.min()} to {grey.max()}; at most 16 bits are read")
    return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, 2)


def cut(pixels, square, size):
    """(size, size, 3) uint8 of a square of an image, averaged; what lies outside of the image is
    black."""
    x0, y0, x1, y1 = square
    factor = max(1, int((x1 - x0) // size))
    (columns, left), (lines, top) = (
        _blocks(*ends, length, factor)
        for ends, length in (((x0, x1), pixels.shape[1]), ((y0, y1), pixels.shape[0]))
    )
    part = _pixels_at(pixels, lines, columns)
    # Whole pixels are averaged first, then the rest of the way is a shift and a small scale.
    if factor > 1:
        part = cv2.resize(
            part, (len(columns) // factor, len(lines) // factor), interpolation=cv2.INTER_AREA
        )
    scale = factor * size / (x1 - x0)
    # OpenCV counts pixel centres from 0.
    shift = [
        (start - edge) / factor * scale + 0.5 * scale - 0.5
        for start, edge in ((left, x0), (top, y0))
    ]
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(
        part,
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=BLACK,
    )


def _pixels_at(pixels, lines, columns):
    """The pixels at (n,) lines and (m,) columns, of which some may lie outside: (n, m, 3) uint8."""
    height, width = pixels.shape[:2]
    part = pixels[lines.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
    part[(lines < 0) | (lines >= height)] = BLACK
    part[:, (columns < 0) | (columns >= width)] = BLACK
    return part


def _blocks(start, stop, length, factor):
    """Which pixels make up blocks of ``factor`` that cover start to stop, and where the first
    begins.

    There is a block more at either end, for interpolation looks half a block further. Of what lies
    outside of the image's ``length`` pixels one block is enough: warpAffine takes what is beyond
    for black too.
    """
    first = math.floor(start) - factor
    skipped = max(0, -first // factor - 1)
    count = min(math.ceil((stop - first) / factor) + 1, math.ceil((length - first) / factor) + 1)
    low = first + skipped * factor
    return np.arange(low, low + max(1, count - skipped) * factor), low


def _squares(boxes, width, height, margin):
    """(squares to cut, boxes) of boxes or None, checked."""
    if boxes is None:
        side, box = max(width, height), np.array([[0, 0, width, height]], np.float64)
        return [_square(box[0], side)], box
    try:
        boxes = np.asarray(boxes, np.float64)
        if boxes.ndim != 2 or boxes.shape[1:] != (4,) or not np.isfinite(boxes).all():
            raise ValueError
    except (ValueError, TypeError):
        raise UserError(f"boxes are (n, 4) finite numbers x0, y0, x1, y1, not {boxes}") from None
    for box in boxes:
        if (
            box[2] - box[0] < 1
            or box[3] - box[1] < 1
            or box[0] >= width
            or box[1] >= height
            or box[2] <= 0
            or box[3] <= 0
        ):
            raise UserError(
                f"the box {box.round(1).tolist()} has no area in the image of {width} x {height}"
            )
        if max(box[2] - box[0], box[3] - box[1]) > MOST_OUTSIDE * max(width, height):
            raise UserError(
                f"the box {box.round(1).tolist()} is over {MOST_OUTSIDE} times as large as the "
                f"image of "
                f"{width} x {height}"
            )
    return [_square(box, margin * max(box[2] - box[0], box[3] - box[1])) for box in boxes], boxes


def _square(box, side):
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def _intrinsics(K, width, height):
    if K is None:
        focal = math.hypot(width, height)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    K = np.asarray(K, np.float64)
    if (
        K.shape != (3, 3)
        or not np.isfinite(K).all()
        or min(K[0, 0], K[1, 1]) <= 0
        or K[1, 0]
        or K[2].tolist() != [0, 0, 1]
    ):
        raise UserError(
            f"intrinsics {K.tolist()} are not [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] with fx and "
            f"fy above 0"
        )
    return K


def _find(path, name):
    """(run's folder, weights) of a run or one of its checkpoints."""
    if not path.is_dir():
        raise UserError(f"{name}={path}: there is no such folder")
    if (path / "model.safetensors").is_file():
        fault = checkpoints.damage(path)
        if fault:
            raise UserError(f"{name}={path} is no whole checkpoint: {fault}")
        return path.resolve().parents[1], path
    if not (path / "config.yaml").is_file():
        raise UserError(f"{name}={path} holds no config.yaml: it is no run's folder")
    newest = checkpoints.newest(path)
    if newest is None:
        raise UserError(f"{name}={path} has no whole checkpoint yet")
    return path, newest


def main(argv):
    """``python -m finetune predict``; returns the exit code."""
    config, paths = parse_keys(PredictConfig, argv, "finetune predict", USAGE)
    if not config.run or not config.out:
        raise UserError(f"{'run' if not config.run else 'out'}= is not set; usage: {USAGE}")
    if config.intrinsics and len(config.intrinsics) != 4:
        raise UserError(f"intrinsics={config.intrinsics}: four numbers are needed, fx,fy,cx,cy")
    _refuse_equal_names(paths)
    boxes = _boxes(config.boxes, paths) if config.boxes else {}
    fx, fy, cx, cy = config.intrinsics or [0, 0, 0, 0]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) if config.intrinsics else None
    # All are read once before the first is worked on: what is wrong with the last is told now, with
    # nothing written.
    for path in paths:
        _check(path, boxes.get(Path(path).name, []), K)
    predictor = Predictor(config.run, config.device)
    if predictor.body.kind == "body" and config.side != "right":
        raise UserError(f"side={config.side}: run={config.run} recovers bodies, which have no side")
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failure_of(error, f"out={out}: the folder cannot be made: {explain(error)}") from None
    for path in progress.watched(paths, "image"):
        image, listed = read_image(path), boxes.get(Path(path).name)
        found = predictor(
            image,
            listed and [box for _, box, _ in listed],
            K,
            [side or config.side for *_, side in listed] if listed else [config.side],
        )
        write(out / Path(path).stem, image, found, predictor.body)
    print(f"wrote overlays, views, meshes and numbers of {len(paths)} images to {out}")
    return 0


def _refuse_equal_names(images):
    first = {}
    for image in images:
        stem = Path(image).stem
        if stem in first:
            raise UserError(
                f"images {first[stem]} and {image} are both named {stem}: their results would "
                f"overwrite each "
                "other"
            )
        first[stem] = image


def _check(image, listed, K):
    """UserError for an image, or a box in it, that cannot be worked on. ``listed``: [(where, box,
    side), ...]."""
    height, width = read_image(image).shape[:2]
    _intrinsics(K, width, height)
    for where, box, _ in listed:
        try:
            _squares([box], width, height, 1.0)
        except Failure as error:
            raise UserError(f"{where}: {error}") from None


def write(stem, image, found, body):
    """Write STEM.overlay.png, STEM.NAME.png (views of each person), STEM.glb, STEM.npz and
    STEM.json."""
    _save(Image.fromarray(draw.overlay(image, found)), f"{stem}.overlay.png")
    for name, person in zip(export.names_of(found), found, strict=True):
        words = f"{name.replace('_', ' ')}: {person.translation[2]:.2f} m away"
        _save(draw.sheet(image, person, [words]), f"{stem}.{name}.png")
    export.save_glb(f"{stem}.glb", found)
    export.save_numbers(stem, found, body.keypoint_names, body.joint_names)


def _save(image, path):
    try:
        image.save(path)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def _boxes(path, images):
    """{file name: [(where in the file, box, side or None), ...]} of a boxes file; all images must
    be in it."""
    found = defaultdict(list)
    for where, row in rows(path, COLUMNS, COLUMNS[1:]):
        side = row.get("side") or None
        if side not in (None, "left", "right"):
            raise UserError(f"{where}: side={side} is neither left nor right")
        found[Path(str(row["image"])).name].append((where, [row[c] for c in COLUMNS[1:]], side))
    for image in images:
        if Path(image).name not in found:
            raise UserError(
                f"boxes={path} has no row for the image {Path(image).name}; leave it out or "
                f"add its boxes"
            )
    return found
