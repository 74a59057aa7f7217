"""Keypoints of people in photographs, in the JSON of COCO: images, annotations, categories.

Each person's ``keypoints`` are x, y, v after one another: v = 0 is not labelled, 1 labelled but
hidden, 2 seen. They count pixels from 0, so a pixel's centre is half a pixel further on in this
project's images; boxes and polygons are positions in the image, and stay. Annotations of crowds,
whose box is around several people, and of people without one labelled keypoint are left out; of
whole frames they are the places of people whom nothing is known of.

The category's own names of keypoints are looked up among the joint sets: data sets that other tools
write in this JSON may have another set, or COCO's in another order.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from data.format.annotation import Annotation
from data.format.joint_sets import JOINT_SETS, find_joint_set
from data.format.labels import HIDDEN, OUTSIDE, SEEN, CropLabels, Keypoints
from data.format.names import decode_text
from data.sources.detections.coco_masks import unroll_runs
from data.sources.labelled import LABELLED, LabelledImage, LabelledSource
from data.sources.labelled.archives import Files, open_files
from engine.config.parser import key
from engine.errors import UserError, explain, failure_of

PIXEL_CENTRE = 0.5


class CocoImage(TypedDict, total=False):
    """The fields of an image that are read."""

    id: int
    file_name: str
    width: int
    height: int
    license: int


class CocoAnnotation(TypedDict, total=False):
    """The fields of an annotation that are read."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    keypoints: list[float]
    iscrowd: int
    segmentation: list[list[float]] | dict[str, object]


@dataclass
class CocoParts:
    """What a JSON file says of all its annotations.

    Attributes:
        joint_set: of the keypoints.
        licences: {the licence's id: its name}.
        files: where the images are.
    """

    joint_set: str
    licences: Mapping[int | None, str]
    files: Files


@LABELLED.register("coco")
@dataclass
class CocoKeypoints(LabelledSource):
    """COCO's person keypoints, and whatever is written in the same JSON."""

    annotations: str = key(
        "annotations/person_keypoints_val2017.json",
        "the JSON file, inside root= or a path of its own",
        path="one",
    )
    images: str = key(
        "val2017",
        "the folder of the images, or a zip or tar of them, inside root= or a path of its own",
        path="one",
    )
    split: str = key("", "which part of the data set it is, stored with each clip")
    category: str = key("person", "category of the annotations that are read")
    keypoints_min: int = key(1, "least number of labelled keypoints of a person", low=0)

    def read(self) -> Iterator[LabelledImage]:
        """Yield every person with keypoints, in the order of the annotations."""
        path = os.path.join(self.root, self.annotations)
        tree = _read_json(path)
        files = open_files(os.path.join(self.root, self.images), "images")
        try:
            category, joint_set = self.find_category(tree["categories"], path)
            images = {image["id"]: image for image in tree["images"]}
            licences = {entry["id"]: entry["name"] for entry in tree.get("licenses", ())}
            parts = CocoParts(joint_set, licences, files)
            for annotation in self.follow(tree["annotations"]):
                crowd = bool(annotation.get("iscrowd", 0))
                if annotation["category_id"] != category or (crowd and not self.frames):
                    continue
                image = images.get(annotation["image_id"])
                if image is None:
                    raise ValueError(
                        f"annotation {annotation.get('id')} is of image "
                        f"{annotation['image_id']}, which its images do not list"
                    )
                people = [] if crowd else self.list_crops(annotation, image, parts)
                yield from people
                if self.frames and not people:
                    yield self.make_unlabelled(annotation, image, parts)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no COCO keypoints file: it lacks {error}") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None

    def find_category(self, categories: list, path: str) -> tuple[int, str]:
        """(id, joint set) of the category that is read."""
        return _find_category(categories, self.category, path)

    def list_crops(
        self,
        annotation: CocoAnnotation,
        image: CocoImage,
        parts: "CocoParts",
    ) -> list[LabelledImage]:
        """The person of one annotation; none where too few keypoints are labelled."""
        values = annotation.get("keypoints") or ()
        points = parse_keypoints(values, parts.joint_set, annotation["id"])
        if (points.confidence > 0).sum() < self.keypoints_min:
            return []
        return [self.make_person(annotation, image, points, parts)]

    def make_unlabelled(
        self, annotation: CocoAnnotation, image: CocoImage, parts: "CocoParts"
    ) -> LabelledImage:
        """A crowd, or a person without keypoints: where they are."""
        nothing = parse_keypoints((), parts.joint_set, annotation["id"])
        place = self.make_person(annotation, image, nothing, parts)
        runs = annotation.get("segmentation")
        if isinstance(runs, dict) and isinstance(runs.get("counts"), list):
            where = f"annotation {annotation['id']}"
            place = replace(place, mask=unroll_runs(runs, where).astype(bool))
        return replace(place, labels=CropLabels(), unlabelled=True)

    def make_person(
        self,
        annotation: CocoAnnotation,
        image: CocoImage,
        points: Keypoints,
        parts: "CocoParts",
    ) -> LabelledImage:
        """One annotation with its keypoints."""
        name, number = image["file_name"], annotation["id"]
        box, area = box_of(annotation["bbox"]), annotation.get("area")
        return LabelledImage(
            image=parts.files.image(name),
            clip=f"{os.path.splitext(name)[0]}-{number}",
            subject=f"{os.path.splitext(name)[0]}/{number}",
            box=box,
            labels=CropLabels(keypoints=points, annotation=_describe(number, box, area)),
            name=name,
            size=(image["width"], image["height"]),
            mask=_polygons(annotation.get("segmentation")),
            licence=parts.licences.get(image.get("license"), ""),
            split=self.split or None,
        )


