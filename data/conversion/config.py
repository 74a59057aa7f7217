"""The keys of ``counterpose bodies list|show|convert``. Imports no torch."""

from dataclasses import dataclass

from engine.config.parser import key
from engine.errors import UserError

SUFFIXES = (".npz", ".json")


@dataclass
class BodiesListConfig:
    """Holds the keys of ``bodies list``: there are none."""


@dataclass
class BodiesShowConfig:
    """Holds the keys of ``bodies show``."""

    name: str = key("", "of a body model, such as smplx", positional="NAME")
    variant: str = key("", "such as female; default: the model's own")


@dataclass
class BodiesConvertConfig:
    """Holds the keys of ``bodies convert``."""

    out: str = key(
        "",
        "file to write, .npz or .json; of labelled shards the folder of the new ones",
        path="one",
    )
    to: str = key("", "body model that is fitted, such as smplx, mano or anny")
    variant: str = key("", "of that model, such as female; default: its own")
    body: str = key(
        "",
        "body model of the parameters, where the input does not say; anny and anny_hand are "
        "known by their joints",
    )
    body_variant: str = key("", "of that model; default: what the input says, or the model's own")
    stride: int = key(1, "every so many frames", low=1)
    frames: int | None = key(None, "at most so many frames of each person", low=1)
    vertices: bool = key(False, "write the fitted meshes too")

    def check(self) -> None:
        """UserError where ``out`` or ``to`` is not set."""
        if not self.out:
            raise UserError("out= is not set: out=FILE.npz names the file to write")
        if not self.to:
            raise UserError("to= is not set: to=NAME names the body model that is fitted")
