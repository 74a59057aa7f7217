"""What is counted and measured of one frame: people, pairs of them, and detections for AP."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from data.bodies.base import BodyModel
from data.bodies.joint_maps import JointMap
from engine.errors import UserError
from engine.pose_metrics import MM, mpjpe, pa_mpjpe
from finetune.evaluation.metrics import pve, pve_plain, vertex_areas
from finetune.evaluation.scene.matching import (
    SceneMatching,
    match_frame,
    project_held,
)
from finetune.evaluation.scene.truth import KEYPOINT_SET, TrueFrame
from finetune.evaluation.scoring.oks import DETECTIONS_MAX, Detections, Objects
from finetune.scene.found import FoundPerson

# Two people whose depths differ by less have no order: as in BEV's PCDR (Sun et al., CVPR 2022).
TIE_M = 0.2
ERRORS = ("mve", "mpjpe", "pa_mpjpe", "pve", "translation", "depth")  # of each hit, mm


@dataclass(eq=False)
class FrameScores:
    """What became of a frame, by its P people who count, their Q pairs, and D found people.

    Attributes:
        key, scene: of the frame.
        numbers: (P,) place of each person among the frame's people.
        hit: (P,) bool.  errors: {name of ERRORS: (P,) mm, NaN of a missed person}.
        shown: (P,).  height: (P,) longer side of the box, pixels.
        false: found people who are nobody.
        pairs: (Q, 2) places among the P, both hit.
        ordered: (Q,) bool, whether their depths differ by TIE_M; in_order: (Q,) bool, whether the
            nearer was found to be nearer.
        apart: (Q,) mm by which the distance between the two is off.
        detections, objects: for AP, everybody in the frame.
    """

    key: str
    scene: str
    numbers: np.ndarray
    hit: np.ndarray
    errors: dict[str, np.ndarray]
    shown: np.ndarray
    height: np.ndarray
    false: int
    pairs: np.ndarray
    ordered: np.ndarray
    in_order: np.ndarray
    apart: np.ndarray
    detections: Detections
    objects: Objects
    matching: SceneMatching = field(repr=False)

    def __len__(self) -> int:
        """The number of people who count."""
        return len(self.hit)


class FrameJudge:
    """Judges who was found in frames.

    Args:
        body: the full body model of truth and answers.
    """

    def __init__(self, body: BodyModel) -> None:
        self.body = body
        if body.faces is None:
            raise ValueError(f"a coarse {body.name} has no surface to judge")
        self.faces = body.faces.cpu()
        self.points = JointMap(body, KEYPOINT_SET).to("cpu")

    def judge(self, found: Sequence[FoundPerson], true: TrueFrame) -> FrameScores:
        """Return what became of a frame.

        Raises:
            UserError: a found person is of another mesh.
        """
        people = [one.person for one in found]
        for person in people:
            if len(person.vertices) != len(self.body.vertex_ids):
                raise UserError(
                    f"{true.key}: a found person has {len(person.vertices)} vertices, "
                    f"body={self.body.name} has {len(self.body.vertex_ids)}"
                )
        matching = match_frame(people, true)
        numbers = np.array([i for i, one in enumerate(true.people) if one.counts], np.int64)
        partner = matching.partner[numbers]
        hit = partner >= 0
        errors = {name: np.full(len(numbers), np.nan) for name in ERRORS}
        if hit.any():
            mine = [people[i] for i in partner[hit]]
            theirs = [true.people[i] for i in numbers[hit]]
            values = self._measure(
                np.stack([one.vertices for one in mine]),
                np.stack([one.keypoints for one in mine]),
                np.stack([one.vertices for one in theirs if one.vertices is not None]),
                np.stack([one.keypoints for one in theirs if one.keypoints is not None]),
            )
            for name, value in values.items():
                errors[name][hit] = value
        boxes = np.array([true.people[i].box for i in numbers]).reshape(-1, 4)
        pairs, ordered, in_order, apart = self._compare_pairs(found, true, numbers, partner)
        return FrameScores(
            true.key,
            true.scene,
            numbers,
            hit,
            errors,
            np.array([true.people[i].shown for i in numbers], np.float64),
            (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0),
            int((matching.state == 1).sum()),
            pairs,
            ordered,
            in_order,
            apart,
            self._list_detections(found, true, matching),
            list_objects(true),
            matching,
        )

    def _measure(
        self, vertices: np.ndarray, points: np.ndarray, true: np.ndarray, true_points: np.ndarray
    ) -> dict[str, np.ndarray]:
        """{name of ERRORS: (n,) mm} of (n, V, 3) and (n, K, 3); keypoint 0 is the root."""
        mine, theirs, at, wanted = (
            torch.from_numpy(np.asarray(values, np.float32))
            for values in (vertices, true, points, true_points)
        )
        roots = at[:, 0], wanted[:, 0]
        shift = (at[:, 0].double() - wanted[:, 0].double()) * MM
        found = {
            "mve": pve_plain(mine, theirs, *roots),
            "mpjpe": mpjpe(at, wanted, 0),
            "pa_mpjpe": pa_mpjpe(at, wanted),
            "pve": pve(mine, theirs, *roots, vertex_areas(theirs, self.faces)),
            "translation": torch.linalg.vector_norm(shift, dim=1),
            "depth": shift[:, 2].abs(),
        }
        return {name: values.numpy() for name, values in found.items()}

    def _compare_pairs(
        self,
        found: Sequence[FoundPerson],
        true: TrueFrame,
        numbers: np.ndarray,
        partner: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """``pairs``, ``ordered``, ``in_order`` and ``apart`` of FrameScores."""
        both = np.flatnonzero(partner >= 0)
        first, second = np.triu_indices(len(both), 1)
        pairs = np.stack([both[first], both[second]], 1)
        if not len(pairs):
            return pairs, np.zeros(0, bool), np.zeros(0, bool), np.zeros(0)
        wanted = np.zeros((len(numbers), 3))
        at = np.zeros((len(numbers), 3))
        for place in both:
            keypoints = true.people[numbers[place]].keypoints
            assert keypoints is not None  # whoever counts has some
            wanted[place] = keypoints[0]
            at[place] = found[partner[place]].person.keypoints[0]
        a, b = pairs.T
        step = wanted[a, 2] - wanted[b, 2]
        in_order = (at[a, 2] - at[b, 2]) * step > 0
        lengths = [np.linalg.norm(points[a] - points[b], axis=1) for points in (at, wanted)]
        return pairs, np.abs(step) > TIE_M, in_order, np.abs(lengths[0] - lengths[1]) * MM

    @torch.no_grad()
    def _list_detections(
        self, found: Sequence[FoundPerson], true: TrueFrame, matching: SceneMatching
    ) -> Detections:
        """The surest found people as COCO has them; an area is that around the keypoints.

        Who was found where the frame says nothing of people is not among them.
        """
        surest = np.argsort([-one.score for one in found], kind="stable")
        untold = matching.list_untold()
        order = [int(number) for number in surest if not untold[number]][:DETECTIONS_MAX]
        points = np.zeros((len(order), len(self.points.names), 2))
        size = np.array(true.image.shape[1::-1], np.float64)
        for row, number in enumerate(order):
            person = found[number].person
            vertices, joints = (
                torch.from_numpy(values)[None] for values in (person.vertices, person.joints)
            )
            own = self.points(vertices, joints)[0].numpy()
            points[row] = project_held(own, person.intrinsics, size)
        scores = np.array([found[i].score for i in order], np.float64)
        return Detections(points, scores, np.ptp(points, axis=1).prod(1))


def list_objects(true: TrueFrame) -> Objects:
    """Return everybody in a frame as COCO has labelled people.

    Who does not count, or has no keypoint in the frame, is ignored.
    """
    people = true.people
    visible = np.array([one.labelled for one in people], bool).reshape(-1, 17)
    boxes = np.array([one.box for one in people], np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    ignored = np.array([not one.counts for one in people], bool) | ~visible.any(1)
    return Objects(
        np.arange(1, len(people) + 1),
        np.array([one.points for one in people], np.float64).reshape(-1, 17, 2),
        visible,
        boxes,
        np.array([one.area for one in people], np.float64),
        np.zeros(len(people), bool),
        ignored,
    )
