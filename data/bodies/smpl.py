"""SMPL, by the user's own file: docs/bodies.md. Imports no torch until it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.bodies.models import BODIES, LAYOUTS
from data.bodies.smpl_layout import SMPL, lay_out_body

if TYPE_CHECKING:
    from data.bodies.smpl_model import SmplModel

LAYOUTS.register("smpl")(lay_out_body(SMPL))


@BODIES.register("smpl")
def open_smpl(variant: str = "") -> SmplModel:
    """Returns SMPL: "neutral" (the default), "male" or "female"; see open_model."""
    from data.bodies.smpl_model import build_body

    return build_body(SMPL, variant)
