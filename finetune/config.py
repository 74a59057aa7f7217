"""The keys of ``python -m finetune train``.

Nothing here imports torch: a typo is reported in a fraction of a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from data.bodies.models import BODIES, open_model
from data.config import ClipTrainConfig, CropDataConfig
from engine.config.parser import key, section
from engine.config.train_config import LogConfig, OptimConfig
from engine.errors import UserError
from finetune.fit.config import TrainedFitKeys
from finetune.heads.keys import HeadConfig, ModelBasedConfig
from finetune.tasks import TASKS
from pretrain.config import VisionConfig

if TYPE_CHECKING:
    from data.bodies.base import BodyModel
    from finetune.model import Recovery

DEFAULT_TASK = "mesh"
BODY_MODELS = {"body": "anny", "hand": "anny_hand"}  # what is recovered from crops of a kind


@dataclass
class LossConfig:
    """Sets the weights of the terms of the loss."""

    rotation: float = key(0.5, "weight of rotation matrices, squared", low=0)
    shape: float = key(0.5, "weight of shape parameters, squared", low=0)
    joints: float = key(5.0, "weight of joints about the root, metres", low=0)
    vertices: float = key(5.0, "weight of vertices about the root, metres", low=0)
    keypoints_2d: float = key(
        5.0, "weight of keypoints in the image, over its side", low=0, renamed_from="projected"
    )
    keypoint_maps: float = key(
        1.0,
        "weight of where in the image keypoints are said to be, of heads that say it "
        "(head.map_cells)",
        low=0,
    )
    translation: float = key(
        1.0,
        "weight of the root's offset in the image and of the log of its depth",
        low=0,
        renamed_from="place",
    )

    def check(self) -> None:
        """Raise UserError where all weights of what is recovered are 0; maps recover nothing."""
        if not any(
            (
                self.rotation,
                self.shape,
                self.joints,
                self.vertices,
                self.keypoints_2d,
                self.translation,
            )
        ):
            raise UserError(
                "all weights of loss. but keypoint_maps are 0: another one must be above"
            )


@dataclass
class FinetuneOptimConfig(OptimConfig):
    """Adds how learning rates differ between the encoder's layers."""

    layer_decay: float = key(
        1.0,
        "factor on the encoder's learning rate from each of its blocks to the one before, such as "
        "0.75; 1: all learn alike",
        low=0.01,
        high=1,
    )


@dataclass
class RobustConfig:
    """Sets how images are changed against the network in training."""

    share: float = key(
        0.0,
        "share of crops that are changed by one step with noise (N-FGSM); each costs one more pass "
        "forward and backward",
        low=0,
        high=1,
    )
    radius: float = key(4.0, "how far a step changes a pixel, of 255", low=0.01, high=255)


@dataclass
class FinetuneLogConfig(LogConfig):
    """Adds what fine-tuning validates and draws."""

    val_clips: int = key(
        32, "validation clips whose errors are followed", low=1, renamed_from="held_out_clips"
    )
    images: int = key(6, "validation crops that are drawn", low=1, renamed_from="pictures")


