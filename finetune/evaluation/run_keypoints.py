"""What a run finds in crops of people whose keypoints are labelled, as COCO's results.

Each labelled crop is one detection, and its person is one of its image's people. A keypoint head
answers with points; of a mesh the points are those that its body model has by name, projected.
"""

import re
from typing import Any

import numpy as np
import torch

from data.bodies.joint_maps import JointMap
from data.format.clip import Clip, Crop
from data.format.joint_sets import find_joint_set
from data.format.labels import CropLabels
from data.sources.labelled.coco import PIXEL_CENTRE
from engine.errors import UserError
from finetune.evaluation.collector import Collector
from finetune.evaluation.protocols import KeypointProtocol, Scores
from finetune.evaluation.scoring.coco_files import CocoPeople, write_results
from finetune.heads.keypoints import KeypointHead
from finetune.inference.image_answers import answer_image
from finetune.inference.predictor import Predictor
from finetune.maps.save import place_points
from finetune.verb_config import EvaluateConfig

CATEGORY = 1  # COCO's number of people
DIGITS = 3  # behind the point of a pixel, as submissions have
NEAREST_M = 1e-3  # depth that points behind the camera are projected from
GIVEN = (
    "Each crop is one detection, cut around its person's own box: the numbers compare with those "
    "that papers have with ground-truth boxes. People whom the shards lack do not count: crowds, "
    "those without keypoints or with a smaller box than box_min_px=."
)


