"""Heads: from an encoder's tokens to people's meshes; one module each, found by ``head.name=``."""

from typing import TYPE_CHECKING

from engine.registry import Registry

if TYPE_CHECKING:
    from finetune.heads.base import Head

HEADS: "Registry[type[Head]]" = Registry("head.name", "finetune.heads")
