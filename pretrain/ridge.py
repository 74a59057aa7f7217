"""Ridge regression in closed form, in float64.

Lambda is chosen by one rule for all features that are compared.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

# Candidates for lambda over the number of rows; features are standardised, so they mean the same
# for every encoder.
LAMBDAS = [10.0 ** (e / 2) for e in range(-8, 7)]
LEAST_STD = 1e-6  # a feature that hardly varies is left as it is, not blown up


def choose(
    x: torch.Tensor,
    y: torch.Tensor,
    x_choice: torch.Tensor,
    error: Callable[[torch.Tensor], float],
) -> float:
    """Returns the one of LAMBDAS whose prediction for ``x_choice`` has the least error.

    The larger of equal ones.

    Args:
        x: (n, D).  y: (n, K).  x_choice: (m, D), all float64.  error: from a prediction (m, K) to a
            float.
    """
    return find_least([error(guess) for guess in predict_each(x, y, x_choice)])


def find_least(errors: Sequence[float]) -> float:
    """Return the one of LAMBDAS with the least error, the larger of equal ones.

    Args:
        errors: one for each of LAMBDAS.
    """
    return LAMBDAS[max(range(len(errors)), key=lambda i: (-errors[i], i))]


def predict_each(x: torch.Tensor, y: torch.Tensor, x_new: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the (m, K) prediction for ``x_new`` by each of LAMBDAS, in order; see predict.

    With U S V' = x (standardised), a prediction is x_new V S / (S^2 + lambda) U' y: one
    decomposition serves all lambdas.
    """
    x, x_new = _standardised(x, x_new)
    centre = y.mean(0)
    if x.shape[1] <= len(x):
        values, vectors = torch.linalg.eigh(x.T @ x)
        left, right = x_new @ vectors, vectors.T @ (x.T @ (y - centre))
    else:
        values, vectors = torch.linalg.eigh(x @ x.T)
        left, right = x_new @ (x.T @ vectors), vectors.T @ (y - centre)
    values = values.clamp(min=0)[:, None]  # rounding may leave a little less
    for one in LAMBDAS:
        yield centre + left @ (right / (values + one * len(x)))


def predict(x: torch.Tensor, y: torch.Tensor, x_new: torch.Tensor, chosen: float) -> torch.Tensor:
    """Return the (m, K) prediction for ``x_new`` of the ridge regression of y on x.

    Its lambda is chosen * n.

    Features are standardised by the mean and the standard deviation of x; the intercept is not
    shrunk. The smaller of x'x (D, D) and xx' (n, n) is solved.
    """
    x, x_new = _standardised(x, x_new)
    centre, small = y.mean(0), x.shape[1] <= len(x)
    gram = x.T @ x if small else x @ x.T
    gram.diagonal().add_(chosen * len(x))
    right = x.T @ (y - centre) if small else y - centre
    solved = torch.cholesky_solve(right, torch.linalg.cholesky(gram))
    return centre + x_new @ (solved if small else x.T @ solved)


def _standardised(x: torch.Tensor, x_new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std < LEAST_STD, torch.ones_like(std), std)
    return (x - mean) / std, (x_new - mean) / std
