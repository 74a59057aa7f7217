"""COCO's annotations and results of keypoints, read into what ``oks`` takes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.sources.labelled.bodies import reading
from data.sources.labelled.places import read_json
from engine.errors import UserError, explain, failure_of
from engine.run.files import write_file
from finetune.evaluation.scoring.oks import DETECTIONS_MAX, Detections, Objects

Pairs = list[list[tuple[Detections, Objects]]]
Key = tuple[int, int]  # image, category
Row = Mapping[str, Any]  # an annotation or a result, as COCO's JSON has it


@dataclass
class Part:
    """Which keypoints are scored.

    Attributes:
        fields: of annotations and results, in order, such as ("keypoints",).
        counts: how many keypoints each holds.
        drop_empty: leave out detections without a keypoint of a score above 0.
        by_field: people without a labelled one of these keypoints do not count; otherwise those
            whose ``num_keypoints`` is 0.
    """

    fields: tuple[str, ...]
    counts: tuple[int, ...]
    drop_empty: bool = False
    by_field: bool = True


@dataclass
class CocoPeople:
    """People and who was detected, as rows of COCO's JSON.

    Attributes:
        images, categories: numbers of all of them, in order.
        notes: annotations.  results: detections, with a box each or none.
        truth, predictions: where they come from, for messages.
    """

    images: list[int]
    categories: list[int]
    notes: Sequence[Row]
    results: Sequence[Row]
    truth: str
    predictions: str

    @property
    def boxed(self) -> bool:
        """Whether results have boxes: the first one decides for all, as in pycocotools."""
        return bool(self.results and self.results[0].get("bbox"))

    def pair(self, part: Part) -> Pairs:
        """Return, for each category, its images with somebody labelled or detected.

        Raises:
            UserError: keypoints are not there, of another number, or not finite.
        """
        people = self._group(self.notes)
        found = self._group(self.results)
        out = []
        for category in self.categories:
            images = []
            for image in self.images:
                key = (image, category)
                if key in people or key in found:
                    images.append(
                        (
                            self._detections(found.get(key, []), part),
                            self._objects(people.get(key, []), part),
                        )
                    )
            out.append(images)
        if part.drop_empty:  # an image may be left with nobody at all
            out = [[(d, o) for d, o in images if len(d.scores) or len(o.ids)] for images in out]
        return out

    def _group(self, rows: Sequence[Row]) -> dict[Key, list[Row]]:
        out: dict[Key, list[Row]] = {}
        for row in rows:
            key = int(row["image_id"]), int(row["category_id"])
            out.setdefault(key, []).append(row)
        return out

    def _points(self, row: Row, part: Part, path: str) -> np.ndarray:
        """(K, 3) of the fields."""
        parts = []
        for name, count in zip(part.fields, part.counts, strict=True):
            values = np.asarray(row[name], np.float64).ravel()
            if values.size != 3 * count:
                raise UserError(
                    f"{path}: {name} of image {row['image_id']} holds {values.size} numbers, "
                    f"not {3 * count}"
                )
            parts.append(values.reshape(count, 3))
        points = np.concatenate(parts)
        if not np.isfinite(points).all():
            raise UserError(f"{path}: keypoints of image {row['image_id']} hold NaN or infinity")
        return points

    def _detections(self, rows: Sequence[Row], part: Part) -> Detections:
        with reading(self.predictions, "COCO results"):
            points = [self._points(row, part, self.predictions) for row in rows]
            if part.drop_empty:
                kept = [i for i, one in enumerate(points) if (one[:, 2] > 0).any()]
                rows, points = [rows[i] for i in kept], [points[i] for i in kept]
            scores = np.array([float(row["score"]) for row in rows])
            if not np.isfinite(scores).all():
                raise ValueError("a score is NaN or infinite")
            order = np.argsort(-scores, kind="stable")[:DETECTIONS_MAX]
            areas = np.array([_area_of(rows[i], self.boxed) for i in order])
        stacked = np.stack(points) if points else np.zeros((0, sum(part.counts), 3))
        return Detections(stacked[order][..., :2], scores[order], areas)

    def _objects(self, rows: Sequence[Row], part: Part) -> Objects:
        with reading(self.truth, "COCO annotations"):
            points = [self._points(row, part, self.truth) for row in rows]
            stacked = np.stack(points) if points else np.zeros((0, sum(part.counts), 3))
            visible = stacked[..., 2] > 0
            crowd = np.array([bool(row["iscrowd"]) for row in rows], bool)
            if part.by_field:
                empty = ~visible.any(1)
            else:
                empty = np.array([row["num_keypoints"] == 0 for row in rows], bool)
            return Objects(
                np.array([int(row["id"]) for row in rows], np.int64),
                stacked[..., :2],
                visible,
                np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
                np.array([float(row["area"]) for row in rows]),
                crowd,
                crowd | empty,
            )


def read_coco_files(truth: str, predictions: str) -> CocoPeople:
    """Return the people of annotations and results.

    Args:
        truth: annotations, a JSON file of COCO's form.
        predictions: results, a JSON list.
    Raises:
        UserError: one of them is not of that form, or a result is of another image.
    """
    with reading(truth, "COCO annotations"):
        data = read_json(truth)
        images = sorted({int(image["id"]) for image in data["images"]})
        categories = sorted({int(one["id"]) for one in data["categories"]})
        notes: list[Row] = data["annotations"]
    with reading(predictions, "COCO results"):
        results: list[Row] = read_json(predictions)
        if not isinstance(results, list):
            raise TypeError(f"it is a {type(results).__name__}, not a list")
        wrong = {int(one["image_id"]) for one in results} - set(images)
    if wrong:
        raise UserError(
            f"{predictions}: {len(wrong)} images such as {min(wrong)} are none of the "
            f"{len(images)} of {truth}"
        )
    if not results:
        raise UserError(f"{predictions} holds no result, {truth} {len(notes)} people")
    return CocoPeople(images, categories, notes, results, truth, predictions)


def write_results(path: str, results: Sequence[Row]) -> None:
    """Write results as a JSON list.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        write_file(path, json.dumps(list(results)))
    except OSError as error:
        raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None


def _area_of(row: Row, boxed: bool) -> float:
    """Of a result's box, or around its body keypoints where results have none; square pixels."""
    if boxed:
        box = row["bbox"]
        return float(box[2]) * float(box[3])
    x, y = np.asarray(row["keypoints"][0::3]), np.asarray(row["keypoints"][1::3])
    return float(np.ptp(x) * np.ptp(y))
