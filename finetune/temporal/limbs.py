"""Which joints of a body model the motion module moves, and where they are: a plain chain."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.bodies.base import BodyModel, pair_sides
from engine.errors import UserError
from finetune.temporal.keys import MOTION_BODIES

SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
NECK = ("neck01", "neck02", "neck03", "head")
ARM = ("clavicle", "shoulder01", "upperarm01", "lowerarm01", "lowerarm02", "wrist")
LEG = ("upperleg01", "lowerleg01", "foot")


@dataclass(frozen=True)
class Limbs:
    """The joints that the module moves; the others of a body are filtered.

    Attributes:
        body: name of the body model.
        names: of the joints, parents first, the root in front.
        parents: of each among them; -1 of the root.
        mirror: of each the one on the other side.
        groups: {name: joints} that are wrong together, as where a limb is hidden.
    """

    body: str
    names: tuple[str, ...]
    parents: tuple[int, ...]
    mirror: tuple[int, ...]
    groups: dict[str, tuple[int, ...]]

    def index_of(self, body: BodyModel) -> list[int]:
        """Return where the joints are among a body model's."""
        return [body.joint_names.index(name) for name in self.names]


def find_limbs(body: BodyModel) -> Limbs:
    """Return the Limbs of a body model.

    Raises:
        UserError: the module knows no motions of it.
    """
    if body.name not in MOTION_BODIES:
        raise UserError(
            f"body={body.name}: the motion module knows the rotations of "
            f"{' and '.join(MOTION_BODIES)} alone; video.smooth=one_euro smooths any"
        )
    groups = _list_groups(body)
    names = tuple(dict.fromkeys(name for group in groups.values() for name in group))
    ordered = tuple(name for name in body.joint_names if name in names)
    return Limbs(
        body.name,
        ordered,
        tuple(_find_parent(body, ordered, name) for name in ordered),
        tuple(pair_sides(ordered, ".L", ".R").tolist()),
        {key: tuple(ordered.index(name) for name in group) for key, group in groups.items()},
    )


def _list_groups(body: BodyModel) -> dict[str, tuple[str, ...]]:
    if body.kind == "hand":
        out: dict[str, tuple[str, ...]] = {"root": (body.joint_names[0],)}
        for finger in "12345":
            out[f"finger{finger}"] = tuple(
                name for name in body.joint_names if name.startswith(f"finger{finger}-")
            )
        return out
    out = {"root": (body.joint_names[0],), "spine": SPINE, "head": NECK}
    for side in "LR":
        out[f"arm{side}"] = tuple(f"{name}.{side}" for name in ARM)
        out[f"leg{side}"] = tuple(f"{name}.{side}" for name in LEG)
    return out


def _find_parent(body: BodyModel, names: Sequence[str], name: str) -> int:
    """The nearest joint above that is among the names; -1 of the root."""
    at = body.parents[body.joint_names.index(name)]
    while at >= 0:
        if body.joint_names[at] in names:
            return names.index(body.joint_names[at])
        at = body.parents[at]
    return -1


@torch.no_grad()
def measure_chain(body: BodyModel, limbs: Limbs) -> torch.Tensor:
    """Return (P, 3) metres: where the limbs' joints and their ends are, of an average body.

    The first rows are the joints, each from its parent, in the axes at rest; then the ends of
    ``list_ends``, each from the joint that it hangs on.
    """
    space = body.shape_space
    shape = torch.full((1, len(space.names)), space.mean)
    at = body.read_rest(shape.to(body.vertex_ids.device))[1][0].cpu()
    joints = at[limbs.index_of(body)]
    out = [torch.zeros(3)]
    out += [joints[i] - joints[parent] for i, parent in enumerate(limbs.parents) if parent >= 0]
    for name, parent in list_ends(body, limbs):
        out.append(at[body.joint_names.index(name)] - joints[parent])
    return torch.stack(out)


def list_ends(body: BodyModel, limbs: Limbs) -> list[tuple[str, int]]:
    """Return (joint, number of the limb's joint that moves it) of what hangs on limbs' ends."""
    if body.kind == "hand":
        return []
    out = []
    for side in "LR":
        out.append((f"toe2-1.{side}", limbs.names.index(f"foot.{side}")))
        out.append((f"finger3-1.{side}", limbs.names.index(f"wrist.{side}")))
    out.append(("eye.L", limbs.names.index("head")))
    return out


class Chain(torch.nn.Module):
    """Where the joints are, about the root, by the rotations of the limbs alone.

    Args:
        body: the body model, on any device.
    """

    def __init__(self, body: BodyModel, limbs: Limbs) -> None:
        super().__init__()
        self.parents = limbs.parents
        self.ends = [parent for _, parent in list_ends(body, limbs)]
        self.register_buffer("offsets", measure_chain(body, limbs), persistent=False)

    @property
    def count(self) -> int:
        """How many points ``forward`` returns."""
        return len(self.parents) + len(self.ends)

    def forward(self, turns: torch.Tensor) -> torch.Tensor:
        """Return (..., P, 3) metres of (..., J, 3, 3) rotations."""
        turned, places = [turns[..., 0, :, :]], [turns.new_zeros(*turns.shape[:-3], 3)]
        for joint, parent in enumerate(self.parents[1:], 1):
            turned.append(turned[parent] @ turns[..., joint, :, :])
            places.append(places[parent] + turned[parent] @ self.offsets[joint])
        for number, parent in enumerate(self.ends, len(self.parents)):
            places.append(places[parent] + turned[parent] @ self.offsets[number])
        return torch.stack(places, -2)


def take_6d(turns: np.ndarray) -> np.ndarray:
    """Return (..., 6) float32 of (..., 3, 3) rotations, as engine.geometry does of tensors."""
    columns = np.swapaxes(turns[..., :2], -1, -2)
    return columns.reshape(*turns.shape[:-2], 6).astype(np.float32)
