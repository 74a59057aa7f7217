"""The keys of ``python -m pretrain train``.

Nothing here imports torch: a typo is reported in a fraction of a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from data.config import ClipTrainConfig, DataConfig
from data.cropping.geometry import Size, find_sides
from data.format.index import PAIR_KINDS
from engine.config.parser import key, section
from engine.config.train_config import LogConfig
from engine.errors import UserError
from pretrain.objectives import OBJECTIVES

DEFAULT_OBJECTIVE = "completion"
GEOMETRY = ("normals", "parts", "covisibility")  # heads, in their order


@dataclass
class EncoderConfig:
    """Sets the size of the encoder."""

    width: int = key(768, "channels of a token in the encoder", low=4)
    depth: int = key(12, "blocks of the encoder", low=1)
    heads: int = key(12, "attention heads of the encoder", low=1)
    prefix: int = key(
        0,
        "learnt tokens before the patches, of which nothing is asked: class token and registers of "
        "others' weights",
        low=0,
    )
    epsilon: float = key(
        1e-6, "added to variances by its norms; DINOv3's weights want 1e-5", low=1e-12, high=1e-2
    )


@dataclass
class DecoderConfig:
    """Sets the size of the decoder and whether it attends to the reference."""

    width: int = key(512, "channels of a token in the decoder", low=4)
    depth: int = key(8, "blocks of the decoder", low=1)
    heads: int = key(16, "attention heads of the decoder", low=1)
    cross: bool = key(
        True,
        "whether it attends to the reference; false: a masked autoencoder of one image, to compare "
        "with",
    )
    self_attention: bool = key(
        True,
        "false: tokens attend to the visible patches as the encoder leaves them, and not to one "
        "another, as in CrossMAE: far fewer operations",
    )
    gradients: int = key(
        0,
        "directions of gradients whose histograms a second head says of each masked patch "
        "(objective.gradient_weight); 9 is usual; 0: pixels alone",
        low=0,
    )
    latents: int = key(
        0,
        "channels of a teacher's features that another head says of each masked patch "
        "(objective.name=teacher); 0: none",
        low=0,
    )
    reference_gradient: bool = key(
        True,
        "false: the reference is encoded without a backward pass, at a third of the operations "
        "and in less memory; the encoder learns from the masked image alone",
    )
    geometry: list[str] = key(
        [],
        "what further heads say of masked patches on the person, by the maps of synthetic humans "
        "(surface=true of data make): normals, parts, and covisibility, the share that the "
        "reference shows too (objective.geometry_weight)",
        choices=GEOMETRY,
    )


@dataclass
class EmbeddingConfig:
    """Sets the head that says a whole image in a few vectors (objective.name=views)."""

    points: int = key(
        0,
        "3D vectors in which a head says a whole image and which turn as its camera does "
        "(objective.name=views); 0: no such head",
        low=0,
    )
    token_width: int = key(16, "channels that it reads of each token", low=1)
    width: int = key(256, "channels of its hidden layers", low=1)


@dataclass
class VisionConfig:
    """The encoder: what pre-training and fine-tuning share."""

    # An int, or [rows, columns].
    image_size: Any = key(
        224,
        "side of the images in training, pixels; [256,192]: rows and columns of rectangular ones",
        low=8,
        sides=True,
    )
    patch: int = key(16, "side of a patch, pixels", low=1)
    position: str = key(
        "cosine",
        "fixed vectors added to tokens, rotary queries and keys, or learnt vectors added to tokens",
        choices=("cosine", "rope", "learnt"),
    )
    rope_base: float = key(100.0, "base of the rotary frequencies (model.position=rope)", low=1)
    encoder: EncoderConfig = section(EncoderConfig)
    mlp_ratio: float = key(4.0, "width of a block's hidden layer over its width", low=0.25)
    position_span: float = key(
        0.0,
        "cosine and rope: how far positions run across an image, whatever its patches: 14 scales "
        "them to those of 14 patches a side; 0: a patch is 1; DINOv3: 12.566370614359172",
        low=0,
    )

    backbone: str = key(
        "",
        "take the encoder's sizes of a vision transformer of timm: timm:NAME, such as "
        "timm:vit_small_patch14_dinov2; its weights come from a file (init=)",
    )

    def check(self) -> None:
        """Raise UserError where the patch does not divide the image or the encoder does not fit."""
        if self.backbone:
            from pretrain.backbones import adopt, read_backbone  # brings torch

            adopt(self, read_backbone(self.backbone), self.backbone)
        if any(side % self.patch for side in find_sides(self.size)):
            raise UserError(
                f"model.image_size={self.image_size} is not a multiple of model.patch={self.patch}"
            )
        self.check_part("encoder", self.encoder)
        if self.position == "learnt" and self.position_span:
            raise UserError(
                f"model.position_span={self.position_span:g} with model.position=learnt: learnt "
                f"vectors always run across the whole image"
            )

    def check_part(self, name: str, part: "EncoderConfig | DecoderConfig") -> None:
        """UserError where the sizes of the encoder or the decoder do not fit each other."""
        width, heads = part.width, part.heads
        if width % heads:
            raise UserError(
                f"model.{name}.width={width} is not a multiple of model.{name}.heads={heads}"
            )
        if self.position == "rope" and (width // heads) % 4:
            raise UserError(
                f"model.{name}.width={width} over model.{name}.heads={heads} gives heads of "
                f"{width // heads} channels; model.position=rope wants a multiple of 4"
            )
        if self.position != "rope" and width % 4:
            raise UserError(
                f"model.{name}.width={width} is not a multiple of 4, which "
                f"model.position={self.position} wants"
            )

    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches at ``image_size``."""
        rows, columns = find_sides(self.size)
        return rows // self.patch, columns // self.patch

    @property
    def size(self) -> Size:
        """``image_size`` as cropping takes it: a side, or (rows, columns) that differ."""
        sides = self.image_size
        if isinstance(sides, int):
            return sides
        rows, columns = sides
        return rows if rows == columns else (rows, columns)


