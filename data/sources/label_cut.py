"""A labelled person as a crop: the square around, its camera, its labels in its own pixels.

A person whose labels are not finite numbers, whose camera is none or whose image cannot be read is
refused by a ValueError, which the caller counts: data sets hold such rows. Labels of another shape
than they must have are a UserError: the reader or the format is wrong, and so is all else.
"""

import io
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import simplejpeg

from data.cropping.geometry import Size, Square, square_around
from data.cropping.host import cut_square
from data.find.detection import Detection
from data.find.faces import BlurFaces, blur_heads, find_heads
from data.format.clip import MASK_SIDE, Clip, Crop
from data.format.images import BROKEN, decode_image, open_image
from data.format.label_stack import stack_labels
from data.format.labels import CropLabels, Joints, Keypoints
from data.format.looks import hash_look
from data.sources.cameras import Camera
from data.sources.crop_parts import move_keypoints
from data.sources.labelled import LabelledImage, LabelledSource
from data.sources.labelled.archives import IMAGE_MOST, ArchiveMember
from data.sources.plan import clip_key
from engine.errors import UserError, explain
from engine.geometry import crop_intrinsics

ORIENTATION = 0x0112  # the EXIF tag that says how a photograph was held
# {its value: quarter turns clockwise}; mirrored ones are of no camera.
TURNS = {1: 0, 6: 1, 3: 2, 8: 3}


@dataclass(frozen=True)
class CutStyle:
    """How crops, or whole frames, are cut: the keys of LabelledSource that matter to one."""

    name: str
    licence: str
    size: int
    margin: float
    quality: int
    blur_faces: bool = False
    box_min_px: float = 1.0
    frame_px: int = 0  # 0: crops

    @classmethod
    def of(cls, source: LabelledSource) -> "CutStyle":
        """Return that of a source's keys."""
        return cls(
            source.name,
            source.licence,
            source.size,
            source.margin,
            source.quality,
            source.blur_faces,
            source.box_min_px,
            source.frame_px if source.frames else 0,
        )


@dataclass
class CutPerson:
    """One crop with what belongs to it: its JPEG, labels in its own pixels and perhaps a mask."""

    crop: Crop
    jpeg: bytes
    labels: CropLabels
    mask: np.ndarray | None


class LastImage:
    """Reads images; the last one is kept, for several people may be in it.

    Args:
        blur: what hides the faces of an image, or None.
    """

    def __init__(self, blur: BlurFaces | None = None) -> None:
        self.blur = blur
        self.source: tuple[str | bytes | ArchiveMember, int, tuple[int, int] | None] | None = None
        self.pixels = np.zeros((0, 0, 3), np.uint8)

    def read(self, image: LabelledImage, *others: LabelledImage) -> np.ndarray:
        """(H, W, 3) uint8; ValueError where it cannot be read or has another size.

        Args:
            others: further people in it, whose faces are hidden too.
        """
        source = image.image, image.quarter_turns, image.size
        if source != self.source:
            self.source = None
            self.pixels = read_pixels(image)
            if self.blur is not None:
                self.pixels = self.blur(self.pixels, [])
            self.source = source
        if self.blur is None:
            return self.pixels
        people = [person for one in (image, *others) for person in _labelled_people(one)]
        return blur_heads(self.pixels, find_heads(people))


def _labelled_people(image: LabelledImage) -> list[Detection]:
    """The person of an image as the labels know it; nobody without 2D keypoints."""
    points = image.labels.keypoints
    if points is None:
        return []
    rows = np.concatenate([points.points, np.reshape(points.confidence, (-1, 1))], 1)
    if not np.isfinite(rows).all() or not np.isfinite(image.box).all():
        return []  # refused when it is cut
    return [Detection(np.asarray(image.box), keypoints=rows, joint_set=points.joint_set)]


def read_pixels(image: LabelledImage) -> np.ndarray:
    """The (H, W, 3) uint8 that a person's labels are about.

    Raises:
        ValueError: the image cannot be read, or has another size.
    """
    data = _read_bytes(image.image)
    pixels = np.rot90(decode_image(data), -image.quarter_turns)
    height, width = pixels.shape[:2]
    if image.size is None or (width, height) == tuple(image.size):
        return np.ascontiguousarray(pixels)
    if (height, width) == tuple(image.size):  # another size is of no tag's making
        turns = TURNS.get(_orientation(data), 0)
        if turns % 2:
            return np.ascontiguousarray(np.rot90(pixels, -turns))
    raise ValueError(
        f"it is {width} x {height}, its labels are for {image.size[0]} x {image.size[1]}"
    )


