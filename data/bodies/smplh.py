"""SMPL-H, by the user's own file: docs/bodies.md. Imports no torch until it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.bodies.models import BODIES, LAYOUTS
from data.bodies.smpl_layout import SMPLH, lay_out_body

if TYPE_CHECKING:
    from data.bodies.smpl_model import SmplModel

LAYOUTS.register("smplh")(lay_out_body(SMPLH))


@BODIES.register("smplh")
def open_smplh(variant: str = "") -> SmplModel:
    """Returns SMPL-H: "neutral" (the default), "male" or "female"; see open_model."""
    from data.bodies.smpl_model import build_body

    return build_body(SMPLH, variant)
