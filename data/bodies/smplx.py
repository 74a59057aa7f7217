"""SMPL-X, by the user's own file: docs/bodies.md. Imports no torch until it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.bodies.models import BODIES, LAYOUTS
from data.bodies.smpl_layout import SMPLX, lay_out_body

if TYPE_CHECKING:
    from data.bodies.smpl_model import SmplModel

LAYOUTS.register("smplx")(lay_out_body(SMPLX))


@BODIES.register("smplx")
def open_smplx(variant: str = "") -> SmplModel:
    """Returns SMPL-X: "neutral" (the default), "male" or "female"; see open_model."""
    from data.bodies.smpl_model import build_body

    return build_body(SMPLX, variant)