def _read_json(path: str) -> dict:
    try:
        with open(path, "rb") as file:
            tree = json.loads(decode_text(file.read()))
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON file: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} is no COCO keypoints file: it is a {type(tree).__name__}")
    return tree


def _find_category(categories: list, wanted: str, path: str) -> tuple[int, str]:
    """(id, joint set) of the category; the set has its keypoints in the same order."""
    for category in categories:
        if category["name"] == wanted:
            break
    else:
        names = ", ".join(sorted(category["name"] for category in categories))
        raise UserError(f"{path}: category={wanted} is none of {names}")
    joints = tuple(category["keypoints"])
    for joint_set in JOINT_SETS.values():
        if joint_set.joints == joints:
            return category["id"], joint_set.name
    raise UserError(
        f"{path}: the {len(joints)} keypoints of '{wanted}', {', '.join(joints[:3])} and on, are "
        f"those of no joint set (data/format/joint_sets.py)"
    )


def box_of(bbox: Sequence[float]) -> np.ndarray:
    """(4,) x0, y0, x1, y1 of COCO's x, y, width, height."""
    x, y, width, height = np.asarray(bbox, np.float64)
    return np.array([x, y, x + width, y + height])


def _describe(number: int, box: np.ndarray, area: float | None) -> Annotation:
    """What COCO's similarity of keypoints needs of an annotation."""
    return Annotation(
        np.asarray(int(number)), box, None if area is None else np.asarray(float(area))
    )


def parse_keypoints(values: Sequence[float] | np.ndarray, joint_set: str, number: int) -> Keypoints:
    """Keypoints of one annotation; ValueError where they are not three numbers a joint."""
    rows = np.asarray(values, np.float32)
    count = len(find_joint_set(joint_set))
    if not rows.size:
        rows = np.zeros(3 * count, np.float32)
    if rows.shape != (3 * count,):
        raise ValueError(
            f"annotation {number} has {rows.size} numbers of keypoints, {joint_set} needs "
            f"{3 * count}"
        )
    rows = rows.reshape(count, 3)
    labelled = rows[:, 2] > 0
    visible = np.where(rows[:, 2] >= 2, SEEN, np.where(labelled, HIDDEN, OUTSIDE))
    points = np.where(labelled[:, None], rows[:, :2] + PIXEL_CENTRE, 0)
    return Keypoints(joint_set, points, labelled.astype(np.float32), visible.astype(np.uint8))


def _polygons(
    segmentation: list[list[float]] | dict[str, object] | None,
) -> list[np.ndarray] | None:
    """Polygons of a segmentation.

    None for run lengths, which crowds have, and where it is absent.
    """
    if not isinstance(segmentation, list):
        return None
    polygons = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]
    return [polygon for polygon in polygons if len(polygon) > 2] or None
