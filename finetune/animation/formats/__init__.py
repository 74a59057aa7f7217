"""Files of animation: one module a format, found by its name.

    @FORMATS.register("bvh")
    def write_bvh(take: Take, stem: Path) -> list[Path]: ...

A writer gets a whole Take and the path of its files without ending, and returns what it wrote.
"""

from collections.abc import Callable
from pathlib import Path

from engine.registry import Registry
from finetune.animation.track import Take

Writer = Callable[[Take, Path], list[Path]]

FORMATS: Registry[Writer] = Registry("formats", "finetune.animation.formats")
