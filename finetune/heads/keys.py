"""The keys of ``head.``: those that every head has, and those of the default one.

The keys of any other head are a dataclass in its own module. Nothing here imports torch: a typo in
the default head's keys is reported in a fraction of a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.config.parser import key
from engine.errors import UserError
from finetune.heads import HEADS

if TYPE_CHECKING:
    from finetune.config import FinetuneConfig

DEFAULT_HEAD = "model_based"


@dataclass
class HeadConfig:
    """Chooses the head: the keys that all have.

    A head's own are a subclass in its module, which it names as ``schema``.
    """

    # Whether keypoints that were found, and outlines, are taken beside the image: keys of heads
    # that can.
    prompts: ClassVar[bool] = False
    prompt_mask: ClassVar[bool] = False

    name: str = key(DEFAULT_HEAD, "which head: a module of finetune/heads")
    confidence: bool = key(
        False, "whether it also says how sure it is of each keypoint and vertex, in millimetres"
    )
    confidence_weight: float = key(
        0.01,
        "weight of the likelihood of errors; nothing else learns from it, and it is small so that "
        "optim.max_grad_norm hardly sees it",
        low=0,
    )

    def check_run(self, config: "FinetuneConfig") -> None:
        """Raise UserError where its keys do not fit others of the run."""
        return

    @classmethod
    def choose(cls, texts: Mapping[str, object]) -> "type[HeadConfig]":
        """The dataclass of the head that is named; see engine.config.parser.choose_schema."""
        name = str(texts.get("name", DEFAULT_HEAD))
        if name == DEFAULT_HEAD:
            return ModelBasedConfig  # known here, so that its typos are reported without torch
        return HEADS.find(name).schema


@dataclass
class ModelBasedConfig(HeadConfig):
    """Sizes of finetune/heads/model_based.py."""

    width: int = key(256, "channels of a query", low=8)
    depth: int = key(
        2, "decoder layers in which queries attend to tokens; 0: the linear projection alone", low=0
    )
    heads: int = key(4, "attention heads", low=1)
    token_proj_dim: int = key(
        16, "channels of a token in the linear projection", low=1, renamed_from="readout"
    )
    map_cells: int = key(
        0,
        "cells along a token's side of maps that say where in the image each keypoint is, from "
        "which queries start too; 0: no maps",
        low=0,
        high=16,
    )
    # Of all heads False, of this one a key.
    prompts: bool = key(  # pyrefly: ignore - see above
        False,
        "whether it takes keypoints that were found, beside the image (data.augment.prompt_share)",
    )
    prompt_face: bool = key(
        False, "whether nose, eyes and ears are among them, of bodies; false: limbs alone"
    )
    prompt_mask: bool = key(  # pyrefly: ignore - see above
        False,
        "whether it takes a person's outline that was found, beside the image "
        "(data.augment.mask_share)",
    )
    rounds: int = key(
        0,
        "how often the answer is projected into the image, compared with keypoints or features "
        "there and mended",
        low=0,
        high=8,
    )
    aligned_points: int = key(
        0,
        "vertices, spread over the body, at whose places in the image features are read in each "
        "round (mesh-aligned refinement); 0: none",
        low=0,
        high=2048,
    )
    answer_rounds: int = key(
        0,
        "the same for a trained network that is asked: more rounds go on mending; 0: head.rounds",
        low=0,
        high=32,
        resumable=True,
    )

    def check(self) -> None:
        """Raise UserError where the keys do not fit each other."""
        check_width(self.width, self.heads)
        if self.prompt_face and not self.prompts:
            raise UserError("head.prompt_face=true and head.prompts=false: no keypoints are given")
        if self.answer_rounds and not self.rounds:
            raise UserError(
                f"head.answer_rounds={self.answer_rounds} and head.rounds=0: no round was trained"
            )
        if self.aligned_points and not self.rounds:
            raise UserError(
                f"head.aligned_points={self.aligned_points} and head.rounds=0: features are read "
                "in rounds"
            )
        if self.rounds and not (self.prompts or self.map_cells or self.aligned_points):
            raise UserError(
                f"head.rounds={self.rounds} compares answers with the image: set "
                "head.prompts=true, head.map_cells or head.aligned_points"
            )


def check_width(width: int, heads: int) -> None:
    """Raise UserError where a head's width fits neither position encoding nor attention heads."""
    if width % heads or width % 4:
        raise UserError(f"head.width={width} is not a multiple of 4 and of head.heads={heads}")
