"""The keys of ``task=two_views``. Nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.config import CropPairDataConfig
from engine.config.parser import key, section
from engine.errors import UserError
from finetune.config import FinetuneConfig
from pretrain.config import ModelConfig

if TYPE_CHECKING:
    from data.bodies.base import BodyModel
    from finetune.model import Recovery

FUSIONS = ("cross", "late", "none")
CAMERAS = ("known", "unknown")


@dataclass
class TwoViewsKeys:
    """How what two images show becomes one mesh."""

    fusion: str = key(
        "cross",
        "cross: the decoder's tokens of one image attend to the other; late: each image is "
        "answered alone and the two answers are averaged; none: the other image is left out",
        choices=FUSIONS,
    )
    cameras: str = key(
        "known",
        "known: how the two cameras stand to each other is given, but for camera_drop of the "
        "pairs; unknown: it never is",
        choices=CAMERAS,
    )
    camera_drop: float = key(
        0.3, "share of training pairs whose cameras are taken for unknown", low=0, high=1
    )
    second_drop: float = key(
        0.2, "share of training pairs without the other image (fusion=cross)", low=0, high=1
    )
    init_decoder: bool = key(
        True, "take the decoder of init= too; false: it starts afresh, to compare with"
    )


@dataclass
class TwoViewsConfig(FinetuneConfig):
    """Holds the keys of ``python -m finetune train`` with ``task=two_views``."""

    network_sections = ("head", "two_views")

    # Narrower than the mesh task's.
    model: ModelConfig = section(ModelConfig)  # pyrefly: ignore - see above
    data: CropPairDataConfig = section(CropPairDataConfig)  # pyrefly: ignore - see above
    two_views: TwoViewsKeys = section(TwoViewsKeys)

    def check(self) -> None:
        """Raise UserError where keys do not fit each other; see engine.config.parser.parse."""
        super().check()
        if not self.model.decoder.cross:
            raise UserError(
                "task=two_views needs model.decoder.cross=true: its decoder attends to the other "
                "image"
            )
        if self.data.rules.labels != "parameters":
            raise UserError(
                f"data.rules.labels={self.data.rules.labels}: task=two_views learns from the body "
                "model's parameters alone"
            )
        if self.head.prompts:
            raise UserError("head.prompts=true: task=two_views takes images alone")
        if self.head.prompt_mask:
            raise UserError("head.prompt_mask=true: task=two_views takes images alone")

    def make_network(self, body: "BodyModel") -> "Recovery":
        """Return the network for two views, of first weights; see FinetuneConfig."""
        from finetune.two_views.network import TwoViewRecovery

        return TwoViewRecovery(self, body)