class KeypointCollector(Collector):
    """Collects detections and people of a protocol on keypoints.

    Raises:
        UserError: the run's head gives no points, or none of the protocol's.
    """

    def __init__(
        self, protocol: KeypointProtocol, predictor: Predictor, config: EvaluateConfig
    ) -> None:
        if config.plausibility:
            raise UserError(f"plausibility=true measures meshes, protocol={config.protocol} points")
        self.protocol, self.predictor, self.config = protocol, predictor, config
        self.names = find_joint_set(protocol.points).joints
        head = predictor.model.head
        self.map: JointMap | None = None
        if isinstance(head, KeypointHead):
            there = list(head.joint_names)
        elif head.has_mesh:
            self.map = JointMap(predictor.body, protocol.points).to("cpu")
            there = [name for name in self.names if name not in self.map.missing]
        else:
            raise UserError(
                f"protocol={config.protocol} measures keypoints, and run={config.run} has "
                f"head.name={predictor.config.head.name}, which gives none"
            )
        self.lacking = [name for name in self.names if name not in there]
        if len(self.lacking) == len(self.names):
            raise UserError(
                f"protocol={config.protocol} is on {', '.join(self.names[:3])} ..., and "
                f"run={config.run} gives {', '.join(there[:3])} ..., none of them"
            )
        self.given = np.array([name in there for name in self.names])
        self.rows = np.array([there.index(n) for n in self.names if n in there], np.int64)
        self.images: list[str] = []
        self.notes: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.unlabelled = 0

    def add(self, clip: Clip, crop: Crop, pixels: np.ndarray, labels: CropLabels) -> None:
        """Look at a crop, if some of the protocol's keypoints are labelled."""
        true = self._read_truth(labels)
        if true is None:
            self.unlabelled += 1
            return
        note = labels.annotation
        if note is None or note.area is None or note.box is None or crop.box is None:
            raise UserError(
                f"{self.config.data.shards}: clip {clip.key} does not say the area of its person, "
                f"by which protocol={self.config.protocol} measures distances: cut the shards "
                f"again with `python -m data labels coco` or coco_wholebody"
            )
        found = self._look(pixels, crop)
        corner = np.asarray(crop.box, np.float64)[:2] - PIXEL_CENTRE
        scale = (float(crop.box[2]) - float(crop.box[0])) / clip.size
        for points in (true, found):
            points[:, :2] = points[:, :2] * scale + corner
        # What the run cannot give counts for nothing, and lies where it does not change its extent.
        true[~self.given] = found[~self.given] = 0
        found[~self.given, :2] = found[self.given, :2].mean(0)
        x0, y0, x1, y1 = np.asarray(note.box, np.float64).tolist()
        person = {
            "id": len(self.notes) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": float(note.area),
            "iscrowd": 0,
            "num_keypoints": int((true[:, 2] > 0).sum()),
        }
        score = float(found[self.given, 2].mean())
        self.images.append(crop.image or clip.key)
        self.notes.append(person | self._split(true))
        self.results.append({"score": score} | self._split(np.round(found, DIGITS)))

    def finish(self) -> Scores:
        """Return the numbers; see Collector."""
        if not self.notes:
            raise UserError(
                f"{self.config.data.shards}: none of {self.unlabelled} crops has labels of "
                f"{', '.join(self.names[:3])} ... in the image"
            )
        numbers, notes = self._number_images()
        for image, note, result in zip(self.images, self.notes, self.results, strict=True):
            for row in (note, result):
                row |= {"image_id": numbers[image], "category_id": CATEGORY}
        people = CocoPeople(
            sorted(set(numbers.values())),
            [CATEGORY],
            self.notes,
            self.results,
            self.config.data.shards or "the shards",
            f"run={self.config.run}",
        )
        scores = self.protocol.score_people(people)
        scores.notes += [GIVEN, *notes]
        if self.lacking:
            scores.notes.append(
                f"The run has no {', '.join(self.lacking[:8])}"
                f"{' ...' if len(self.lacking) > 8 else ''}: numbers are of "
                f"{int(self.given.sum())} of {len(self.names)} keypoints and do not compare with "
                f"papers'."
            )
        if self.unlabelled:
            scores.notes.append(f"{self.unlabelled} crops without labels were left out.")
        if self.config.submission:
            write_results(self.config.submission, self.results)
            scores.notes.append(f"wrote {self.config.submission}")
        return scores

    def _look(self, pixels: np.ndarray, crop: Crop) -> np.ndarray:
        """(K, 3) x, y in pixels of the crop and score, in the protocol's order; others are 0."""
        out = np.zeros((len(self.names), 3))
        if self.map is None:
            ((asked, found, row),) = answer_image(self.predictor, pixels, None, crop.K)
            points, scores = place_points(asked, found, row)
            out[self.given] = np.column_stack([points, scores])[self.rows]
            return out
        (person,) = self.predictor(pixels, None, crop.K)
        vertices, joints = (torch.from_numpy(a)[None] for a in (person.vertices, person.joints))
        points = self.map(vertices, joints)[0].double().numpy()
        points[:, 2] = np.maximum(points[:, 2], NEAREST_M)
        projected = points @ person.intrinsics.T
        sure = 1.0 if person.uncertainty is None else 1 / (1 + float(person.uncertainty.mean()))
        out[:, :2] = projected[:, :2] / projected[:, 2:]
        out[:, 2] = sure
        return out

    def _read_truth(self, labels: CropLabels) -> np.ndarray | None:
        """(K, 3) x, y in pixels of the crop and whether it is labelled; None of nothing."""
        labelled = labels.keypoints
        if labelled is None:
            return None
        places = {n: i for i, n in enumerate(find_joint_set(labelled.joint_set).joints)}
        out = np.zeros((len(self.names), 3))
        for row, name in enumerate(self.names):
            place = places.get(name, -1)
            if place >= 0 and labelled.confidence[place] > 0:
                out[row] = *labelled.points[place], 1
        return out if out[:, 2].any() else None

    def _split(self, points: np.ndarray) -> dict[str, list[float]]:
        """{field of COCO's JSON: its keypoints} of (K, 3)."""
        ends = np.cumsum(list(self.protocol.fields.values()))[:-1]
        parts = np.split(points, ends)
        return {
            n: part.ravel().tolist() for n, part in zip(self.protocol.fields, parts, strict=True)
        }

    def _number_images(self) -> tuple[dict[str, int], list[str]]:
        """{image: its number} and sentences: COCO's own, which its files are called by, if so."""
        names = list(dict.fromkeys(self.images))
        digits = [re.search(r"(\d+)\.\w+$", name) for name in names]
        numbers = {name: int(one[1]) for name, one in zip(names, digits, strict=True) if one}
        if len(set(numbers.values())) == len(names):
            return numbers, []
        note = "Images are numbered in the shards' order: their names end in no numbers."
        return {name: number for number, name in enumerate(names, 1)}, [note]
