"""Pre-training: a masked view is completed with the help of another image of the same person."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretrain.model import CrossCompletion


def load(source: str) -> "CrossCompletion":
    """A trained network, in evaluation mode, on the CPU.

        model = pretrain.load("runs/demo/pretrain_body")
        features = model.encode(images)          # (B, 3, H, W) normalised by ImageNet's
        statistics -> (B, N, C)

    Args:
        source: a run's folder, one of its checkpoints, a weights file, or a checkpoint of CroCo's
            layout.
    Raises:
        UserError: there is nothing at ``source``, or something that is not such a network.
    """
    # Loader workers are spawned and import this package; torch is paid for only by those who ask
    # for a network.
    from pretrain.weights import load as load_network

    return load_network(source)
