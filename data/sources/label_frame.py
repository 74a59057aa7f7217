"""The people that a data set labels in one image, as a whole frame (data/format/frame.py).

What is in the image and not labelled is said, not left out: where somebody is of whom the labels
say nothing, a network that finds them makes no mistake. Such are a crowd's region, people whose box
is too small, and people whose labels make no sense.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg

from data.cropping.geometry import Square, crop_camera_of, find_sides, image_to_crop
from data.cropping.host import cut_square
from data.format.frame import MOST_PEOPLE, Frame, FramePerson
from data.format.label_stack import stack_people
from data.sources.cameras import Camera
from data.sources.label_cut import (
    CutStyle,
    camera_of,
    check_person,
    cut_labels,
    cut_mask,
    image_name,
)
from data.sources.labelled import LabelledImage
from data.sources.plan import clip_key

SAME_CAMERA = 1e-6  # relative: what rounding makes of one camera in several rows


@dataclass(frozen=True)
class FrameCut:
    """How an image becomes a frame: as ``cut_square`` has it, of the whole image.

    Attributes:
        pixels: (H, W, 3) uint8 of the image.  square, size, camera: see ``cut_square``.
    """

    pixels: np.ndarray
    square: Square
    size: tuple[int, int]
    camera: Camera | None

    @classmethod
    def of(cls, image: LabelledImage, pixels: np.ndarray, longest: int) -> "FrameCut":
        """Of an image whose frame's longer side is at most ``longest`` pixels."""
        height, width = pixels.shape[:2]
        scale = min(1.0, longest / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        # Rounded to whole pixels the shape changes a little; nothing black is at the border.
        side = max(size) * min(width / size[1], height / size[0])
        square = Square(width / 2, height / 2, side)
        return cls(pixels, square, size, camera_of(image, pixels))

    def mask_of(self, image: LabelledImage) -> np.ndarray | None:
        """(rows, columns) bool of a person's mask in the frame; see ``cut_mask``."""
        return cut_mask(image, self.pixels, self.square, self.size, self.camera)

    def move_box(self, box: np.ndarray) -> np.ndarray:
        """(4,) of a box in pixels of the frame, at most a frame's size beyond its border."""
        mapped = image_to_crop(self.square, self.size)
        corners = np.asarray(box, np.float64).reshape(2, 2) @ mapped[:2, :2].T + mapped[:2, 2]
        most = np.array(find_sides(self.size)[::-1])
        return np.clip(corners, -most, 2 * most).ravel()


def name_frame(image: LabelledImage) -> str:
    """The key of the frame that an image becomes."""
    name = os.path.splitext(image_name(image))[0]
    alone = image.scene is None or name.startswith(f"{image.scene}/")
    return clip_key(name if alone else f"{image.scene}/{name}")


def cut_frame(
    people: Sequence[LabelledImage], pixels: np.ndarray, style: CutStyle
) -> tuple[Frame, list[tuple[LabelledImage, str]]]:
    """(The frame of one image, people whose labels make no sense and why).

    Args:
        people: of the image, labelled and unlabelled ones.  pixels: (H, W, 3) uint8.
    Raises:
        ValueError: nobody is labelled, the people do not go together, somebody is nowhere.
        UserError: as ``check_person``.
    """
    labelled, ignored, skipped = _sort_people(people, style.box_min_px)
    if not labelled:
        raise ValueError("nobody in it has labels that can be used")
    if len(labelled) > MOST_PEOPLE:
        raise ValueError(f"{len(labelled)} people; a frame has at most {MOST_PEOPLE}")
    first = labelled[0]
    _check_one_camera(labelled)
    cut = FrameCut.of(first, pixels, style.frame_px)
    image = cut_square(pixels, cut.square, cut.size, cut.camera)
    try:
        labels = stack_people(
            [cut_labels(one.labels, cut.square, cut.size, cut.camera) for one in labelled]
        )
    except ValueError as error:
        raise ValueError(f"its people do not go together: {error}") from None
    ids = _draw_ids(labelled, cut)
    K = Rt = None
    if first.K is not None:
        K = crop_camera_of(cut.square, first.K, cut.size)
        Rt = np.eye(3, 4) if first.Rt is None else first.Rt
    name = image_name(first)
    frame = Frame(
        name_frame(first),
        style.name,
        first.licence or style.licence or "unknown",
        cut.size[1],
        cut.size[0],
        f"{style.name}/{name if first.scene is None else first.scene}",
        _list_people(labelled, cut, style.name),
        first.camera,
        first.time_s,
        K,
        Rt,
        simplejpeg.encode_jpeg(
            image, quality=style.quality, colorspace="RGB", colorsubsampling="420"
        ),
        ids,
        labels,
        first.split,
        name,
        _draw_ignored(ignored, ids, cut),
    )
    return frame, skipped


def _sort_people(
    people: Sequence[LabelledImage], box_min_px: float
) -> tuple[list[LabelledImage], list[LabelledImage], list[tuple[LabelledImage, str]]]:
    """(people with labels, those whose place alone is known, those who are skipped and why)."""
    labelled, ignored = [], []
    skipped: list[tuple[LabelledImage, str]] = []
    for person in people:
        box = np.asarray(person.box, np.float64)
        if not (box.shape == (4,) and np.isfinite(box).all()):
            raise ValueError("somebody's box is not made of finite numbers: nobody knows where")
        if person.unlabelled or max(box[2] - box[0], box[3] - box[1]) < box_min_px:
            ignored.append(person)
            continue
        try:
            check_person(person)
            labelled.append(person)
        except ValueError as error:
            skipped.append((person, str(error)))
            ignored.append(person)
    return labelled, ignored, skipped


def _check_one_camera(people: Sequence[LabelledImage]) -> None:
    """ValueError where the people of an image do not say the same of the image."""
    first = people[0]
    for person in people[1:]:
        for what in ("K", "Rt", "distortion"):
            one, other = getattr(first, what), getattr(person, what)
            if (one is None) != (other is None) or (
                one is not None and not np.allclose(one, other, SAME_CAMERA, SAME_CAMERA)
            ):
                raise ValueError(f"two of its people have cameras of different {what}")
        for what in ("size", "quarter_turns", "camera", "time_s", "scene", "split"):
            one, other = getattr(first, what), getattr(person, what)
            if one != other:
                raise ValueError(f"its people have different {what}: {one} and {other}")


def _list_people(people: Sequence[LabelledImage], cut: FrameCut, source: str) -> list[FramePerson]:
    """Who is in the frame; people of one track in one image are told apart by a number."""
    out: list[FramePerson] = []
    taken: set[str] = set()
    for number, person in enumerate(people):
        track = str(number) if person.scene is None else person.track or person.subject
        count = 2
        name = track
        while name in taken:
            name, count = f"{track}-{count}", count + 1
        taken.add(name)
        out.append(FramePerson(f"{source}/{person.subject}", name, cut.move_box(person.box)))
    return out


def _draw_ids(people: Sequence[LabelledImage], cut: FrameCut) -> np.ndarray | None:
    """(rows, columns) uint8 of who is seen where, None where somebody has no mask.

    Where masks overlap, the smaller one is in front: nobody says which is.
    """
    masks = []
    for person in people:
        mask = cut.mask_of(person)
        if mask is None:
            return None
        masks.append(mask)
    ids = np.zeros(cut.size, np.uint8)
    for number in sorted(range(len(masks)), key=lambda n: -int(masks[n].sum())):
        ids[masks[number]] = number + 1
    return ids


def _draw_ignored(
    people: Sequence[LabelledImage], ids: np.ndarray | None, cut: FrameCut
) -> np.ndarray | None:
    """(rows, columns) bool of where people are who are not labelled, None where nobody is.

    A pixel of a labelled person is that person's.
    """
    if not people:
        return None
    out = np.zeros(cut.size, bool)
    for person in people:
        mask = cut.mask_of(person)
        if mask is None:
            x0, y0, x1, y1 = cut.move_box(person.box)
            rows = slice(max(0, int(np.floor(y0))), max(0, int(np.ceil(y1))))
            out[rows, max(0, int(np.floor(x0))) : max(0, int(np.ceil(x1)))] = True
        else:
            out |= mask
    if ids is not None:
        out[ids > 0] = False
    return out
