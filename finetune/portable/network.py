"""A trained network as modules whose inputs and outputs are tensors alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from data.cropping.geometry import find_sides
from engine.errors import UserError
from finetune.inference.predictor import Predictor
from finetune.prompts import PROMPTED

PARTS = ("network", "encoder")


class EncoderPart(nn.Module):
    """Images to tokens.

    Args:
        predictor: whose encoder it is.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model = predictor.model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (B, N, C) tokens after the encoder's last norm, as a head gets them."""
        nobody_reads = torch.eye(3)[None]
        return (self.model.make_tokens(images, nobody_reads),)


class NetworkPart(nn.Module):
    """Images, their cameras and keypoints that were found, to meshes and what they are made of.

    Args:
        predictor: whose head has a mesh.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model, self.body = predictor.model, predictor.body

    def forward(
        self, images: torch.Tensor, K: torch.Tensor, prompts: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return the tensors that ``list_outputs`` names."""
        found = self.model(images, K, self.body, prompts)
        out = [found.vertices, found.joints, found.keypoints]
        if found.parameters is not None:
            parameters = found.parameters
            out += [parameters.pose, parameters.shape, parameters.translation]
        if found.uncertainty is not None:
            out.append(found.uncertainty)
        return tuple(out)


@dataclass(frozen=True)
class Graph:
    """What is recorded.

    Attributes:
        module: the part of the network.
        inputs: names in the order of its arguments.  outputs: names in their order.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def choose_part(predictor: Predictor, part: str) -> Graph:
    """Return the part of a network that is asked for.

    Args:
        part: one of PARTS.
    Raises:
        UserError: a network of two views; part=network, and its head predicts no mesh.
    """
    if predictor.config.task == "two_views":
        raise UserError(f"{predictor.checkpoint} is a network of two views, which are not exported")
    if part == "encoder":
        return Graph(EncoderPart(predictor).eval(), ("images",), ("tokens",))
    head = predictor.require_mesh("export onnx part=network").model.head
    outputs = ["vertices", "joints", "keypoints"]
    if head.has_parameters:
        outputs += ["pose", "shape", "translation"]
    if head.confident:
        outputs.append("uncertainty")
    inputs = ("images", "K", "prompts") if head.takes_prompts else ("images", "K")
    return Graph(NetworkPart(predictor).eval(), inputs, tuple(outputs))


def make_inputs(
    predictor: Predictor, names: Sequence[str], count: int, seed: int
) -> dict[str, torch.Tensor]:
    """Return inputs that a network can be asked with: noise, a camera, keypoints in the image.

    Args:
        names: of a Graph's inputs.  count: of images.
    """
    made = torch.Generator().manual_seed(seed)
    rows, columns = find_sides(predictor.config.model.size)
    longer = max(rows, columns)
    K = torch.tensor([[1.4 * longer, 0, columns / 2], [0, 1.4 * longer, rows / 2], [0, 0, 1]])
    every = {
        "images": torch.randn(count, 3, rows, columns, generator=made),
        "K": K.repeat(count, 1, 1),
    }
    every["K"][:, :2, 2] += torch.randn(count, 2, generator=made) * longer / 8
    if "prompts" in names:
        points = torch.rand(count, len(PROMPTED[predictor.body.kind]), 3, generator=made)
        points[..., :2] -= 0.5
        points[..., 2] = (points[..., 2] > 0.5).float()
        every["prompts"] = points * points[..., 2:]
    return {name: every[name] for name in names}
