"""From anatomical angles to the joint rotations of anny's skeleton.

anny's pose is a rotation at each bone, relative to its parent, with axes that are those of the
world at the rest pose (an A-pose facing -y): x to the person's left, -y forward, z up. So an
anatomical angle is a rotation about one fixed axis.
"""

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data.people.poses import INDEX

IDENTITY = np.eye(3)
X, Y, Z = IDENTITY
SIDES = (("L", "left", 1.0), ("R", "right", -1.0))
# anny rests with the arms this far from hanging straight down; the angles count from hanging.
ARM_REST_DEG = 38.0
# What anny's fingers are already bent by at rest, by joint.
FINGER_REST_DEG = (8, 12, 6)
SPREAD = {"2": -1.0, "3": -0.25, "4": 0.45, "5": 1.1}


def make_rotation(axis: np.ndarray, degrees: npt.ArrayLike) -> np.ndarray:
    """Rotation matrices (T, 3, 3) about a fixed axis (3,) by (T,) degrees (Rodrigues)."""
    cross, square = _cross(*axis.tolist())
    angle = np.deg2rad(degrees)[:, None, None]
    return IDENTITY + np.sin(angle) * cross + (1 - np.cos(angle)) * square


@functools.lru_cache(maxsize=256)
def _cross(x, y, z):
    """The matrix of the cross product with the unit vector along (x, y, z), and its square."""
    x, y, z = np.array([x, y, z]) / np.sqrt(x * x + y * y + z * z)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return cross, cross @ cross


