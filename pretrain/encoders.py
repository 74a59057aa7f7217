"""Frozen encoders behind one call: normalised images in, a map of features out."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from data.cropping.geometry import find_longer
from data.loading.augment import MEAN, STD
from engine.errors import UserError
from pretrain import model as network
from pretrain import weights
from pretrain.config import ModelConfig
from pretrain.files import check_finite


@dataclass
class Frozen:
    """An encoder that is probed, not trained.

    Attributes:
        run: from (B, 3, S, S) normalised by ImageNet's statistics to (B, C, rows, columns).  size:
            S.
        shape: the ModelConfig, which a random encoder beside it shares; None of a timm model.
    """

    run: Callable[[torch.Tensor], torch.Tensor]
    size: int
    shape: ModelConfig | None = None

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the (B, C, rows, columns) features of (B, 3, S, S) images."""
        return self.run(images)


def of_network(model: network.PairNetwork, bf16: bool = False) -> Frozen:
    """Return the frozen encoder of a network as it is now.

    One of rectangular images is shown squares of their longer side, which leave nothing out.
    """
    side = find_longer(model.config.size)
    count = side // model.config.patch

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            tokens = model.encode(images)
        return tokens.transpose(1, 2).unflatten(2, (count, count))

    return Frozen(run, side, model.config)


def random(config: ModelConfig, seed: int, device: torch.device) -> Frozen:
    """Return an encoder of a config's shape with the values that training would begin from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network.CrossCompletion(config)
    return of_network(model.to(device).eval())


def load(source: str | Path, device: torch.device) -> Frozen:
    """Return the frozen encoder of a run, a checkpoint or a weights file; see pretrain.load."""
    return of_network(weights.load(source).to(device))


def from_timm(spec: str, device: torch.device) -> Frozen:
    """Return the frozen encoder of a timm model on this machine. Nothing is downloaded.

    Args:
        spec: a folder with config.json and weights, as timm's hub lays it out, or NAME:FILE with
            timm's name of the architecture. Without a config of its own a model gets timm's
            defaults for its name.
    Raises:
        UserError: there is nothing there, or timm cannot load it.
    """
    name, _, file = spec.rpartition(":")
    is_folder = Path(spec).is_dir()
    if not is_folder and not (name and Path(file).is_file()):
        raise UserError(
            f"probe.timm={spec} is neither a folder with config.json and weights nor NAME:FILE "
            f"with a file that is there, such as vit_base_patch16_224:model.safetensors"
        )
    try:
        # With its classifier, so that its file loads strictly; forward_features leaves that out.
        if is_folder:
            created = timm.create_model(f"local-dir:{spec}", pretrained=True)
        else:
            created = timm.create_model(name, checkpoint_path=file)
    except (RuntimeError, OSError, ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"probe.timm={spec}: timm cannot load it: {' '.join(str(error).split())[:200]}"
        ) from None
    model: Any = created  # what all of timm's models have, nn.Module does not know
    check_finite(model.state_dict(), f"probe.timm={spec}")
    model = model.to(device).eval()
    settings = model.pretrained_cfg
    size = settings.get("input_size", (3, 224, 224))[-1]
    mean, std, own_mean, own_std = (
        torch.tensor(v, device=device)[:, None, None]
        for v in (MEAN, STD, settings.get("mean", MEAN), settings.get("std", STD))
    )

    def run(images: torch.Tensor) -> torch.Tensor:
        found = model.forward_features((images * std + mean - own_mean) / own_std)
        if found.ndim == 4:
            return found if found.shape[1] == model.num_features else found.permute(0, 3, 1, 2)
        found = found[:, getattr(model, "num_prefix_tokens", 0) :]
        side = round(found.shape[1] ** 0.5)
        if found.ndim != 3 or side * side != found.shape[1]:
            raise UserError(
                f"probe.timm={spec}: its features are {tuple(found.shape)}, no map of an image"
            )
        return found.transpose(1, 2).unflatten(2, (side, side))

    return Frozen(run, size)


def digest(text: str) -> int:
    """Return a number that depends on a text alone, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
