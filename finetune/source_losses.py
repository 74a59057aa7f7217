"""The losses of each source of a mix, each term over the crops that are labelled for it."""

from collections.abc import Mapping, Sequence

import torch

from finetune.given import tell_known
from finetune.heads.base import Term


class SourceLosses:
    """Sums of terms of the loss, apart for each source.

    Args:
        terms: of the run's head.  sources: their names, in the order of the mix.
    Attributes:
        count: how many numbers ``sum`` gives.
    """

    def __init__(self, terms: Sequence[Term], sources: Sequence[str]) -> None:
        self.terms, self.sources = terms, sources
        self.count = 2 * len(sources) * len(terms)

    def sum(
        self, found: Mapping[str, torch.Tensor], present: torch.Tensor, source: torch.Tensor
    ) -> torch.Tensor:
        """Returns (count,) float64: sums of each term over a part's crops, and how many they are.

        Args:
            found: {term: (B,)}.  present: (B, 3), see finetune.given.  source: (B,) its number.
        """
        values = torch.stack([found[term.name].detach() for term in self.terms], 1).double()
        known = torch.stack([tell_known(present, term.needs) for term in self.terms], 1).double()
        numbers = torch.arange(len(self.sources), device=source.device)
        member = (source[:, None] == numbers).double().T
        return torch.cat([(member @ (values * known)).ravel(), (member @ known).ravel()])

    def name(self, sums: Sequence[float]) -> dict[str, float]:
        """Returns {"loss/TERM", "loss/TERM/SOURCE"} means of summed numbers of ``sum``.

        A term for which no crop was labelled is left out.
        """
        width, half = len(self.terms), self.count // 2
        out: dict[str, float] = {}
        for number, term in enumerate(self.terms):
            places = range(number, half, width)
            counts = [sums[half + place] for place in places]
            if sum(counts):
                total = sum(sums[place] for place in places)
                out[f"loss/{term.name}"] = total / sum(counts)
            for source, place, count in zip(self.sources, places, counts, strict=True):
                if count:
                    out[f"loss/{term.name}/{source}"] = sums[place] / count
        return out
