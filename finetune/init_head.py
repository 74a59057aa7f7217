"""Training that goes on from a fine-tuned network, its head included."""

from collections.abc import Container

import torch

from data.sampling.seen import Seen
from engine.config.parser import flat
from engine.errors import UserError
from engine.logging.console import get_logger
from finetune.config import FinetuneConfig
from finetune.heads.keys import HeadConfig
from finetune.inference.predictor import Predictor
from finetune.model import Recovery
from pretrain import header
from pretrain.config import VisionConfig

Section = VisionConfig | HeadConfig
# Parts of a head, which start as if they were not.
ADDED = ("prompts", "prompt_face", "rounds", "confidence")
FREE = {"head.answer_rounds", "head.confidence_weight"}  # says nothing of the weights
FIRST = "head.read_prompts.0.weight"

log = get_logger(__name__)


def begin_from(model: Recovery, config: FinetuneConfig) -> Seen:
    """Fill a network, its means included, from the one that ``config.init`` names.

    Returns:
        what these weights have seen.
    Raises:
        UserError: there is none, or its encoder, head or body model is another.
    """
    before = Predictor(config.init, "cpu", "init")
    _check_same("model", before.config.model, config.model, config.init)
    # A network may go on with parts that it was trained without.
    old, new = flat(before.config.head), flat(config.head)
    added = {name for name in ADDED if new.get(name) and not old.get(name)}
    free = FREE | {f"head.{name}" for name in added}
    _check_same("head", before.config.head, config.head, config.init, free)
    if before.body.name != config.body_model:
        raise UserError(
            f"init={config.init} recovers {before.body.name}, this run {config.body_model}"
        )
    state = before.model.state_dict()
    if "prompt_face" in added and FIRST in state:
        state[FIRST] = _widen(state[FIRST], model.state_dict()[FIRST])
    model.load_state_dict(state, strict=not added)
    log.info(f"init: encoder, head and mean body of {config.init}, step {before.step}")
    return header.read_seen(before.checkpoint)


def _widen(old: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Weights of the limbs alone as those of the face too, which comes first and does nothing."""
    more = wanted.shape[1] - old.shape[1]
    return torch.cat([torch.zeros_like(old[:, :more]), old], 1)


def _check_same(
    section: str, before: Section, wanted: Section, init: str, free: Container[str] = ()
) -> None:
    """UserError that names the first key, of those that are not free, in which two differ."""
    old = flat(before)
    for name, value in flat(wanted).items():
        if old.get(name) != value and f"{section}.{name}" not in free:
            raise UserError(
                f"init_head=true: init={init} has {section}.{name}={old.get(name)}, "
                f"this run {value}"
            )
