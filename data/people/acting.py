"""What a person does at a clip's instants, as rotations of the rig: written or recorded motions."""

import numpy as np
import torch

from data.bodies.anny_body import AnnyBody
from data.people import collide, motion, planting
from data.people.actions.embody import embody
from data.people.actions.plan import Plan
from data.people.config import PeopleConfig
from data.people.recorded.folder import Recordings, Take
from data.people.rig import Rig
from data.people.skeleton import LEG, Skeleton

FOOT_M = 0.3  # a foot's vertices are that near to its ankle, seen from above
SOLE_M = 0.012  # and its sole's that near to the lowest


class Actor:
    """Makes a body move.

    Args:
        body: on the device where it is posed.  rig: of its bones.
        skin: (n,) numbers of the vertices of the body's own surface.
        recorded: a recorded motion, or a folder of some, if any.

    Raises:
        UserError: there is no such file or folder, or no motion in it.
    """

    def __init__(self, body: AnnyBody, rig: Rig, skin: np.ndarray, recorded: str | None) -> None:
        self.body, self.rig, self.index, self.skin = body, rig, rig.index, skin
        self.recordings = None if recorded is None else Recordings(recorded, rig)

    def act(
        self,
        config: PeopleConfig,
        rng: np.random.Generator,
        moves: motion.Motion,
        clock: motion.Clock,
        rest: dict[str, torch.Tensor],
        weight: float,
    ) -> Take:
        """The Take of a person: by the config's share a recorded one, or ``moves``.

        Args:
            rng: of what is recorded alone.  clock: of the instants.
            rest: the body at rest.  weight: its shape parameter in [0, 1].

        Raises:
            UserError: none of the recordings can be read.
        """
        domain, recordings = config.domain, self.recordings
        share = 1.0 if config.motion else domain.recorded_share
        if recordings is None or rng.random() >= share:
            if moves.plan is not None:
                return self._perform(moves, moves.plan, rest, weight)
            return self._write(moves, rest, weight, domain.planted)
        roam_m = motion.ROAM_M[config.kind]
        take = recordings.draw(rng, clock, self._measure_leg(rest), roam_m)
        return self._replay(take, moves.hands, rest, weight)

    def _write(
        self, moves: motion.Motion, rest: dict[str, torch.Tensor], weight: float, planted: bool
    ) -> Take:
        """A written motion, its hands out of the body, its feet planted if they are to be."""
        hands, root = moves.hands, moves.root

        def joints_of(angles: np.ndarray) -> np.ndarray:
            return self._find_joints(*self.rig.pose(angles, hands, root), rest)

        angles, _ = collide.clear_hands(moves.angles, joints_of, self.index, weight)
        rotations, translation = self.rig.pose(angles, hands, root)
        if planted:
            rotations, translation = self._plant(moves, angles, rotations, translation, rest)
        grounded = np.zeros(len(root))
        heading_deg = float(root[:, 0].mean())
        return Take(rotations, translation, grounded, angles, heading_deg, moves.times_s)

    def _perform(
        self, moves: motion.Motion, plan: Plan, rest: dict[str, torch.Tensor], weight: float
    ) -> Take:
        """A planned motion on this body, its hands out of the body."""
        skeleton, hands = self.find_skeleton(rest), moves.hands
        acted = embody(plan, moves.times_s, self.rig, skeleton, moves.angles, hands)
        root = np.concatenate([acted.heading_deg[:, None], acted.root[:, :2]], 1)

        def joints_of(angles: np.ndarray) -> np.ndarray:
            return self._find_joints(*self.rig.pose(angles, hands, root), rest)

        angles, _ = collide.clear_hands(acted.angles, joints_of, self.index, weight)
        if (angles != acted.angles).any():
            acted = embody(plan, moves.times_s, self.rig, skeleton, angles, hands)
        middle = acted.root.mean(0) * [1, 1, 0]
        return Take(
            acted.rotations,
            acted.root - middle,
            acted.lift_m,
            acted.angles,
            float(acted.heading_deg.mean()),
            moves.times_s,
            acted.seated,
        )

    def _replay(
        self, take: Take, hands: np.ndarray, rest: dict[str, torch.Tensor], weight: float
    ) -> Take:
        """A recorded motion with these fingers; its feet stay as they were recorded."""
        self.rig.bend_fingers(take.rotations, hands)

        def joints_of(rotations: np.ndarray) -> np.ndarray:
            return self._find_joints(rotations, take.root, rest)

        take.rotations = collide.open_arms(take.rotations, joints_of, self.index, weight)
        return take

    def _measure_leg(self, rest: dict[str, torch.Tensor]) -> float:
        """Metres from hip to ankle."""
        still = np.zeros((1, len(self.index), 3))
        joints = self._find_joints(still, np.zeros((1, 3)), rest)[0].astype(np.float64)
        hip, knee, ankle = (joints[self.index[f"{bone}.L"]] for bone in LEG)
        return float(np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee))

    def _find_joints(
        self, rotations: np.ndarray, root: np.ndarray, rest: dict[str, torch.Tensor]
    ) -> np.ndarray:
        """(T, B, 3) metres."""
        device = self.body.faces.device
        pose, place = (
            torch.from_numpy(np.asarray(array, np.float32)).to(device)
            for array in (rotations, root)
        )
        return self.body.joints_at(pose, place, rest).cpu().numpy()

    def _plant(
        self,
        moves: motion.Motion,
        angles: np.ndarray,
        rotations: np.ndarray,
        translation: np.ndarray,
        rest: dict[str, torch.Tensor],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rotations and translation of a body that stands on its feet; see planting.py."""
        skeleton = self.find_skeleton(rest)
        if moves.gait is not None:
            gait = moves.gait
            count = len(gait.angles)
            turns = np.concatenate([gait.heading_deg[:, None], np.zeros((count, 2))], 1)
            fine, _ = self.rig.pose(gait.angles, np.zeros((count, 2, moves.hands.shape[2])), turns)
            path = planting.walk_path(skeleton, fine)[gait.at]
            translation = translation.copy()
            translation[:, :2] = path - path.mean(0)
        return planting.plant_feet(
            skeleton, angles, rotations, translation, follow=moves.gait is None
        )

    def find_skeleton(self, rest: dict[str, torch.Tensor]) -> Skeleton:
        """The Skeleton of a body at rest; its soles' ends are the lowest vertices of each foot.

        anny's poses are about bones as they lie in its reference; a shape's own bones lie a little
        askew, and are laid there one after the other (anny.utils.kinematics, "local-ref").
        """
        bones = rest["rest_bone_poses"][0].double().cpu().numpy()
        orientations = self.body.model.reference_bone_orientations
        assert orientations is not None, "anny's own rig has them"
        reference = orientations.double().cpu().numpy()
        straighten = reference @ np.swapaxes(bones[:, :3, :3], -1, -2)
        straighten[0] = np.eye(3)
        heads = bones[:, :3, 3].copy()
        for bone, parent in enumerate(self.body.parents):
            if parent >= 0:
                offset = bones[bone, :3, 3] - bones[parent, :3, 3]
                heads[bone] = heads[parent] + straighten[parent] @ offset
        vertices = rest["rest_vertices"][0].double().cpu().numpy()[self.skin]
        soles = []
        for side in ("L", "R"):
            foot = self.index[f"foot.{side}"]
            ankle = bones[foot, :3, 3]
            near = np.linalg.norm(vertices[:, :2] - ankle[:2], axis=1) < FOOT_M
            around = vertices[near & (vertices[:, 2] < ankle[2])]
            flat = around[around[:, 2] < around[:, 2].min() + SOLE_M]
            ends = flat[[flat[:, 1].argmax(), flat[:, 1].argmin()]]
            soles.append(heads[foot] + (ends - ankle) @ straighten[foot].T)
        return Skeleton(self.body.joint_names, self.body.parents, heads, np.array(soles))
