"""Fine-tuning: body and hand meshes from one image."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from finetune.inference.predictor import Predictor


def load(run: "str | Path", device: str = "auto") -> "Predictor":
    """Return a trained network that takes images and gives people.

        people = finetune.load("body")(image, boxes=None, intrinsics=None)

    Args:
        run: a fine-tuning run's folder or one of its checkpoints, the name of weights that ship, a
            file of weights, its URL or a hub repository (docs/weights.md).
        device: "auto", "cpu" or "cuda".
    Returns:
        finetune.inference.predictor.Predictor; its call gives a list of finetune.person.Person.
    Raises:
        UserError: there is no such run, or it has no complete checkpoint; weights whose hash is not
            the one that is known.
    """
    # Loader workers are spawned and import this package; torch is paid for only by those who ask
    # for a network.
    from finetune.inference.predictor import load_run

    return load_run(run, device)
