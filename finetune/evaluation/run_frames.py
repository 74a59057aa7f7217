"""Frames of single people: what a run recovers and what labels say, in a protocol's joints.

Joints come by a joint regressor where meshes fit it, otherwise by name.
"""

import re
from dataclasses import replace

import numpy as np
import torch

from data.bodies.smpl_layout import FAMILY
from data.bodies.smpl_model import SmplModel
from data.format.clip import Clip, Crop
from data.format.joint_sets import JOINT_SETS, find_joint_set
from data.format.labels import CropLabels
from engine.errors import UserError
from finetune.evaluation.collector import Collector
from finetune.evaluation.protocols import Frames, RunJoints, RunProtocol, Scores, Value
from finetune.evaluation.scoring.plausibility import (
    ground_errors,
    ground_heights,
    largest_part,
    self_penetration,
)
from finetune.evaluation.scoring.posed import SmplPoser, chain_rotations_of
from finetune.evaluation.scoring.spin_files import read_regressor
from finetune.inference.predictor import Predictor
from finetune.person import Person
from finetune.verb_config import EvaluateConfig

MM = 1000.0
Points = dict[str, np.ndarray]


class FrameCollector(Collector):
    """Collects frames of a protocol on joints, meshes and orientations of single people.

    Args:
        protocol: that scores them.  run: the joints that it takes of the run.
    Raises:
        UserError: the regressor cannot be read.
    """

    def __init__(
        self, protocol: RunProtocol, run: RunJoints, predictor: Predictor, config: EvaluateConfig
    ) -> None:
        self.protocol, self.config = protocol, config
        self.predictor, self.run, self.body = predictor, run, predictor.body
        self.regressor = run.regressor
        if self.regressor is None and config.regressor:
            self.regressor = read_regressor(config.regressor)
        self.found: list[tuple[Points, np.ndarray, np.ndarray | None]] = []
        self.parameters: list[tuple[np.ndarray, np.ndarray]] = []  # pose and shape of SMPL
        self.true: list[tuple[Points, np.ndarray | None, np.ndarray | None]] = []
        self.meshes: list[np.ndarray] = []  # where the run puts them, for plausibility
        self.sequences: list[str] = []
        self.places: list[tuple[str, int]] = []  # split, number in the sequence
        self.cameras: list[np.ndarray | None] = []
        self.posers: dict[str, SmplPoser] = {}
        self.notes: list[str] = []
        self.lacking: list[str] = []
        self.unlabelled = 0

    def add(self, clip: Clip, crop: Crop, pixels: np.ndarray, labels: CropLabels) -> None:
        """Recover a crop, if its labels say anything of the protocol's joints."""
        true = self._read_truth(crop, labels)
        if true is None:
            self.unlabelled += 1
            return
        side = None if self.body.kind == "body" else [crop.kind.removesuffix("_hand")]
        (person,) = self.predictor(pixels, None, crop.K, side)
        self.found.append(self._read_person(person))
        if self.config.plausibility:
            self.meshes.append(person.vertices)
        if self.body.name == "smpl" and person.pose is not None and person.shape is not None:
            self.parameters.append((person.pose, person.shape))
        self.true.append(true)
        self.sequences.append(str(clip.track or clip.key))
        digits = re.search(r"(\d+)\D*$", crop.image or "")
        self.places.append((clip.split or "", int(digits[1]) if digits else -1))
        self.cameras.append(None if crop.Rt is None else np.asarray(crop.Rt, np.float64))

    def finish(self) -> Scores:
        """Return the numbers; writes the submission if one is named. See ``stack``."""
        found, true = self.stack()
        scores = self.protocol.score(found, true)
        scores.notes += self.notes
        if self.config.plausibility:
            scores.values += self.measure_plausibility()
        if self.config.submission:
            if self.lacking:
                raise UserError(
                    f"submission={self.config.submission}: the run has no {', '.join(self.lacking)}"
                )
            self.protocol.write(self.config.submission, found)
            scores.notes.append(f"wrote {self.config.submission}")
        return scores

    def stack(self) -> tuple[Frames, Frames]:
        """Return predicted and true frames.

        Raises:
            UserError: nothing is labelled, or joints are missing that the protocol needs.
        """
        if not self.found:
            raise UserError(
                f"{self.config.data.shards}: none of {self.unlabelled} crops has labels of "
                f"{', '.join(self.run.names[:3])} ... in joints or in a body model's parameters"
            )
        known = [set(points) for points, *_ in (*self.found, *self.true)]
        there = set.intersection(*known)
        self.lacking = [name for name in self.run.names if name not in there]
        names = [name for name in self.run.names if name in there]
        root = self.run.pelvis
        if self.lacking and not (self.run.may_lack and names):
            raise UserError(
                f"protocol={self.config.protocol} needs {', '.join(self.lacking)}, which run or "
                f"labels lack"
            )
        if root is not None and root not in there:
            raise UserError(f"protocol={self.config.protocol} is about {root}, which is not there")
        if self.lacking:
            self.notes.append(
                f"Run or labels have no {', '.join(self.lacking)}: numbers are of {len(names)} of "
                f"{len(self.run.names)} joints and do not compare with papers'."
            )
        if self.unlabelled:
            self.notes.append(f"{self.unlabelled} crops without labels were left out.")
        return self._stack(self.found, names, True), self._stack(self.true, names, False)

    def _stack(self, parts: list, names: list[str], predicted: bool) -> Frames:
        pick = [np.stack([points[name] for name in names]) for points, *_ in parts]
        root = self.run.pelvis
        pelvis = None if root is None else np.stack([points[root] for points, *_ in parts])
        meshes = [mesh for _, mesh, _ in parts if mesh is not None]
        sizes = {len(mesh) for _, mesh, _ in (*self.found, *self.true) if mesh is not None}
        turns = [turn for *_, turn in parts if turn is not None]
        whole = len(meshes) == len(parts) == len(self.true) and len(sizes) == 1
        if any(mesh is None for _, mesh, _ in self.true):
            whole = False
        both = all(turn is not None for *_, turn in (*self.found, *self.true))
        frames = Frames(
            np.stack(pick).astype(np.float64),
            np.stack(meshes).astype(np.float64) if whole else None,
            None if pelvis is None else pelvis.astype(np.float64),
            rotations=np.stack(turns) if both and turns else None,
            sequence=np.array(self.sequences),
            index=np.array([number for _, number in self.places]),
            split=np.array([split for split, _ in self.places]),
            name=f"run={self.config.run}" if predicted else self.config.data.shards or "the shards",
        )
        if predicted and len(self.parameters) == len(parts):
            frames.pose = np.stack([pose for pose, _ in self.parameters]).astype(np.float64)
            frames.shape = np.stack([shape for _, shape in self.parameters]).astype(np.float64)
            frames.variant = self.body.variant
        return frames

    def measure_plausibility(self) -> list[Value]:
        """Return how far predicted meshes are in themselves, and in or above the ground."""
        assert self.body.faces is not None
        faces = self.body.faces.cpu().numpy()
        meshes = np.stack(self.meshes).astype(np.float64)
        rows = largest_part(faces, meshes.shape[1])
        share = float(self_penetration(meshes, faces[rows]).mean()) * 100
        values = [Value("self_penetration", "vertices inside the body", share, "%", 3)]
        if self.config.up:
            penetration, floating, touching = self._measure_ground(meshes)
            values += [
                Value("ground_penetration", "depth below the ground", penetration * MM, "mm", 2),
                Value("floating", "height above the ground", floating * MM, "mm", 2),
                Value("touching", "frames within 5 mm of it", touching * 100, "%", 2, "higher"),
            ]
        return [replace(value, by_script=False) for value in values]

    def _measure_ground(self, meshes: np.ndarray) -> tuple[float, float, float]:
        """Of predicted meshes, the ground being the lowest true vertex of each sequence."""
        truth = [mesh for _, mesh, _ in self.true]
        if any(mesh is None for mesh in truth) or any(Rt is None for Rt in self.cameras):
            raise UserError(
                f"up={self.config.up}: the ground is known by true meshes in a world, and the "
                f"labels of {self.config.data.shards} have none for some crops"
            )
        axis = "xyz".index(self.config.up[-1])
        up = np.eye(3)[axis] * (-1 if self.config.up[0] == "-" else 1)
        mine, ground = np.zeros(len(meshes)), np.zeros(len(meshes))
        for row, Rt in enumerate(self.cameras):
            assert Rt is not None
            for out, mesh in ((mine, meshes[row]), (ground, truth[row])):
                out[row] = ground_heights((mesh - Rt[:, 3])[None] @ Rt[:, :3], up)[0]
        names = np.array(self.sequences)
        for name in set(self.sequences):
            ground[names == name] = ground[names == name].min()
        return ground_errors(mine, ground)

    def _read_person(self, person: Person) -> tuple[Points, np.ndarray, np.ndarray | None]:
        points: Points = {}
        moved = self._find_shift(person)
        if self.body.name in FAMILY:
            points |= dict(zip(self.body.joint_names, person.joints + moved, strict=True))
        points |= dict(zip(self.body.keypoint_names, person.keypoints + moved, strict=True))
        vertices = person.vertices + moved
        points |= self._regress(vertices)
        turns = None
        if self.run.rotations and person.pose is not None and self.body.name == "smpl":
            chained = chain_rotations_of(person.pose[None], self.body.parents)
            turns = chained[0, list(self.run.rotations)]
        return points, vertices, turns

    def _find_shift(self, person: Person) -> np.ndarray:
        """(3,) that brings a body to where SMPL's file poses it; 0 where the translation counts."""
        if (
            not self.run.untranslated
            or person.shape is None
            or not isinstance(self.body, SmplModel)
        ):
            return np.zeros(3)
        shape = torch.from_numpy(person.shape)[None].to(self.predictor.device)
        root = self.body.rest_root(shape)[0].double().cpu().numpy()
        return root - person.translation

    def _read_truth(
        self, crop: Crop, labels: CropLabels
    ) -> tuple[Points, np.ndarray | None, np.ndarray | None] | None:
        """Points by name, vertices and orientations in the camera's axes; None of nothing."""
        points: Points = {}
        mesh, turns = labels.vertices, None
        posed = self._pose(labels)
        if posed is not None:
            mesh = posed.vertices[0] if mesh is None else mesh
            points |= dict(zip(FAMILY["smpl"].joint_names, posed.joints[0], strict=True))
            if self.run.rotations:
                turns = posed.rotations[0, list(self.run.rotations)]
        joints = labels.joints
        if joints is not None and joints.joint_set in JOINT_SETS:
            rows = zip(
                find_joint_set(joints.joint_set).joints,
                joints.points,
                joints.confidence,
                strict=True,
            )
            points |= {name: point for name, point, confidence in rows if confidence > 0}
        if labels.frame == "world":
            if crop.Rt is None:
                return None
            Rt = np.asarray(crop.Rt, np.float64)
            points = {name: Rt[:, :3] @ point + Rt[:, 3] for name, point in points.items()}
            mesh = None if mesh is None else mesh @ Rt[:, :3].T + Rt[:, 3]
            turns = None if turns is None else Rt[:, :3] @ turns
        if mesh is not None:
            points |= self._regress(mesh)
        if not set(points).intersection(self.run.names):
            return None
        return points, mesh, turns

    def _pose(self, labels: CropLabels):
        """SMPL posed as labels say, where they do."""
        body = labels.body
        if body is None or body.model != "smpl" or "pose" not in body.parameters:
            return None
        wanted = (self.run.rows and self.regressor is not None) or self.config.up
        if not wanted and not self.run.rotations:
            return None
        poser = self.posers.setdefault(body.variant, SmplPoser(body.variant))
        values = body.parameters
        transl = values.get("transl")
        return poser(
            values["pose"].reshape(1, 72),
            values["betas"][None],
            None if transl is None else transl[None],
        )

    def _regress(self, vertices: np.ndarray) -> Points:
        """The protocol's joints of a mesh, by name, where the regressor is of such meshes."""
        if self.regressor is None or not self.run.rows:
            return {}
        if self.regressor.shape[1] != len(vertices):
            return {}
        rows = self.regressor @ vertices
        out = {name: rows[row] for name, row in zip(self.run.names, self.run.rows, strict=True)}
        if self.run.pelvis is not None:
            out[self.run.pelvis] = rows[0]
        return out
