"""BEDLAM2: as BEDLAM, with 16 shape parameters of SMPL-X with a locked head, and its own joints."""

from dataclasses import dataclass
from typing import ClassVar

from data.sources.labelled import LABELLED
from data.sources.labelled.bedlam import Bedlam
from engine.config.parser import key


@LABELLED.register("bedlam2")
@dataclass
class Bedlam2(Bedlam):
    """BEDLAM2: SMPL-X with a locked head, of the gender that each row names."""

    variant: str = key(
        "file",
        "which SMPL-X the shapes are of; file: what each row's gender says",
        choices=("neutral", "file"),
    )

    kind: ClassVar[str] = "_lockedhead"
