"""What an encoder is pre-trained to do.

A module each, found by the config key ``objective.name=``.
"""

from typing import TYPE_CHECKING

from engine.registry import Registry

if TYPE_CHECKING:
    from pretrain.objectives.base import Objective

OBJECTIVES: "Registry[type[Objective]]" = Registry("objective.name", "pretrain.objectives")
