"""Who is found in an image: what networks for whole images and detectors with crops both answer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finetune.person import Person


@dataclass(eq=False)
class FoundPerson:
    """A person found in an image.

    Attributes:
        person: the mesh in the camera of the image.
        score: how sure it is that there is this person, in [0, 1].
        embedding: (E,) float32 of length 1, near that of the same person in another image of the
            scene; None where nobody computes one.
    """

    person: Person
    score: float
    embedding: np.ndarray | None = None


# An image (H, W, 3) uint8 and its intrinsics (3, 3) in pixels of the image, or None where nobody
# knows them -> everybody who is found, the surest first.
FindEverybody = Callable[[np.ndarray, np.ndarray | None], list[FoundPerson]]