@dataclass
class ModelConfig(VisionConfig):
    """Adds the decoder of pre-training to the encoder."""

    decoder: DecoderConfig = section(DecoderConfig)
    embedding: EmbeddingConfig = section(EmbeddingConfig)

    def check(self) -> None:
        """Raise UserError where keys do not fit each other; see engine.config.parser.parse."""
        super().check()
        self.check_part("decoder", self.decoder)
        names = self.decoder.geometry
        if len(set(names)) < len(names):
            raise UserError(f"model.decoder.geometry={','.join(names)} names a head twice")
        if "covisibility" in names and not self.decoder.cross:
            raise UserError(
                f"model.decoder.geometry={','.join(names)}, but model.decoder.cross=false attends "
                f"to no reference: nobody can say what that shows"
            )


@dataclass
class ObjectiveConfig:
    """What the encoder is trained to do.

    The keys that every objective of pretrain/objectives has.
    """

    name: str = key(
        DEFAULT_OBJECTIVE, "what the encoder is trained to do: a module of pretrain/objectives"
    )
    cross_view: float = key(1.0, "weight of the mean loss of cross-view pairs", low=0)
    cross_pose: float = key(1.0, "weight of the mean loss of cross-pose pairs", low=0)

    @classmethod
    def choose(cls, texts: Mapping[str, str]) -> "type[ObjectiveConfig]":
        """The dataclass of the objective that is named; see engine.config.parser.choose_schema."""
        name = texts.get("name", DEFAULT_OBJECTIVE)
        if name == DEFAULT_OBJECTIVE:
            return CompletionConfig  # known here, so that its typos are reported without torch
        return OBJECTIVES.find(name).schema

    def check(self) -> None:
        """UserError where keys do not fit each other; see engine.config.parser.parse."""
        if not any(self.kind_weights()):
            raise UserError(
                "objective.cross_view=0 and objective.cross_pose=0: one of them must be above 0"
            )

    def check_run(self, config: "PretrainConfig") -> None:
        """UserError where the objective's keys do not fit others of the run."""
        return

    def check_processes(self, config: "PretrainConfig", world: int) -> None:
        """UserError where so many processes cannot share a batch."""
        return

    def kind_weights(self) -> list[float]:
        """w_kind in the order of PAIR_KINDS."""
        return [getattr(self, kind) for kind in PAIR_KINDS]


