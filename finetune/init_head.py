"""Training that goes on from a fine-tuned network, its head included."""

from collections.abc import Container

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
    # Prompts are a part of their own: a network that was trained without them may go on with them.
    added = config.head.prompts and not before.config.head.prompts
    free = {"head.prompts"} if added else set()
    _check_same("head", before.config.head, config.head, config.init, free)
    if before.body.name != config.body_model:
        raise UserError(
            f"init={config.init} recovers {before.body.name}, this run {config.body_model}"
        )
    model.load_state_dict(before.model.state_dict(), strict=not added)
    log.info(f"init: encoder, head and mean body of {config.init}, step {before.step}")
    return header.read_seen(before.checkpoint)


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