class Rig:
    """Turns angles into poses.

    Args:
        names: the B bones of anny's rig.  rest_joints: (B, 3) heads of the bones at rest, metres.

    Attributes:
        rest: the same (B, 3).
        axes: {"L" or "R": {name: (3,)}}: of an arm at rest the bones' directions, and what its
            joints bend about.
    """

    def __init__(self, names: Sequence[str], rest_joints: np.ndarray) -> None:
        self.names = list(names)
        self.index = {name: i for i, name in enumerate(self.names)}
        self.rest = np.asarray(rest_joints, np.float64)
        self.axes = {side: self._arm_axes(self.rest, side) for side in "LR"}

    def _arm_axes(self, joints, side):
        def at(name):
            return joints[self.index[f"{name}.{side}"]]

        def unit(vector):
            return vector / np.linalg.norm(vector)

        upper = unit(at("lowerarm01") - at("upperarm01"))
        fore = unit(at("wrist") - at("lowerarm01"))
        hand = unit(at("finger3-1") - at("wrist"))
        palm = unit(np.cross(at("finger2-1") - at("wrist"), at("finger5-1") - at("wrist"))) * (
            -1 if side == "L" else 1
        )
        bend = np.cross(upper, fore)
        axes = {
            "upper": upper,
            "fore": fore,
            "hand": hand,
            "palm": palm,
            "wrist": np.cross(hand, palm),
            "elbow": unit(bend),
            "elbow_rest": np.rad2deg(np.arcsin(np.linalg.norm(bend))),
        }
        for finger in "12345":
            along = unit(at(f"finger{finger}-2") - at(f"finger{finger}-1"))
            further = unit(at(f"finger{finger}-3") - at(f"finger{finger}-2"))
            axes[finger] = np.cross(along, further if finger == "1" else palm)
        return axes

    def pose(
        self, angles: np.ndarray, hands: np.ndarray, root: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Joint rotations of a motion.

        Args:
            angles: (T, 36), hands: (T, 2, 17), root: (T, 3), as sample_motion returns them.
        Returns:
            rotations (T, B, 3, 3) float64; root translation (T, 3) metres, its height left at 0 for
            the caller to ground.
        """
        count = len(angles)
        out = np.tile(np.eye(3), (count, len(self.names), 1, 1))

        def get(name):
            return angles[:, INDEX[name]]

        for bone in ("spine05", "spine04", "spine03", "spine02", "spine01"):
            out[:, self.index[bone]] = (
                make_rotation(Z, get("spine_turn") / 5)
                @ make_rotation(Y, get("spine_side") / 5)
                @ make_rotation(X, get("spine_forward") / 5)
            )
        for bone, share in (("neck01", 0.2), ("neck02", 0.2), ("neck03", 0.2), ("head", 0.4)):
            out[:, self.index[bone]] = (
                make_rotation(Z, get("neck_turn") * share)
                @ make_rotation(Y, get("neck_side") * share)
                @ make_rotation(X, get("neck_forward") * share)
            )
        for side, name, sign in SIDES:
            self._arm(out, angles, side, name, sign)
            self._leg(out, angles, side, name, sign)
        self.bend_fingers(out, hands)
        out[:, 0] = (
            make_rotation(Z, root[:, 0])
            @ make_rotation(Y, get("tip_side"))
            @ make_rotation(X, get("tip_forward"))
        )
        return out, np.concatenate([root[:, 1:], np.zeros((count, 1))], 1)

    def bend_fingers(self, rotations: np.ndarray, hands: np.ndarray) -> None:
        """Put hands (T, 2, 17), as sample_motion returns them, into rotations (T, B, 3, 3)."""
        for i, (side, _, sign) in enumerate(SIDES):
            self._hand(rotations, hands[:, i], side, sign)

    def _arm(self, out, angles, side, name, sign):
        axes, index = self.axes[side], self.index

        def get(dof):
            return angles[:, INDEX[f"{dof}_{name}"]]

        hang = make_rotation(Y, np.full(len(angles), sign * ARM_REST_DEG))
        arm = (
            make_rotation(Z, -sign * get("arm_across"))
            @ make_rotation(X, -get("arm_forward"))
            @ make_rotation(Y, -sign * get("arm_out"))
            @ make_rotation(Z, -sign * get("arm_turn"))
            @ hang
        )
        clavicle, scapula = self.lift_shoulder(arm @ axes["upper"], sign)
        out[:, index[f"clavicle.{side}"]] = clavicle
        out[:, index[f"shoulder01.{side}"]] = scapula
        out[:, index[f"upperarm01.{side}"]] = np.swapaxes(clavicle @ scapula, -1, -2) @ arm
        out[:, index[f"lowerarm01.{side}"]] = make_rotation(
            axes["elbow"], get("elbow") - axes["elbow_rest"]
        )
        # Twist is shared between forearm and wrist: all of it in one joint wrings the skin like a
        # cloth.
        out[:, index[f"lowerarm02.{side}"]] = make_rotation(
            axes["fore"], -sign * get("pronate") * 0.55
        )
        bend = make_rotation(axes["wrist"], get("wrist_flex")) @ make_rotation(
            axes["palm"], sign * get("wrist_tilt")
        )
        out[:, index[f"wrist.{side}"]] = bend @ make_rotation(
            axes["fore"], -sign * get("pronate") * 0.45
        )

    @staticmethod
    def lift_shoulder(way: np.ndarray, sign: float) -> tuple[np.ndarray, np.ndarray]:
        """Rotations (T, 3, 3) of clavicle and scapula for arms that point along ``way``.

        The shoulder girdle follows a raised or forward arm, or the armpit would fold into the
        chest.

        Args:
            way: (T, 3) of the upper arm, in the chest's axes.  sign: 1 left, -1 right.
        """
        lift = np.clip(np.rad2deg(np.arcsin(np.clip(way[:, 2], -1, 1))) + 35, 0, 120)
        forward = np.clip(np.rad2deg(np.arctan2(-way[:, 1], sign * way[:, 0] + 0.4)), -30, 60)
        clavicle = make_rotation(Y, -sign * lift * 0.16) @ make_rotation(Z, -sign * forward * 0.12)
        return clavicle, make_rotation(Y, -sign * lift * 0.10)

    def _leg(self, out, angles, side, name, sign):
        def get(dof):
            return angles[:, INDEX[f"{dof}_{name}"]]

        out[:, self.index[f"upperleg01.{side}"]] = (
            make_rotation(X, -get("hip_forward"))
            @ make_rotation(Y, -sign * get("hip_out"))
            @ make_rotation(Z, sign * get("hip_turn"))
        )
        out[:, self.index[f"lowerleg01.{side}"]] = make_rotation(X, get("knee"))
        out[:, self.index[f"foot.{side}"]] = make_rotation(X, -get("ankle"))
        toes = make_rotation(X, -get("toes"))
        for toe in "12345":
            out[:, self.index[f"toe{toe}-1.{side}"]] = toes

    def _hand(self, out, hand, side, sign):
        axes = self.axes[side]

        def put(finger, joint, rotation):
            out[:, self.index[f"finger{finger}-{joint}.{side}"]] = rotation

        put(
            1,
            1,
            make_rotation(axes["hand"], sign * hand[:, 0] * 1.1)
            @ make_rotation(axes["palm"], -sign * hand[:, 1])
            @ make_rotation(axes["1"], hand[:, 0] * 0.2),
        )
        put(1, 2, make_rotation(axes["1"], hand[:, 2]))
        put(1, 3, make_rotation(axes["1"], hand[:, 3]))
        for k, finger in enumerate("2345"):
            bend = [
                make_rotation(axes[finger], hand[:, 4 + 3 * k + j] - FINGER_REST_DEG[j])
                for j in range(3)
            ]
            put(
                finger,
                1,
                make_rotation(axes["palm"], sign * hand[:, 16] * SPREAD[finger]) @ bend[0],
            )
            put(finger, 2, bend[1])
            put(finger, 3, bend[2])
