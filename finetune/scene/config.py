"""The keys of ``task=scene``. Nothing here imports torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from data.bodies.models import open_model
from data.config import ClipTrainConfig, FrameDataConfig
from data.loading.frames import list_sizes
from engine.config.parser import key, section
from engine.config.train_config import LogConfig
from engine.errors import UserError
from finetune.config import FinetuneOptimConfig
from pretrain.config import VisionConfig

if TYPE_CHECKING:
    from data.bodies.base import BodyModel

BODY = "anny"  # the body model that frames are labelled with
SLOTS = 2  # people whose anchors one token tells apart


@dataclass
class SceneKeys:
    """Sizes of the network and how it sees a scene."""

    side: int = key(320, "images have about side x side pixels, whatever their aspect", low=16)
    late_side: int = key(0, "the same in the last steps of a run; 0: as before", low=0)
    late_steps: int = key(0, "how many steps are the last ones (scene.late_side)", low=0)
    width: int = key(256, "channels of a query", low=8)
    depth: int = key(3, "blocks in which queries attend to each other and to all tokens", low=1)
    heads: int = key(8, "attention heads of a block", low=1)
    queries: int = key(20, "places in an image that are asked for somebody", low=1)
    token_proj_dim: int = key(
        24, "channels of what a query reads about its place; see finetune/scene/windows.py", low=1
    )
    rays: bool = key(True, "tokens are told where the camera sees them, if it is known")
    unknown_share: float = key(
        0.25, "share of training images whose camera is withheld", low=0, high=1
    )
    pair_share: float = key(
        0.5,
        "share of neighbouring images in a batch that are two frames of one scene, from which "
        "people are learnt to be told apart",
        low=0,
        high=1,
    )
    embedding: int = key(32, "numbers that tell who is who from frame to frame", low=2)

    def check(self) -> None:
        """Raise UserError where the keys do not fit each other."""
        if self.width % self.heads or self.width // self.heads % 4:
            raise UserError(
                f"scene.width={self.width} is not a multiple of 4 times scene.heads={self.heads}"
            )
        if bool(self.late_side) != bool(self.late_steps):
            raise UserError(
                f"scene.late_side={self.late_side} and scene.late_steps={self.late_steps}: both "
                "are set, or neither"
            )


@dataclass
class SceneLossConfig:
    """Sets the weights of the terms of the loss."""

    heat: float = key(1.0, "weight of where people are", low=0)
    confidence: float = key(1.0, "weight of whether there is somebody at a query", low=0)
    offset: float = key(1.0, "weight of where in a token the anchor is, over its side", low=0)
    depth: float = key(2.0, "weight of the log of the depth over the focal length", low=0)
    anchor: float = key(0.2, "weight of which joint the anchor is", low=0)
    rotation: float = key(10.0, "weight of rotation matrices, squared", low=0)
    shape: float = key(0.5, "weight of shape parameters, squared", low=0)
    joints: float = key(10.0, "weight of joints about the root, metres", low=0)
    vertices: float = key(10.0, "weight of vertices about the root, metres", low=0)
    keypoints_2d: float = key(3.0, "weight of keypoints in the image, about 2 metres", low=0)
    face: float = key(0.5, "weight of facial actions, squared", low=0)
    track: float = key(0.1, "weight of who is who in two frames of a scene", low=0)


@dataclass
class SceneLogConfig(LogConfig):
    """Adds what is validated and drawn."""

    val_frames: int = key(32, "validation frames whose errors are followed", low=1)
    images: int = key(6, "validation frames that are drawn", low=1)


@dataclass
class SceneConfig(ClipTrainConfig):
    """Holds the keys of ``python -m finetune train`` with ``task=scene``.

    Class attributes:
        network_sections: beside ``model``, those that say how the network is built.
    """

    network_sections: ClassVar[tuple[str, ...]] = ("scene",)

    task: str = key("scene", "what is learnt: a module of finetune/tasks")
    body: str = key(BODY, "body model that is recovered", choices=(BODY,))
    model: VisionConfig = section(VisionConfig)
    scene: SceneKeys = section(SceneKeys)
    loss: SceneLossConfig = section(SceneLossConfig)
    # Narrower than every task's.
    data: FrameDataConfig = section(FrameDataConfig)  # pyrefly: ignore - see above
    optim: FinetuneOptimConfig = section(FinetuneOptimConfig)  # pyrefly: ignore - see above
    log: SceneLogConfig = section(SceneLogConfig, resumable=True)  # pyrefly: ignore - see above
    coarse_vertices: int = key(
        256, "vertices of the coarse mesh that is compared in training", low=16
    )
    encoder_lr_mult: float = key(
        1.0, "the encoder's learning rate over that of the rest; 0 freezes it", low=0
    )
    init_encoder: bool = key(
        False,
        "init= names a fine-tuned network of single people, such as weights that ship (init=body), "
        "whose encoder is taken",
        resumable=True,
    )
    init_head: bool = key(
        False,
        "init= names a run of task=scene, all of whose weights are taken: it goes on with other "
        "data or at another rate",
        resumable=True,
    )

    def check(self) -> None:
        """Raise UserError where keys do not fit each other; see engine.config.parser.parse."""
        super().check()
        if self.model.position == "learnt":
            raise UserError(
                "model.position=learnt is for images of one size: task=scene wants cosine or rope"
            )
        if (self.init_encoder or self.init_head) and not self.init:
            raise UserError("init_encoder=true or init_head=true, and init= is not set")
        if self.init_encoder and self.init_head:
            raise UserError("init_encoder=true and init_head=true: one of both says what is taken")
        if self.scene.queries < self.data.rules.people_max:
            raise UserError(
                f"scene.queries={self.scene.queries} is below "
                f"data.rules.people_max={self.data.rules.people_max}: each person is asked for"
            )
        if self.scene.late_steps >= self.steps:
            raise UserError(
                f"scene.late_steps={self.scene.late_steps} is not below steps={self.steps}: "
                "scene.side alone sets the size of a whole run"
            )
        self._check_pieces(1)

    def check_processes(self, world: int, node: int) -> None:
        """As TrainConfig's; neighbouring images of a pair stay in one part of a batch."""
        super().check_processes(world, node)
        self._check_pieces(world)

    def _check_pieces(self, world: int) -> None:
        piece = self.batch // (world * self.grad_accum_steps)
        if self.scene.pair_share and piece % 2:
            raise UserError(
                f"scene.pair_share={self.scene.pair_share} pairs neighbouring images, and a part "
                f"of the batch has {piece} of them: an even number is wanted, or scene.pair_share=0"
            )

    @property
    def late_from(self) -> int:
        """The step from which on images are of ``scene.late_side``."""
        return self.steps - self.scene.late_steps

    def sizes_at(self, step: int) -> list[tuple[int, int]]:
        """(rows, columns) of the images of each aspect in a step."""
        late = self.scene.late_side and step >= self.late_from
        side: Any = self.scene.late_side if late else self.scene.side
        return list_sizes(side, self.model.patch)

    @property
    def last_side(self) -> int:
        """``scene.side`` of the images at the end of the run: those that it is asked about."""
        return self.scene.late_side or self.scene.side

    def open_body(self) -> "BodyModel":
        """Return the full body model that is recovered."""
        return open_model(self.body)
