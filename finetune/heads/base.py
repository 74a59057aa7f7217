"""What a head is: from an encoder's tokens to a prediction of people's meshes.

A new one is a subclass of ``Head`` in finetune/heads/NAME.py, found by ``head.name=NAME``:

    @dataclass
    class MyConfig(HeadConfig):
        width: int = key(64, "channels of a query", low=1)

    @HEADS.register("my_head")
    class MyHead(Head):
        schema = MyConfig
        ...

docs/finetuning.md has a whole one.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np
import torch
from torch import nn

from data.bodies.base import BodyModel, BodyParameters
from data.cropping.geometry import Size
from finetune.given import Given
from finetune.heads import HEADS
from finetune.heads.keys import HeadConfig, ModelBasedConfig
from finetune.means import Means

if TYPE_CHECKING:
    from finetune.views import View

__all__ = ["HEADS", "Head", "ImagePrediction", "Measure", "Prediction", "Term", "Truth"]

CHUNK_VERTICES = 220_000  # posed at once: 16 full bodies, which take 60 MB


@dataclass(eq=False, kw_only=True)
class ImagePrediction:
    """What is said of B images alone: all there is from a head without a mesh.

    Attributes:
        maps: (B, K, rows, columns) logits of where in the image each keypoint is, or None.
        keypoints_2d: (B, K, 2) pixels of the network's images, or None.
        dense: {name: (B, C, rows, columns)} of what else is said of each place.
    """

    maps: torch.Tensor | None = None
    keypoints_2d: torch.Tensor | None = None
    dense: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Prediction(ImagePrediction):
    """B people in the cameras of their images: metres, OpenCV axes.

    Attributes:
        vertices: (B, V, 3) of the body model that was asked for, coarse or full.
        joints: (B, J, 3).
        keypoints: (B, K, 3).
        parameters: that give them, or None from a head that predicts points alone.
        uncertainty: (B, K) metres, standard deviation of each keypoint about the root along each
            axis, or None.
        vertex_uncertainty: (B, V) likewise.
        maps, keypoints_2d, dense: as of an ImagePrediction.
    """

    vertices: torch.Tensor
    joints: torch.Tensor
    keypoints: torch.Tensor
    parameters: BodyParameters | None = None
    uncertainty: torch.Tensor | None = None
    vertex_uncertainty: torch.Tensor | None = None

    @property
    def translation(self) -> torch.Tensor:
        """(B, 3) metres, where joint 0 is."""
        return self.joints[:, 0] if self.parameters is None else self.parameters.translation


@dataclass(eq=False)
class Truth:
    """What B crops show, for losses and measures.

    Attributes:
        mesh: of the body model whose points were asked for, coarse in training.
        K: (B, 3, 3) intrinsics of the images.  size: their side in pixels, or (rows, columns).
        seen: the images and how they show the crops; None where the points alone are known.
        batch: the loader's arrays (data.loading.crops.layout), person masks among them.
        given: what of it is labelled (data.rules.labels=any); None: all of it.
        body: the body model that the mesh is of, or None where nobody said.
    """

    mesh: Prediction
    K: torch.Tensor
    size: Size
    seen: "View | None" = None
    batch: Mapping[str, torch.Tensor] = field(default_factory=dict)
    given: Given | None = None
    body: BodyModel | None = None

    def require_images(self) -> torch.Tensor:
        """(B, 3, S, S) images; ValueError where the points alone are known."""
        if self.seen is None:
            raise ValueError("this truth has no images")
        return self.seen.require_images()


@dataclass(frozen=True)
class Term:
    """A term of the loss.

    Attributes:
        name: as in the log, loss/NAME.
        weight: the dotted config key of its weight, such as "loss.joints" or, of a head's own,
            "head.edges_weight".
        compute: (prediction, truth) to (B,).
        needs: names out of data.loading.partial_crops.PARTS; a crop whose labels hold none of them
            is left out. (): every crop will do.
    """

    name: str
    weight: str
    compute: Callable[..., torch.Tensor]
    needs: tuple[str, ...] = ("mesh",)


@dataclass(frozen=True)
class Measure:
    """A number that validation crops are judged by.

    Attributes:
        name: as in the log, val/NAME.  title, unit: for people.
        compute: (prediction, truth) to (B,), NaN where it says nothing of a crop.
        lower_is_better: None where neither is better.
    """

    name: str
    title: str
    unit: str
    compute: Callable[..., torch.Tensor]
    lower_is_better: bool | None = True


class Head(nn.Module, abc.ABC):
    """Tokens to a Prediction.

    A subclass is built from the encoder's config, its own keys, and the full body model, whose
    tables are not to become part of it.

    Class attributes:
        schema: the dataclass of its keys. One that has none of its own has the default head's, of
            which it reads those that it needs.
        has_mesh: whether it predicts a mesh; else an ImagePrediction.
        has_parameters: whether its predictions hold parameters of the body model, which are then
            trained too (loss.rotation, loss.shape).
    Attributes:
        takes_prompts: whether ``forward`` takes ``prompts`` too, (B, K, 3) of finetune.prompts, or
            None where nothing was found.
        takes_masks: whether ``forward`` takes ``masks`` too, (B, R, C) of finetune.masks, or None
            where nothing was found.
        confident: whether its network says how sure it is (finetune/heads/confidence.py).
        layers: numbers of the encoder's blocks, from 0, whose output ``forward`` takes too, as
            ``layers``, a list of (B, N, C) after the encoder's last norm; () for none.
        rounds: how often it mends its answer; where that is above 0, ``forward`` takes ``judged``.
    """

    schema: ClassVar[type[HeadConfig]] = ModelBasedConfig
    has_mesh: ClassVar[bool] = True
    has_parameters: ClassVar[bool] = False
    takes_prompts: bool = False
    takes_masks: bool = False
    confident: bool = False
    layers: tuple[int, ...] = ()
    rounds: int = 0

    @abc.abstractmethod
    def forward(
        self, features: torch.Tensor, K: torch.Tensor, size: Size, means: Means, body: BodyModel
    ) -> ImagePrediction:
        """Predict the people of images; of a head with a mesh a Prediction.

        Args:
            features: (B, N, C) of the encoder.
            K: (B, 3, 3) intrinsics of the images, in their pixels.
            size: side of the images in pixels, or (rows, columns); see data.cropping.geometry.
            means: of the people that the run learns from.
            body: the body model whose points are wanted: coarse in training, else full.
        """

    def begin(self, means: Means, body: BodyModel) -> None:
        """Take up what a new run starts from, once, before its first step.

        What is kept of it belongs into buffers that are saved: a run that resumes, and a network
        that is opened, have it from their files.

        Args:
            means: of the people that the run learns from.  body: the full body model.
        """
        return

    def list_own_terms(self) -> Sequence[Term]:
        """Terms of the loss beside those of the mesh (finetune.losses.list_terms)."""
        return ()

    def list_own_measures(self) -> Sequence[Measure]:
        """What validation crops are judged by beside the mesh (finetune.losses.list_measures)."""
        return ()

    def draw(self, image: np.ndarray, found: ImagePrediction, row: int) -> np.ndarray:
        """An image of what a head without a mesh says of one.

        Args:
            image: (S, S, 3) uint8 RGB as the network saw it.  row: of it in ``found``.
        """
        shown = image.copy()
        if found.keypoints_2d is not None:
            for x, y in found.keypoints_2d[row].round().int().tolist():
                cv2.circle(shown, (x, y), max(1, len(image) // 64), (255, 120, 0), -1)
        return shown


def pose_body(body: BodyModel, parameters: BodyParameters) -> Prediction:
    """Returns the Prediction that parameters of a body model stand for.

    Without gradients a few full meshes are posed at a time, or many coarse ones.
    """
    count = len(parameters.pose)
    few = max(CHUNK_VERTICES // len(body.vertex_ids), 1)
    step = count if torch.is_grad_enabled() else few
    if count <= step:  # without slices, which would fix the count of a traced network
        vertices, joints = body(parameters.pose, parameters.translation, parameters.shape)
        return Prediction(vertices, joints, body.keypoints(vertices, joints), parameters)
    parts = []
    for first in range(0, count, step):
        part = parameters.select(slice(first, first + step))
        parts.append(body(part.pose, part.translation, part.shape))
    vertices, joints = (torch.cat(values) for values in zip(*parts, strict=True))
    return Prediction(vertices, joints, body.keypoints(vertices, joints), parameters)
