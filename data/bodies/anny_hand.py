"""The right hand of anny as a body model of its own. A left hand is learnt in a mirror."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.bodies.models import BODIES, refuse_variant

if TYPE_CHECKING:
    from data.bodies.anny_model import AnnyHand


@BODIES.register("anny_hand")
def open_anny_hand(variant: str = "") -> AnnyHand:
    """Returns the right hand, cut from the whole body at the wrist; see open_model."""
    from data.bodies.anny_model import build_hand

    refuse_variant("anny_hand", variant)
    return build_hand()
