"""Training that begins from a fine-tuned network: its encoder, or its head too."""

from collections.abc import Container, Mapping

import torch
from torch import nn

from data.cropping.geometry import word_size
from data.sampling.seen import Seen
from engine.config.parser import flat
from engine.errors import UserError
from engine.logging.console import get_logger
from finetune.config import FinetuneConfig
from finetune.heads.keys import HeadConfig
from finetune.inference.predictor import Predictor
from finetune.model import Recovery
from pretrain import header, weights
from pretrain.config import VisionConfig

Section = VisionConfig | HeadConfig
# Parts of a head, which start as if they were not.
ADDED = ("prompts", "prompt_face", "prompt_mask", "rounds", "confidence")
# What says nothing of the weights.
FREE = {
    "head.answer_rounds",
    "head.confidence_weight",
    "model.image_size",
    "model.position_span",
}
FIRST = "head.read_prompts.0.weight"

log = get_logger(__name__)


def begin_from(model: Recovery, config: FinetuneConfig) -> Seen:
    """Fill a network, its means included, from the one that ``config.init`` names.

    Returns:
        what these weights have seen.
    Raises:
        UserError: there is none, or its encoder, head or body model is another.

    Images may have another size; positions are then those of the new one.
    """
    before = Predictor(config.init, "cpu", "init")
    if config.task != before.config.task:
        raise UserError(
            f"init_head=true: init={config.init} is of task={before.config.task}, this run of "
            f"{config.task}"
        )
    _check_same("model", before.config.model, config.model, config.init, FREE)
    # A network may go on with parts that it was trained without.
    old, new = flat(before.config.head), flat(config.head)
    added = {name for name in ADDED if new.get(name) and not old.get(name)}
    free = FREE | {f"head.{name}" for name in added}
    _check_same("head", before.config.head, config.head, config.init, free)
    if before.body.name != config.body_model:
        raise UserError(
            f"init={config.init} recovers {before.body.name}, this run {config.body_model}"
        )
    state, own = before.model.state_dict(), model.state_dict()
    state = weights.fit_positions(dict(state), before.config.model, config.model)
    if weights.PLACES in own:
        state.setdefault(weights.PLACES, own[weights.PLACES])
    if "prompt_face" in added and FIRST in state:
        state[FIRST] = _widen(state[FIRST], own[FIRST])
    apart = sorted(state.keys() ^ own.keys())
    if apart and not added:
        raise UserError(
            f"init_head=true: of init={config.init} and this run only one has {apart[0]}"
        )
    _check_shapes(state, own, before.config.model, config)
    model.load_state_dict(state, strict=not added)
    log.info(f"init: encoder, head and mean body of {config.init}, step {before.step}")
    return header.read_seen(before.checkpoint)


def take_encoder(encoder: nn.Module, config: VisionConfig, init: str) -> Seen:
    """Fill an encoder of a config from the fine-tuned network that ``init`` names.

    Returns:
        what these weights have seen.
    Raises:
        UserError: there is none, or its encoder is another.
    """
    before = Predictor(init, "cpu", "init")
    _check_same("model", before.config.model, config, init, FREE, "init_encoder=true")
    state = {f"encoder.{k}": v for k, v in before.model.encoder.state_dict().items()}
    state = weights.fit_positions(state, before.config.model, config)
    own = encoder.state_dict()
    taken = {name: state.get(f"encoder.{name}", value) for name, value in own.items()}
    encoder.load_state_dict(taken)
    log.info(f"init: the encoder of {init}, step {before.step}")
    return header.read_seen(before.checkpoint)


def _check_shapes(
    state: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    before: VisionConfig,
    config: FinetuneConfig,
) -> None:
    """UserError where a part of the head is made for another number of patches."""
    for name, value in state.items():
        if name in own and own[name].shape != value.shape:
            raise UserError(
                f"init_head=true: init={config.init} has images of {word_size(before.size)} px and "
                f"{name} of {tuple(value.shape)}; this run has images of "
                f"{word_size(config.model.size)} px, for which it is {tuple(own[name].shape)}"
            )


def _widen(old: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Weights of the limbs alone as those of the face too, which comes first and does nothing."""
    more = wanted.shape[1] - old.shape[1]
    return torch.cat([torch.zeros_like(old[:, :more]), old], 1)


def _check_same(
    section: str,
    before: Section,
    wanted: Section,
    init: str,
    free: Container[str] = (),
    key: str = "init_head=true",
) -> None:
    """UserError that names the first key, of those that are not free, in which two differ."""
    old = flat(before)
    for name, value in flat(wanted).items():
        if old.get(name) != value and f"{section}.{name}" not in free:
            raise UserError(
                f"{key}: init={init} has {section}.{name}={old.get(name)}, this run {value}"
            )