@dataclass
class CompletionConfig(ObjectiveConfig):
    """Masked patches are completed with the help of the other image."""

    target: str = key(
        "patch",
        "what pixels are normalised by: their patch, their whole image, nothing",
        choices=("patch", "image", "none"),
    )
    background_weight: float = key(
        1.0, "weight of a patch without person; one that the person fills weighs 1", low=0, high=1
    )
    references: str = key(
        "own",
        "which reference an image is trained with: its own, or (to compare with) that of the row "
        "above in its part of the batch, or another crop of the same image",
        choices=("own", "shuffled", "same"),
    )

    masks: str = key(
        "random",
        "seen: patches are masked first that show what the reference shows too, by the maps of "
        "synthetic humans (surface=true of data make); elsewhere at random",
        choices=("random", "seen"),
    )
    gradient_weight: float = key(
        1.0,
        "weight of the loss of gradients beside that of pixels (model.decoder.gradients)",
        low=0,
    )
    geometry_weight: float = key(
        1.0,
        "weight of the sum of the losses of geometry beside that of pixels "
        "(model.decoder.geometry)",
        low=0,
    )

    def check_run(self, config: "PretrainConfig") -> None:
        """UserError where keys have no effect: what they change is not there."""
        if self.gradient_weight != 1 and not config.model.decoder.gradients:
            raise UserError(
                f"objective.gradient_weight={self.gradient_weight:g}, but "
                f"model.decoder.gradients=0: no gradients are said"
            )
        self._check_geometry(config.model.decoder.geometry)
        if self.name == DEFAULT_OBJECTIVE and config.model.decoder.latents:
            raise UserError(
                f"model.decoder.latents={config.model.decoder.latents}, but "
                f"objective.name={self.name} has no teacher"
            )
        if self.name != "views" and config.model.embedding.points:
            raise UserError(
                f"model.embedding.points={config.model.embedding.points}, but "
                f"objective.name={self.name} says no whole images: objective.name=views does"
            )
        if self.references != "own" and not self.reads_reference(config):
            raise UserError(
                f"objective.references={self.references}, but model.decoder.cross=false reads no "
                f"reference"
            )

    def _check_geometry(self, names):
        """UserError where heads of geometry are weighed and there is none, or cannot be true."""
        if self.geometry_weight != 1 and not names:
            raise UserError(
                f"objective.geometry_weight={self.geometry_weight:g}, but model.decoder.geometry "
                f"is not set: no geometry is said"
            )
        if self.references != "own" and "covisibility" in names:
            raise UserError(
                f"objective.references={self.references}, but model.decoder.geometry="
                f"{','.join(names)}: what a reference shows too is known of an image's own alone"
            )

    def reads_reference(self, config: "PretrainConfig") -> bool:
        """Whether the second image of a pair is read at all."""
        return config.model.decoder.cross

    def check_processes(self, config: "PretrainConfig", world: int) -> None:
        """UserError where a part of a batch has one row, whose reference cannot be shuffled."""
        parts = config.grad_accum_steps
        if self.references == "shuffled" and config.batch < 2 * world * parts:
            raise UserError(
                f"objective.references=shuffled wants 2 rows in each part of a batch; "
                f"batch={config.batch} over {world} processes times grad_accum_steps={parts} "
                f"gives 1"
            )


