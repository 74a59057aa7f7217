"""The keys of ``python -m pretrain probe``. Nothing here imports torch."""

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
