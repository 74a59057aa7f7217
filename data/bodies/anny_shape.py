"""From anny's shape parameters to the weights of its blend shapes, at a sixth of the time.

Each weight is a product of three to six numbers of how old, strong, tall somebody is. anny takes
the product over all 26 such numbers with a mask, and its gradient by a cumulative product: a third
of the time of posing a coarse mesh. Here the factors are picked by matrices of zeros and ones,
whose gradient is deterministic on a GPU too, and multiplied.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from anny import Anny


class ShapeWeights(nn.Module):
    """(B, S) shape parameters to (B, C) weights of the blend shapes of phenotypes.

    Args:
        model: anny's own model, whose tables are used; it is no part of this module.
    """

    factors: torch.Tensor

    def __init__(self, model: "Anny") -> None:
        super().__init__()
        self._model = [model]
        mask = model.stacked_phenotype_blend_shapes_mask > 0
        variations = mask.shape[1]
        factors = torch.zeros(int(mask.sum(1).max()), variations + 1, len(mask))
        factors[:, variations] = 1  # one, where a product has no further factor
        for shape, row in enumerate(mask):
            for place, variation in enumerate(torch.where(row)[0].tolist()):
                factors[place, variations, shape] = 0
                factors[place, variation, shape] = 1
        self.register_buffer("factors", factors, persistent=False)
        self.register_buffer("each", torch.eye(variations), persistent=False)

    def forward(self, shape: torch.Tensor) -> torch.Tensor:
        """(B, S) parameters in [0, 1] -> (B, C) weights."""
        from anny.models.phenotype import phenotype_blendshape_weights

        model = self._model[0]
        numbers = phenotype_blendshape_weights(
            shape, model.phenotype_labels, model.anchors, self.each, model.extrapolate_phenotypes
        )
        numbers = torch.cat([numbers, torch.ones_like(numbers[:, :1])], 1)
        weights = numbers @ self.factors[0]
        for factor in self.factors[1:]:
            weights = weights * (numbers @ factor)
        projection = model.phenotype_blendshape_projection
        return weights if projection is None else weights @ projection.to(weights)
