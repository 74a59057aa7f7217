"""MANO, by the user's own files: docs/bodies.md. Imports no torch until it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.bodies.models import BODIES, LAYOUTS
from data.bodies.smpl_layout import lay_out_hand

if TYPE_CHECKING:
    from data.bodies.smpl_model import ManoModel

LAYOUTS.register("mano")(lay_out_hand())


@BODIES.register("mano")
def open_mano(variant: str = "") -> ManoModel:
    """Returns a hand: "right" (the default), from which left ones are learnt too, or "left"."""
    from data.bodies.smpl_model import build_hand

    return build_hand(variant)
