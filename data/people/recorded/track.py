"""A recording on a skeleton of its own, reduced to the joints that matter here."""

from dataclasses import dataclass

import numpy as np

SIDES = ("left", "right")
LIMBS = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
# The torso's two, the head, then the limbs of both sides; toes are not in every recording.
ROLES = ("pelvis", "chest", "head", *(f"{side}_{limb}" for side in SIDES for limb in LIMBS))
TOES = ("left_toes", "right_toes")
MOST_HZ = 60.0  # what is recorded at more is thinned out


@dataclass(frozen=True)
class Track:
    """A recorded motion of F frames.

    A joint's own axes are those of the file in the skeleton's zero pose, where all rotations are
    the identity.

    Attributes:
        rest: {role: (3,)} where the joints are in the zero pose, in the file's axes and unit.
        rotations: {role: (F, 3, 3)} float32 from a joint's own axes to the world's, z up.
        root: (F, 3) where the pelvis is, world, the file's unit.
        lowest: (F,) height of the lowest of all joints, the file's unit.
        rate_hz: frames a second.
    """

    rest: dict[str, np.ndarray]
    rotations: dict[str, np.ndarray]
    root: np.ndarray
    lowest: np.ndarray
    rate_hz: float

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the last."""
        return (len(self.root) - 1) / self.rate_hz

    @property
    def leg(self) -> float:
        """Mean length of both legs from hip to ankle, the file's unit."""
        total = 0.0
        for side in SIDES:
            hip, knee, ankle = (self.rest[f"{side}_{limb}"] for limb in LIMBS[:3])
            total += float(np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee))
        return total / 2

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        arrays = [self.root, self.lowest, *self.rotations.values()]
        return sum(array.nbytes for array in arrays)


def make_track(
    roles: dict[str, int],
    parents: list[int],
    offsets: np.ndarray,
    local: np.ndarray,
    root: np.ndarray,
    axes: np.ndarray,
    rate_hz: float,
) -> Track:
    """The Track of a skeleton's local rotations.

    Args:
        roles: {role: joint}; what is in ROLES, and TOES where there are any.
        parents: (J,) of each joint, -1 for the first; parents come first.
        offsets: (J, 3) from the parent in its own axes.
        local: (F, J, 3, 3) relative to the parent.
        root: (F, 3) where the first joint is, in the file's axes.
        axes: (3, 3) from the file's world to one with z up.
        rate_hz: frames a second.
    """
    thin = max(1, int(np.ceil(rate_hz / MOST_HZ - 1e-6)))
    local, root = local[::thin], root[::thin]
    turned: list[np.ndarray] = []
    places: list[np.ndarray] = []
    rest = np.zeros((len(parents), 3))
    for joint, parent in enumerate(parents):
        if parent < 0:
            turned.append(axes @ local[:, joint])
            places.append(root @ axes.T)
            continue
        turned.append(turned[parent] @ local[:, joint])
        places.append(places[parent] + turned[parent] @ offsets[joint])
        rest[joint] = rest[parent] + offsets[joint]
    heights = np.stack([place[:, 2] for place in places])
    return Track(
        {role: rest[joint] for role, joint in roles.items()},
        {role: turned[joint].astype(np.float32) for role, joint in roles.items()},
        places[roles["pelvis"]],
        heights.min(0),
        rate_hz / thin,
    )
