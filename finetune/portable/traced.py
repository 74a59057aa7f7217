"""What a network computes while its graph is recorded, where ONNX has no word for it.

anny's bones have their axes at rest by Procrustes' problem, whose solver is a function of its own
to autograd. Here it is written in multiplications.
"""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch

SQUARINGS = 30  # of Horn's matrix: eigenvalues that differ by 1e-8 of the largest come apart


def find_nearest_rotation(matrices: torch.Tensor) -> torch.Tensor:
    """Return the rotations R (..., 3, 3) that maximise tr(R^T M), as roma.special_procrustes does.

    The quaternion is the eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix (Horn,
    J. Opt. Soc. Am. A 4(4), 1987). With all eigenvalues made positive, squaring that matrix again
    and again leaves the outer product of this eigenvector with itself, in which R is linear.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (
        row.unbind(-1) for row in matrices.double().unbind(-2)
    )
    rows = (
        (xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, xx - yy - zz, xy + yx, xz + zx),
        (xz - zx, xy + yx, yy - xx - zz, yz + zy),
        (yx - xy, xz + zx, yz + zy, zz - xx - yy),
    )
    horn = torch.stack([torch.stack(row, -1) for row in rows], -2)
    eye = torch.eye(4, dtype=horn.dtype, device=horn.device)
    horn = horn + horn.square().sum((-1, -2), keepdim=True).sqrt() * eye
    for _ in range(SQUARINGS):
        horn = horn / (horn * eye).sum((-1, -2), keepdim=True)
        horn = horn @ horn
    horn = horn / (horn * eye).sum((-1, -2), keepdim=True)
    (ww, wx, wy, wz), (_, xx, xy, xz), (_, _, yy, yz), (_, _, _, zz) = (
        row.unbind(-1) for row in horn.unbind(-2)
    )
    rows = (
        (ww + xx - yy - zz, 2 * (xy - wz), 2 * (xz + wy)),
        (2 * (xy + wz), ww - xx + yy - zz, 2 * (yz - wx)),
        (2 * (xz - wy), 2 * (yz + wx), ww - xx - yy + zz),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2).to(matrices.dtype)


def interpolate(value: torch.Tensor, anchors: torch.Tensor, extrapolate: bool) -> torch.Tensor:
    """Return (B, n) shares of anchors (n,) in values (B,), as anny's own function does.

    Beyond the first and last anchor their shares go on, or with ``extrapolate`` false stay.
    """
    shares = ((value[:, None] - anchors[:-1]) / (anchors[1:] - anchors[:-1])).unbind(1)
    last, parts = len(shares) - 1, [torch.ones_like(value)]
    for number, share in enumerate(shares):
        if number or not extrapolate:
            share = share.clamp(min=0)
        if number < last or not extrapolate:
            share = share.clamp(max=1)
        parts.append(share)
    parts.append(torch.zeros_like(value))
    return torch.stack([one - other for one, other in zip(parts, parts[1:], strict=False)], 1)


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Let anny compute by what is here, and attention by its parts, within this context."""
    roma: Any = importlib.import_module("roma")
    anchors: Any = importlib.import_module("anny.utils.interpolation")
    known = roma.special_procrustes, anchors.linear_interpolation_coefficients
    fast = torch.backends.mha.get_fastpath_enabled()
    roma.special_procrustes = find_nearest_rotation
    anchors.linear_interpolation_coefficients = interpolate
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        roma.special_procrustes, anchors.linear_interpolation_coefficients = known
        torch.backends.mha.set_fastpath_enabled(fast)
