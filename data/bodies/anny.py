"""The open body model anny: its layout (data.bodies.anny_layout) and how it is opened.

Imports no torch: loaders' workers read labels by the layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.bodies.anny_layout import ANNY
from data.bodies.models import BODIES, LAYOUTS, refuse_variant

if TYPE_CHECKING:
    from data.bodies.anny_model import AnnyModel

LAYOUTS.register("anny")(ANNY)


@BODIES.register("anny")
def open_anny(variant: str = "") -> AnnyModel:
    """Returns the whole body, 13718 vertices and 104 joints; see open_model."""
    from data.bodies.anny_model import build_body

    refuse_variant("anny", variant)
    return build_body()