def _read_bytes(image: str | bytes | ArchiveMember) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, ArchiveMember):
        return image.read()
    try:
        found = os.stat(image)
        if not stat.S_ISREG(found.st_mode) or found.st_size > IMAGE_MOST:
            raise ValueError(f"it is no file of up to {IMAGE_MOST >> 20} MiB")
        with open(image, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(explain(error)) from None


def _orientation(data: bytes) -> int:
    try:
        with open_image(io.BytesIO(data)) as opened:
            return int(opened.getexif().get(ORIENTATION, 1))
    except BROKEN:  # its pixels were read, its tag makes no sense
        return 1


def image_name(image: LabelledImage) -> str:
    """What the data set calls an image."""
    if image.name is not None:
        return image.name
    if isinstance(image.image, bytes):
        return image.clip
    path = image.image if isinstance(image.image, str) else image.image.name
    return path.rpartition("/")[2]


def check_person(image: LabelledImage) -> None:
    """Refuse a person whose labels no loss could use.

    Raises:
        ValueError: the box, the camera or a label is not made of finite numbers, or no camera.
        UserError: something is of a wrong shape.
    """
    box = _numbers("box", image.box, (4,), image)
    if not (box[2] > box[0] and box[3] > box[1]):
        raise ValueError("its box is empty")
    if image.K is not None:
        K = _numbers("K", image.K, (3, 3), image)
        if not (K[0, 0] > 0 and K[1, 1] > 0):
            raise ValueError("its camera has no focal length above 0")
    elif image.labels.frame == "world" and _has_space(image.labels):
        raise UserError(
            f"{image_name(image)}: joints or vertices of a world, but no camera: the reader gives "
            f"K, or says frame=root"
        )
    if image.Rt is not None:
        Rt = _numbers("Rt", image.Rt, (3, 4), image)
        if abs(np.linalg.det(Rt[:, :3]) - 1) > 1e-3:
            raise ValueError("its camera's Rt is not a rotation and a translation")
    if image.distortion is not None:
        _numbers("distortion", image.distortion, (8,), image)
    for what, points, width in (
        ("keypoints", image.labels.keypoints, 2),
        ("joints", image.labels.joints, 3),
    ):
        if points is not None:
            _check_points(what, points, width, image)
    for what, values in _other_labels(image.labels):
        if not np.isfinite(values).all():
            raise ValueError(f"its {what} are not finite numbers")


def _has_space(labels: CropLabels) -> bool:
    return labels.joints is not None or labels.vertices is not None


def _other_labels(labels: CropLabels) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, values) of what is labelled besides keypoints and joints."""
    if labels.vertices is not None:
        yield "vertices", np.asarray(labels.vertices, np.float64)
    if labels.annotation is not None and labels.annotation.area is not None:
        yield "area", labels.annotation.area
    body = labels.body
    for name, values in body.parameters.items() if body is not None else ():
        yield name, np.asarray(values, np.float64)


def _numbers(
    what: str, values: np.ndarray, shape: tuple[int, ...], image: LabelledImage
) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.shape != shape:
        raise UserError(f"{image_name(image)}: {what} has shape {array.shape}, not {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"its {what} is not made of finite numbers")
    return array


def _check_points(what: str, points: Keypoints | Joints, width: int, image: LabelledImage) -> None:
    values, confidence = np.asarray(points.points), np.asarray(points.confidence)
    if values.ndim != 2 or values.shape[1] != width or confidence.shape != values.shape[:1]:
        raise UserError(
            f"{image_name(image)}: {what} has shape {values.shape} with confidence "
            f"{confidence.shape}, not (K, {width}) with (K,)"
        )
    if not np.isfinite(confidence).all() or not np.isfinite(values[confidence > 0]).all():
        raise ValueError(f"its {what} are not finite numbers")


def cut_person(image: LabelledImage, pixels: np.ndarray, style: CutStyle) -> CutPerson:
    """The square around a person, and the labels in its pixels.

    Args:
        pixels: (H, W, 3) uint8 of the whole image, see ``read_pixels``.
    Raises:
        ValueError: as ``check_person``; the box lies outside of the image.
    """
    check_person(image)
    x0, y0, x1, y1 = np.asarray(image.box, np.float64).tolist()
    height, width = pixels.shape[:2]
    camera = camera_of(image, pixels)
    if camera is None and not (x1 > 0 and y1 > 0 and x0 < width and y0 < height):
        raise ValueError("its box lies outside of the image")
    square = square_around(image.box, style.margin)
    box = square.box
    crop = cut_square(pixels, square, style.size, camera)
    jpeg = simplejpeg.encode_jpeg(
        crop, quality=style.quality, colorspace="RGB", colorsubsampling="420"
    )
    K = Rt = None
    if image.K is not None:
        K = crop_intrinsics(image.K, box, (style.size, style.size))
        Rt = np.eye(3, 4) if image.Rt is None else image.Rt
    name = image_name(image)
    look = hash_look(crop)
    meta = Crop(image.camera, image.time_s, image.kind, K, Rt, box, name, look)
    return CutPerson(
        meta,
        jpeg,
        cut_labels(image.labels, square, style.size, camera),
        cut_mask(image, pixels, square, MASK_SIDE, camera),
    )


def cut_labels(labels: CropLabels, square: Square, size: Size, camera: Camera | None) -> CropLabels:
    """Labels of an image as those of a crop; what is not labelled is zero.

    Args:
        square: the crop in pixels of the undistorted image.  size: of the crop.
        camera: whose lens is undone, or None.
    """
    out = replace(labels)
    if labels.keypoints is not None:
        out.keypoints = move_keypoints(labels.keypoints, square, size, camera)
    joints = labels.joints
    if joints is not None:
        there = np.asarray(joints.confidence) > 0
        points = np.where(there[:, None], joints.points, 0).astype(np.float32)
        out.joints = replace(joints, points=points)
    return out


def camera_of(image: LabelledImage, pixels: np.ndarray) -> Camera | None:
    """The lens of an image; None where it has none to be undone."""
    if image.K is None or image.distortion is None or not np.any(image.distortion):
        return None
    height, width = pixels.shape[:2]
    Rt = np.eye(3, 4) if image.Rt is None else np.asarray(image.Rt)
    lens = np.asarray(image.distortion, np.float64)
    return Camera(image.camera, np.asarray(image.K, np.float64), lens, Rt, width, height)


def cut_mask(
    image: LabelledImage, pixels: np.ndarray, square: Square, size: Size, camera: Camera | None
) -> np.ndarray | None:
    """Bool (rows, columns) of a crop, true where at least half of a cell is the person.

    None where the image has no mask of the person.

    Args:
        pixels: (H, W, 3) of the whole image.  square, size, camera: as of ``cut_square``.
    Raises:
        ValueError: the mask is of another size, or not made of finite numbers.
    """
    if image.mask is None:
        return None
    whole = np.zeros(pixels.shape[:2], np.uint8)
    if isinstance(image.mask, list):
        if not all(np.isfinite(polygon).all() for polygon in image.mask):
            raise ValueError("its outline is not made of finite numbers")
        # OpenCV counts pixels from the first one's centre, in 1/256 of a pixel.
        outlines = [np.round((polygon - 0.5) * 256).astype(np.int32) for polygon in image.mask]
        for outline in outlines:
            cv2.fillPoly(whole, [outline], 255, shift=8)
    else:
        mask = np.asarray(image.mask, bool)
        if mask.shape != whole.shape:
            raise ValueError(f"its mask is {mask.shape[1]} x {mask.shape[0]}, the image is not")
        whole[mask] = 255
    share = cut_square(np.repeat(whole[..., None], 3, 2), square, size, camera)
    return share[..., 0] >= 128


def join_crops(first: LabelledImage, parts: Sequence[CutPerson], style: CutStyle) -> Clip:
    """The clip of several crops; UserError where their labels do not go together."""
    masks = None
    if any(part.mask is not None for part in parts):
        # Where nobody knows, every cell counts as the person.
        whole = np.ones((MASK_SIDE, MASK_SIDE), bool)
        masks = np.stack([whole if part.mask is None else part.mask for part in parts])
    times = [part.crop.time_s for part in parts]
    try:
        labels = stack_labels([part.labels for part in parts], times)
    except ValueError as error:
        raise UserError(f"clip {first.clip}: {error}") from None
    return Clip(
        clip_key(first.clip),
        style.name,
        first.licence or style.licence or "unknown",
        f"{style.name}/{first.subject}",
        style.size,
        [part.crop for part in parts],
        [part.jpeg for part in parts],
        masks,
        labels=labels,
        split=first.split,
        track=None if first.track is None else f"{style.name}/{first.track}",
    )
