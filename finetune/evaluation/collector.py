"""What goes through the labelled crops of a run's evaluation by a paper's protocol."""

import abc

import numpy as np

from data.format.clip import Clip, Crop
from data.format.labels import CropLabels
from finetune.evaluation.protocols import Scores


class Collector(abc.ABC):
    """Has a run look at crops, and scores what it found by their labels."""

    @abc.abstractmethod
    def add(self, clip: Clip, crop: Crop, pixels: np.ndarray, labels: CropLabels) -> None:
        """Look at a crop, if its labels say anything that the protocol asks for.

        Args:
            pixels: (S, S, 3) uint8.
        """

    @abc.abstractmethod
    def finish(self) -> Scores:
        """Return the numbers of all crops; writes the submission if one is named.

        Raises:
            UserError: nothing is labelled, or something is missing that the protocol needs.
        """
