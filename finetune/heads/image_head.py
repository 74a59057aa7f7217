"""What heads without a mesh share: answers in the image, judged against a constant answer.

A subclass says what is true of crops (``read_truth``), what an answer is compared by (``terms``,
``measures``), what an answer would be that is the same for all images (``average_truths``), and how
answers are written.
"""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from data.cropping.geometry import Size
from finetune.heads.base import Head, ImagePrediction, Measure, Term, Truth

# What it is that a subclass's read_truth returns is known to that subclass alone.
Told = Any
Comparison = Callable[[ImagePrediction, Told], torch.Tensor]


@dataclass(eq=False)
class Asked:
    """Where in an image an answer was asked for.

    Attributes:
        kind: "body", "left_hand" or "right_hand".
        box: (4,) x0, y0, x1, y1 in pixels of the image: where it was looked for.
        square: (4,) likewise, of the crop that the network saw; of a rectangular one as it is.
        K: (3, 3) intrinsics in pixels of the crop that the network saw, not mirrored.
        size: side of that crop in pixels, or (rows, columns).
        mirrored: whether the network saw it in a mirror.
    """

    kind: str
    box: np.ndarray
    square: np.ndarray
    K: np.ndarray
    size: Size
    mirrored: bool


class ImageHead(Head):
    """A head whose answers lie in the image.

    Class attributes:
        needs: of its terms, see finetune.heads.base.Term.
    """

    has_mesh: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("mesh",)

    def __init__(self) -> None:
        super().__init__()
        self._last: list[tuple[Truth, Told]] = []

    @abc.abstractmethod
    def read_truth(self, truth: Truth) -> Told:
        """What is true of crops, as this head's comparisons take it."""

    @abc.abstractmethod
    def list_comparisons(self) -> Sequence[tuple[str, str, Comparison]]:
        """(name, dotted key of its weight, function) of each term of the loss."""

    @abc.abstractmethod
    def list_judgements(self) -> Sequence[tuple[str, str, str, bool, Comparison]]:
        """(name, title, unit, whether lower is better, function) of each measure."""

    @abc.abstractmethod
    def average_truths(self, told: Sequence[Told]) -> ImagePrediction:
        """The answer of one row that is the same for every image: the mean of what is true."""

    @abc.abstractmethod
    def save_answers(
        self, stem: Path, image: np.ndarray, answers: Sequence[tuple[Asked, ImagePrediction, int]]
    ) -> list[Path]:
        """Write what was answered for the regions of an image.

        Args:
            stem: path without the ending.  image: (H, W, 3) uint8.
            answers: (where, prediction, row of it), one a region.
        Returns:
            the files, the one to view first.
        """

    def judge_finely(self) -> None:
        """Have the truth as exact as it can be from here on: evaluation may take longer."""
        return

    def tell(self, truth: Truth) -> Told:
        """What ``read_truth`` says, read once for all terms of a batch."""
        if not self._last or self._last[0][0] is not truth:
            with torch.no_grad():
                self._last = [(truth, self.read_truth(truth))]
        return self._last[0][1]

    def list_own_terms(self) -> Sequence[Term]:
        """A Term of each comparison."""
        return [
            Term(name, weight, partial(self._compare, function), self.needs)
            for name, weight, function in self.list_comparisons()
        ]

    def list_own_measures(self) -> Sequence[Measure]:
        """A Measure of each judgement."""
        return [
            Measure(name, title, unit, partial(self._compare, function), lower)
            for name, title, unit, lower, function in self.list_judgements()
        ]

    def _compare(self, function: Comparison, found: ImagePrediction, truth: Truth) -> torch.Tensor:
        return function(found, self.tell(truth))
