"""The keys of ``python -m pretrain probe|export|replay``.

Nothing here imports torch: help and completion take a fraction of a second.
"""

from dataclasses import dataclass

from engine.config.parser import key
from engine.errors import UserError
from pretrain.config import ProbeConfig


@dataclass
class ProbeCommand(ProbeConfig):
    """The keys of ``python -m pretrain probe``."""

    crops: str = key("body", "which crops are probed", choices=("body", "hand"))
    device: str = key(
        "auto", "auto takes a GPU where there is one", choices=("auto", "cpu", "cuda")
    )
    out: str = key("", "JSON file for the numbers too", path="one")
    log: bool = key(
        False, "put the numbers into the run's log, at the step of the one checkpoint that is named"
    )

    def check(self) -> None:
        """UserError where no shards are named."""
        if not self.shards:
            raise UserError(
                "shards is not set: it names labelled shards that no run was trained on; see "
                "python -m pretrain probe --help"
            )


@dataclass
class ExportConfig:
    """The keys of ``python -m pretrain export``."""

    source: str = key(
        "",
        "a run's folder, one of its checkpoints, a weights file, or a checkpoint of CroCo's layout",
        path="one",
        positional="RUN",
    )
    out: str = key(
        "",
        "timm: FILE.safetensors with the encoder, and beside it FILE.md (a model card) and "
        "FILE.json (its config); croco: FILE.pth with the whole network as CroCo's code reads it",
        path="one",
    )
    layout: str = key("timm", "names of the tensors", choices=("timm", "croco"))
    overwrite: bool = key(False, "replace files that are there")


@dataclass
class ReplayConfig:
    """Holds the keys of ``python -m pretrain replay``."""

    step: int | None = key(
        None,
        "the step whose batch is read again; the captures of a run name those that were bad",
        low=0,
    )
    worst: int = key(8, "highest-loss samples that are named, and drawn with out", low=1)
    out: str = key("", "draw the highest-loss samples into this PNG", path="one")
    allow_commands: bool = key(
        False, "run the commands (pipe:) that RUN's config names; shards given here need no leave"
    )
