"""Operations of the pair network: matrix products alone, a multiply-add counted as two."""

from typing import TYPE_CHECKING

from pretrain.model import list_outputs

if TYPE_CHECKING:
    from pretrain.config import ModelConfig


def flops(config: "ModelConfig", visible: int, targets: int = 1, seen: int | None = None) -> float:
    """Return the operations of one pair's forward pass through ``complete``.

    Args:
        visible: patches of ``a`` that are not masked, V.  targets: pairs that share a reference, K.
        seen: patches of the reference that are attended to; None: all.
    """
    tokens = _count_tokens(config)
    seen = tokens if seen is None else seen
    masked, cross = tokens - visible, config.decoder.cross
    own = encoder_flops(config, visible) + _embedding_flops(config, visible)
    of_a = own + _decoder_flops(config, visible, masked, seen, cross) + _heads_flops(config, masked)
    return of_a + cross * _reference_flops(config, seen) / targets


def step_flops(
    config: "ModelConfig", visible: int, targets: int = 1, seen: int | None = None
) -> float:
    """As ``flops``, of a training step: forward, and backward as twice that.

    A reference without gradient is encoded once, and has none brought back through the map to the
    decoder's width.
    """
    step = 3 * flops(config, visible, targets, seen)
    if not config.decoder.cross or config.decoder.reference_gradient:
        return step
    seen = _count_tokens(config) if seen is None else seen
    return step - (2 * encoder_flops(config, seen) + _embedding_flops(config, seen)) / targets


def alone_flops(config: "ModelConfig", visible: int) -> float:
    """As ``flops``: what ``complete_both`` adds, the decoder once more without the reference."""
    masked = _count_tokens(config) - visible
    decoded = _decoder_flops(config, visible, masked, 0, False)
    return _embedding_flops(config, visible) + decoded + _heads_flops(config, masked)


def feature_flops(config: "ModelConfig", targets: int = 1, reference: bool = True) -> float:
    """As ``flops``, through ``features``: nothing is masked, no pixels are said.

    Args:
        reference: whether there is one, where the decoder attends to one.
    """
    tokens, cross = _count_tokens(config), config.decoder.cross and reference
    own = encoder_flops(config, tokens) + _embedding_flops(config, tokens)
    of_a = own + _decoder_flops(config, tokens, tokens, tokens, cross)
    return of_a + cross * _reference_flops(config, tokens) / targets


def encoder_flops(config: "ModelConfig", count: int) -> float:
    """As ``flops``, of the encoder alone, which is given so many patches of an image."""
    wide, ratio = config.encoder.width, config.mlp_ratio
    each = 4 * wide * wide + 2 * wide * int(wide * ratio)
    blocks = config.encoder.depth * (count * each + 2 * count * count * wide)
    return 2 * (blocks + count * 3 * config.patch**2 * wide)


def _count_tokens(config):
    rows, columns = config.grid()
    return rows * columns


def _embedding_flops(config, count):
    """Operations that bring so many of the encoder's tokens to the decoder's width."""
    return 2 * count * config.encoder.width * config.decoder.width


def _heads_flops(config, count):
    """Operations of all heads, of so many tokens."""
    outputs = 3 * config.patch**2 + sum(list_outputs(config).values())
    return 2 * count * config.decoder.width * outputs


def _reference_flops(config, seen):
    """Operations of a reference: encoder, keys and values of each of the decoder's blocks."""
    keys = config.decoder.depth * 2 * seen * config.decoder.width**2
    return encoder_flops(config, seen) + _embedding_flops(config, seen) + 2 * keys


def _decoder_flops(config, visible, wanted, seen, cross):
    """Operations of the decoder's blocks, where ``wanted`` tokens go through its end."""
    tokens, narrow = _count_tokens(config), config.decoder.width
    # What each token costs after it has looked at its own image.
    each = 2 * narrow * int(narrow * config.mlp_ratio)
    each += cross * (2 * narrow * narrow + 2 * seen * narrow)
    if config.decoder.self_attention:
        attention = 4 * tokens * narrow * narrow + 2 * tokens * tokens * narrow
        # In the last block those that are not wanted are attended to, but do not look.
        looking = 2 * tokens * narrow + narrow * narrow
        blocks = config.decoder.depth * (attention + tokens * each)
        return 2 * (blocks - (tokens - wanted) * (each + looking))
    looking = 2 * narrow * narrow + 2 * visible * narrow
    of_visible = 2 * visible * narrow * narrow
    return 2 * config.decoder.depth * (wanted * (looking + each) + of_visible)
