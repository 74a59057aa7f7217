"""A person's joints from the rotations of a few bones, in numpy: what planting the feet needs.

Fingers and toes are left out, so it costs a third of the body model's own joints.
"""

from collections.abc import Mapping, Sequence

import numpy as np

LEG = ("upperleg01", "lowerleg01", "foot")  # whose heads are hip, knee and ankle
SIDES = ("L", "R")

# (from, to, share of the body's mass, where along the segment its middle lies): Winter,
# "Biomechanics and Motor Control of Human Movement", table 4.1; head and trunk apart.
_SEGMENTS = (
    ("root", "neck01", 0.497, 0.5),
    ("neck03", "head", 0.081, 1.0),
    ("upperleg01.", "lowerleg01.", 0.100, 0.433),
    ("lowerleg01.", "foot.", 0.0465, 0.433),
    ("foot.", "foot.", 0.0145, 0.5),
    ("upperarm01.", "lowerarm01.", 0.028, 0.436),
    ("lowerarm01.", "wrist.", 0.022, 0.6),
)


def _list_segments() -> list[tuple[str, str, float, float]]:
    """The segments with those of both sides named."""
    out = []
    for start, end, mass, share in _SEGMENTS:
        if start.endswith("."):
            out += [(start + side, end + side, mass, share) for side in SIDES]
        else:
            out.append((start, end, mass, share))
    return out


SEGMENTS = _list_segments()


class Skeleton:
    """A person at rest, whose joints are found for any rotations.

    Args:
        names: of the B bones.  parents: (B,) number of each bone's parent, -1 for the root, which
            is first; parents come before their children.
        heads: (B, 3) where the bones begin at rest, metres; z up.
        soles: (2, 2, 3) heel and ball of the left and of the right foot at rest.
    """

    def __init__(
        self,
        names: Sequence[str],
        parents: Sequence[int],
        heads: np.ndarray,
        soles: np.ndarray,
    ) -> None:
        self.index: Mapping[str, int] = {name: i for i, name in enumerate(names)}
        self.heads = np.asarray(heads, np.float64)
        self.parents = list(parents)
        self.soles = np.asarray(soles, np.float64)
        self.used = self._list_used(names)

    def _list_used(self, names: Sequence[str]) -> list[int]:
        """The bones without fingers, toes and eyes, parents first."""
        used = []
        for i, name in enumerate(names):
            if not name.startswith(("finger", "metacarpal", "toe", "eye")):
                used.append(i)
        return used

    @property
    def leg_m(self) -> float:
        """Length of a leg from hip to ankle, metres."""
        hip, knee, ankle = (self.heads[self.index[f"{bone}.L"]] for bone in LEG)
        return float(np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee))

    def find_joints(self, rotations: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, B, 3) joints and (T, B, 3, 3) world rotations; NaN for bones that are left out.

        Args:
            rotations: (T, B, 3, 3) relative to the parent, in axes that are the world's at rest.
            root: (T, 3) metres, where the root is put.
        """
        count = len(rotations)
        joints = np.full((count, len(self.heads), 3), np.nan)
        frames = np.full((count, len(self.heads), 3, 3), np.nan)
        for bone in self.used:
            parent = self.parents[bone]
            if parent < 0:
                joints[:, bone], frames[:, bone] = root, rotations[:, bone]
                continue
            offset = self.heads[bone] - self.heads[parent]
            joints[:, bone] = joints[:, parent] + frames[:, parent] @ offset
            frames[:, bone] = frames[:, parent] @ rotations[:, bone]
        return joints, frames

    def find_soles(self, joints: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """(T, 2, 2, 3) heels and balls of both feet."""
        out = []
        for side, points in zip(SIDES, self.soles, strict=True):
            foot = self.index[f"foot.{side}"]
            offsets = points - self.heads[foot]
            moved = np.einsum("tij,pj->tpi", frames[:, foot], offsets)
            out.append(joints[:, foot, None] + moved)
        return np.stack(out, 1)

    def find_mass_centre(self, joints: np.ndarray) -> np.ndarray:
        """(T, 3) centre of mass by the segments' masses."""
        total = 0.0
        centre = np.zeros((len(joints), 3))
        for start, end, mass, share in SEGMENTS:
            a, b = joints[:, self.index[start]], joints[:, self.index[end]]
            centre += mass * (a + share * (b - a))
            total += mass
        return centre / total