@dataclass
class MaskingConfig:
    """Sets which patches of an image and of its reference are masked."""

    ratio: float = key(0.9, "share of a's patches that are masked", low=0, high=0.99)
    person_bonus: float = key(
        0.0, "above 0, patches on the person are masked first; 1 or more: always before background"
    )
    min_visible_person: int = key(
        8, "of the visible patches at least so many (or a quarter of the person's) lie on it", low=0
    )
    block: int = key(
        1,
        "patches are masked in squares of so many a side: what neighbours of a single patch give "
        "away, those of a block do not",
        low=1,
    )
    reference_ratio: float = key(
        0.0, "share of the reference's patches that are left out and cost nothing", low=0, high=0.99
    )
    reference_bonus: float = key(
        1.0,
        "above 0, background of the reference is left out first; 1: before any patch that the "
        "person fills",
        low=0,
    )

    def seen(self, patches: int) -> tuple[int, int]:
        """Return how many of so many patches (stay visible, are attended to).

        The first are of a, the second of the reference.
        """
        of_block = self.block**2
        masked = int(self.ratio * (patches // of_block)) * of_block
        return patches - masked, patches - int(self.reference_ratio * patches)


@dataclass
class PretrainLogConfig(LogConfig):
    """Adds what pre-training validates, draws and probes."""

    val_pairs: int = key(64, "validation pairs of each kind", low=1, renamed_from="held_out_pairs")
    images: int = key(
        4, "validation pairs of each kind that are drawn", low=1, renamed_from="pictures"
    )
    probe_every: int = key(
        0, "steps between probes of the encoder for 3D (probe.shards); 0: never", low=0
    )


@dataclass
class ProbeConfig:
    """How well joints in 3D can be read off the frozen encoder; see pretrain/probe.py."""

    shards: str = key(
        "",
        "labelled shards that are never trained on: folder, tar, glob, or several with commas "
        "between",
        path="several",
    )
    clips: int = key(
        2000,
        "clips of the probe, fit and test together; numbers compare only where this is equal",
        low=12,
    )
    timm: str = key(
        "",
        "a row for a timm model: a folder as its hub has it (config.json, weights), or NAME:FILE",
        path="one",
    )


@dataclass
class PretrainConfig(ClipTrainConfig):
    """Holds the keys of ``python -m pretrain train``."""

    targets_per_reference: int = key(
        1,
        "masked images that are completed with the help of one reference, which is encoded "
        "once; batch then counts references, a step has so many times as many pairs",
        low=1,
    )
    model: ModelConfig = section(ModelConfig)
    masking: MaskingConfig = section(MaskingConfig)
    objective: ObjectiveConfig = section(CompletionConfig)
    # Narrower than every task's.
    data: DataConfig = section(DataConfig)  # pyrefly: ignore - see above
    log: PretrainLogConfig = section(PretrainLogConfig, resumable=True)  # pyrefly: ignore - see above
    probe: ProbeConfig = section(ProbeConfig, resumable=True)

    def check(self) -> None:
        """UserError where keys do not fit each other; see engine.config.parser.parse."""
        super().check()
        if self.log.probe_every and not self.probe.shards:
            raise UserError(
                f"log.probe_every={self.log.probe_every}, but probe.shards is not set: it names "
                f"labelled shards "
                f"that are not trained on"
            )
        if self.evaluate.every and not (self.evaluate.shards or self.probe.shards):
            raise UserError(
                f"evaluate.every={self.evaluate.every}, but evaluate.shards is not set: it names "
                f"labelled shards "
                f"that are not trained on"
            )
        grid = self.model.grid()
        patches = grid[0] * grid[1]
        if any(side % self.masking.block for side in grid):
            raise UserError(
                f"masking.block={self.masking.block} does not divide the {grid[0]} x {grid[1]} "
                f"patches of an image (model.image_size={self.model.image_size}, "
                f"model.patch={self.model.patch})"
            )
        decoder = self.model.decoder
        if not decoder.cross and not decoder.reference_gradient:
            raise UserError(
                "model.decoder.reference_gradient=false, but model.decoder.cross=false attends to "
                "no reference"
            )
        visible, _ = self.masking.seen(patches)
        if not 0 < visible < patches:
            raise UserError(
                f"masking.ratio={self.masking.ratio} masks {patches - visible} of {patches} "
                f"patches; at least one "
                f"must be masked and one visible"
            )
        self.objective.check_run(self)

    def check_processes(self, world: int, node: int) -> None:
        """UserError where so many processes cannot share a batch; see TrainConfig."""
        super().check_processes(world, node)
        self.objective.check_processes(self, world)

    @property
    def samples(self) -> int:
        """Pairs a step, over all processes."""
        return self.batch * self.targets_per_reference

    def evaluation(self, checkpoint: str) -> list[str]:
        """Words of ``python -m`` that probe a checkpoint for the run's log."""
        timm = [f"timm={self.probe.timm}"] if self.probe.timm else []
        crops = "hand" if self.data.pairs.crops == "hand" else "body"
        return [
            "pretrain",
            "probe",
            checkpoint,
            f"shards={self.evaluate.shards or self.probe.shards}",
            f"crops={crops}",
            f"clips={self.probe.clips}",
            *timm,
            f"device={self.device}",
            *self.evaluate.keys,
            "log=true",
        ]


def get_completion(config: PretrainConfig) -> CompletionConfig:
    """Return the section ``objective`` of a config whose objective completes images."""
    return cast(CompletionConfig, config.objective)