@dataclass
class FinetuneConfig(ClipTrainConfig):
    """Holds the keys of ``python -m finetune train``.

    Class attributes:
        network_sections: beside ``model``, those that say how the network is built.
    """

    network_sections: ClassVar[tuple[str, ...]] = ("head",)

    task: str = key(DEFAULT_TASK, "what is learnt: a module of finetune/tasks")
    model: VisionConfig = section(VisionConfig)
    head: HeadConfig = section(ModelBasedConfig)
    loss: LossConfig = section(LossConfig)
    robust: RobustConfig = section(RobustConfig)
    fit: TrainedFitKeys = section(TrainedFitKeys)
    # Narrower than every task's.
    data: CropDataConfig = section(CropDataConfig)  # pyrefly: ignore - see above
    optim: FinetuneOptimConfig = section(FinetuneOptimConfig)  # pyrefly: ignore - see above
    log: FinetuneLogConfig = section(FinetuneLogConfig, resumable=True)  # pyrefly: ignore - see above
    body: str = key(
        "",
        "body model, a module of data/bodies; default: anny, or anny_hand for crops of hands",
    )
    body_variant: str = key(
        "", "which of a body model's kinds, such as female; default: neutral, or the right hand"
    )
    body_betas: int = key(
        0,
        "shape numbers of SMPL's family that are recovered, at most; 0: as many as the file has",
        low=0,
    )
    margin: float = key(
        1.35,
        "for predict: side of a crop over the longer side of the box, as in the shards",
        low=1,
        high=4,
    )
    coarse_vertices: int = key(
        256,
        "vertices of the coarse mesh that is compared in training",
        low=16,
        renamed_from="loss.mesh",
    )
    encoder_lr_mult: float = key(
        1.0,
        "the encoder's learning rate over the head's; 0 freezes it, which saves time and memory",
        low=0,
        renamed_from="encoder_lr",
    )
    head_first_steps: int = key(
        0,
        "steps in which the head alone is trained and the encoder is frozen; then it has a warm-up "
        "of its own (optim.warmup)",
        low=0,
    )

    fit_every: int = key(
        0,
        "steps between fits of the clips that have keypoints alone, begun with the network's "
        "answers: the better of a clip's fits is its label (data.rules.labels=any); 0: never",
        low=0,
    )

    @classmethod
    def choose(cls, texts: Mapping[str, str]) -> "type[FinetuneConfig]":
        """The dataclass of the task that is named; see engine.config.parser.choose_schema."""
        name = texts.get("task", DEFAULT_TASK)
        if name == DEFAULT_TASK:
            return FinetuneConfig  # known here, so that its typos are reported without torch
        return cast("type[FinetuneConfig]", TASKS.find(name).schema)

    def evaluation(self, checkpoint: str | Path) -> list[str]:
        """Return the words of ``python -m`` that evaluate a checkpoint for the run's log."""
        # Without shards of their own the run's are read, and who trains on a command's output may
        # evaluate on it.
        shards = (
            [f"data.shards={self.evaluate.shards}"]
            if self.evaluate.shards
            else ["allow_commands=true"]
        )
        return [
            "finetune",
            "evaluate",
            str(checkpoint),
            *shards,
            f"device={self.device}",
            *self.evaluate.keys,
            "log=true",
        ]

    init_head: bool = key(
        False,
        "take the head and the mean body of init= too: a fine-tuned network goes on with other "
        "data; weights that ship may be named",
        resumable=True,
    )

    init_encoder: bool = key(
        False,
        "init= names a fine-tuned network, such as weights that ship, and its encoder alone is "
        "taken; the head is a new one",
        resumable=True,
    )

    def check(self) -> None:
        """Raise UserError where keys do not fit each other; see engine.config.parser.parse."""
        super().check()
        self.head.check_run(self)
        if self.head.prompts != bool(self.data.augment.prompt_share):
            raise UserError(
                f"head.prompts={str(self.head.prompts).lower()} and "
                f"data.augment.prompt_share={self.data.augment.prompt_share}: a head that takes "
                "keypoints is given some, and one that does not is given none"
            )
        if self.head.prompt_mask != bool(self.data.augment.mask_share):
            raise UserError(
                f"head.prompt_mask={str(self.head.prompt_mask).lower()} and "
                f"data.augment.mask_share={self.data.augment.mask_share}: a head that takes "
                "outlines is given some, and one that does not is given none"
            )
        self.check_encoder()
        if self.data.rules.labels == "any" and self.task != DEFAULT_TASK:
            raise UserError(
                f"data.rules.labels=any is for task={DEFAULT_TASK}: task={self.task} learns from "
                "the body model's parameters"
            )
        if self.robust.share and (self.parallel != "ddp" or self.task != DEFAULT_TASK):
            raise UserError(
                f"robust.share={self.robust.share} is for parallel=ddp and task={DEFAULT_TASK}, "
                f"not for parallel={self.parallel} and task={self.task}"
            )
        self.check_fits()
        if self.init_head and not self.init:
            raise UserError("init_head=true and init= is not set: name the fine-tuned network")
        if self.init_encoder and (self.init_head or not self.init):
            beside = "init_head=true takes the head too" if self.init else "init= is not set"
            raise UserError(f"init_encoder=true, but {beside}: name the network, and one of both")
        BODIES.find(self.body_model)

    def check_fits(self) -> None:
        """Raise UserError where the keys of fits in training contradict others."""
        if not self.fit_every:
            if self.fit != TrainedFitKeys():
                raise UserError("fit. keys are set and fit_every=0: nothing is fitted in training")
            return
        if self.fit.frozen:
            raise UserError("fit.frozen=true is for counterpose fit, not for fits in training")
        if self.parallel != "ddp" or self.task != DEFAULT_TASK:
            raise UserError(
                f"fit_every={self.fit_every} is for parallel=ddp and task={DEFAULT_TASK}, not for "
                f"parallel={self.parallel} and task={self.task}"
            )
        if self.data.rules.labels != "any":
            raise UserError(
                f"fit_every={self.fit_every} and data.rules.labels={self.data.rules.labels}: fits "
                "are labels of crops that have keypoints alone, which data.rules.labels=any reads"
            )

    def make_network(self, body: "BodyModel") -> "Recovery":
        """Return the network that the task trains, of first weights.

        Args:
            body: the full body model.
        """
        from finetune.model import Recovery

        return Recovery(self.model, self.head, body, self.task)

    def check_encoder(self) -> None:
        """Raise UserError where the keys of how the encoder is trained contradict each other."""
        frozen, first = self.encoder_lr_mult == 0, self.head_first_steps
        if frozen and first:
            raise UserError(
                f"encoder_lr_mult=0 freezes the encoder for good, head_first_steps={first} for a "
                "while: leave one out"
            )
        if frozen and self.optim.layer_decay != 1:
            raise UserError(
                f"encoder_lr_mult=0 freezes the encoder, and optim.layer_decay="
                f"{self.optim.layer_decay} says how its blocks learn: leave one out"
            )
        if first >= self.steps:
            raise UserError(
                f"head_first_steps={first} is not below steps={self.steps}: encoder_lr_mult=0 "
                "freezes the encoder for a whole run"
            )

    def open_body(self) -> "BodyModel":
        """Return the full body model that is recovered; see data.bodies.models.open_model."""
        return open_model(self.body_model, self.body_variant, self.body_betas)

    @property
    def body_model(self) -> str:
        """Name of the body model: as ``body`` says, or that of the crops' kind."""
        return self.body or BODY_MODELS[self.data.rules.crops]
