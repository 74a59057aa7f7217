"""The loss: mean squared error on masked patches.

Summed with weights that do not depend on how a batch is spread.
"""

import torch
from einops import rearrange

# Under the root of a variance; a patch of one colour must not divide by zero. The value is MAE's.
FLOOR = 1e-6


def patchify(images: torch.Tensor, patch: int) -> torch.Tensor:
    """Return images (B, 3, H, W) as patches (B, N, P*P*3).

    Patches row by row, their values ordered row, column, channel.
    """
    return rearrange(
        images, "b c (rows p) (columns q) -> b (rows columns) (p q c)", p=patch, q=patch
    )


def unpatchify(patches: torch.Tensor, patch: int, grid: tuple[int, int]) -> torch.Tensor:
    """The inverse of patchify for a grid of (rows, columns)."""
    rows, columns = grid
    return rearrange(
        patches,
        "b (rows columns) (p q c) -> b c (rows p) (columns q)",
        rows=rows,
        columns=columns,
        p=patch,
        q=patch,
    )


def targets(
    a: torch.Tensor, patch: int, kind: str, chosen: torch.Tensor | None = None
) -> torch.Tensor:
    """What the network is to say, in float32.

    Args:
        a: (B, 3, H, W).  kind: "patch": each patch minus its mean, over the root of its unbiased
            variance + 1e-6 (all values
        of a patch together, as MAE and CroCo do); "image": the same with the whole image's;
        "none": the values.
        chosen: (B, M) long, the patches that are asked for; None: all.
    Returns:
        (B, M or N, P*P*3)
    """
    patches = patchify(a.float(), patch)
    wanted = (
        patches
        if chosen is None
        else patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[-1]))
    )
    mean, std = _statistics(patches if kind == "image" else wanted, kind)
    return (wanted - mean) / std


def denormalise(prediction: torch.Tensor, a: torch.Tensor, patch: int, kind: str) -> torch.Tensor:
    """Return predictions for every patch of ``a`` as images (B, 3, H, W).

    With mean and standard deviation of ``a``'s own pixels.

    With kind="patch" this borrows each hidden patch's true brightness and contrast: fit to view,
    not to measure.
    """
    grid = a.shape[-2] // patch, a.shape[-1] // patch
    mean, std = _statistics(patchify(a.float(), patch), kind)
    return unpatchify(prediction.float() * std + mean, patch, grid)


def patch_weight(share: torch.Tensor, background_weight: float) -> torch.Tensor:
    """Return the (B, M) weight of patches by their (B, M) share on the person.

    background_weight at 0, 1 at 1, straight between.
    """
    return background_weight + (1 - background_weight) * share


def per_sample_loss(
    prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Return the weighted mean over masked patches of each patch's mean squared error.

    For each sample by itself, in float32.

    The weights are divided by their sum *within the sample*: an image with little person counts as
    much as another. A sample whose weights are all zero (no person, background_weight=0) has loss
    zero.

    Args:
        prediction, target: (B, M, D).  weight: (B, M).
    Returns:
        (B,)
    """
    error = (prediction.float() - target.float()).square().mean(2)
    return (weight * error).sum(1) / weight.sum(1).clamp(min=FLOOR)


def combine(
    per_sample: torch.Tensor,
    kind: torch.Tensor,
    weights: torch.Tensor,
    shares: torch.Tensor,
    global_batch: int,
) -> torch.Tensor:
    """Return this rank's part of the loss L.

    L = sum over kinds of w_kind * (mean loss of that kind in the global batch).

    Each sample weighs w_kind / (B * share_kind): a plain sum with constant weights, so the parts of
    all ranks add up to L, and their gradients to L's, however the batch is spread. (Where gradients
    are *averaged* over W ranks, as DDP does, multiply by W.)

    Args:
        per_sample: (b,) losses of the samples here.  kind: (b,) long, index of each one's kind.
        weights, shares: (K,) w_kind and the share of each kind in the global batch; pass tensors
            made once on the device,
        for a list is copied there every time.
        global_batch: B, samples of all ranks and of all accumulated parts together.
    Returns:
        a scalar
    """
    weights = torch.as_tensor(weights, dtype=torch.float32, device=per_sample.device)
    shares = torch.as_tensor(shares, dtype=torch.float32, device=per_sample.device)
    return (per_sample * (weights / (shares * global_batch))[kind]).sum()


def _statistics(patches, kind):
    """(mean, standard deviation) that broadcast over (B, N, D)."""
    if kind == "none":
        return 0.0, 1.0
    axes = {"patch": (2,), "image": (1, 2)}[kind]
    variance, mean = torch.var_mean(patches, axes, keepdim=True)
    return mean, (variance + FLOOR).sqrt()
