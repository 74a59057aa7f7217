"""Where in the encoder a weight lies, for learning rates that fall from layer to layer."""

ENCODER = "encoder."  # what the names of the encoder's weights in a network begin with
BLOCKS = f"{ENCODER}blocks."


def count_layers_after(name: str, depth: int) -> int:
    """Return how many layers of the encoder come after a weight, the head counted as the first.

    As in BEiT and MAE: the last block 1, the first ``depth``, what makes tokens of the image
    ``depth`` + 1; the norm at the end 0, as the head.

    Args:
        name: of a weight in the network, such as "encoder.blocks.3.mlp.fc1.weight".
        depth: blocks of the encoder.
    """
    if not name.startswith(ENCODER) or name.startswith((f"{ENCODER}norm.", f"{ENCODER}fc_norm.")):
        return 0
    if name.startswith(BLOCKS):
        return depth - int(name.removeprefix(BLOCKS).split(".")[0])
    return depth + 1
