"""Body models by name.

    body = open_model("anny")                  # or "anny_hand", the right hand
    coarse = body.coarse(512)                  # the same function, fewer vertices
    vertices, joints = body(pose, translation, shape)

A body model called NAME is one module, data/bodies/NAME.py, which registers a function that opens
it. A model that labels name also registers its ``BodyLayout``: loaders' workers read labels by it,
and they import no torch, so such a module imports torch within its functions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import UserError
from engine.registry import Registry

if TYPE_CHECKING:
    from data.bodies.base import BodyModel


@dataclass(frozen=True)
class BodyLayout:
    """Which joints a body model's labels hold.

    Attributes:
        joint_names: of the J joints, in the labels' order.
        keypoints: {name that the field's body models share: the joint's name here}, the root first;
            see data.bodies.base.BODY_KEYPOINTS.
        parts: {"left_hand", "right_hand", ...: names of its joints, its root first}.
    """

    joint_names: tuple[str, ...]
    keypoints: Mapping[str, str]
    parts: Mapping[str, tuple[str, ...]]

    def index_keypoints(self) -> list[int]:
        """Returns the index of each keypoint's joint."""
        return [self.joint_names.index(name) for name in self.keypoints.values()]

    def index_part(self, part: str) -> list[int]:
        """Returns the indices of a part's joints; of "body" those of the keypoints."""
        if part == "body":
            return self.index_keypoints()
        return [self.joint_names.index(name) for name in self.parts[part]]


@dataclass(frozen=True)
class LabelChoice:
    """Names the labels that a body model learns from.

    Attributes:
        model: the body model that they are of.
        variant: which of its kinds, such as "neutral"; "": any.
    """

    model: str = "anny"
    variant: str = ""


# What is registered takes a variant, such as "neutral"; "" is the model's own default.
BODIES: Registry[Callable[[str], BodyModel]] = Registry("body", "data.bodies")
LAYOUTS: Registry[BodyLayout] = Registry("body_model", "data.bodies")


def open_model(name: str, variant: str = "", betas: int = 0) -> BodyModel:
    """Returns the data.bodies.base.BodyModel of that name.

    Args:
        variant: such as "female"; "" is the model's default.
        betas: how many shape numbers it takes at most; 0: as many as its file has.

    Raises:
        UserError: there is no such model or variant, or its files cannot be read or written.
    """
    body = BODIES.find(name)(variant)
    if betas:
        body.limit_shape(betas)
    return body


def refuse_variant(name: str, variant: str) -> None:
    """Raises UserError for a variant of a model that has none."""
    if variant:
        raise UserError(f"body={name} has no variants; '{variant}' was asked for")
