"""Ridge regression in closed form, in float64, with lambda chosen by one rule for all features that are compared."""

import torch

# Candidates for lambda over the number of rows; features are standardised, so they mean the same for every encoder.
LAMBDAS = [10.0**e for e in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3)]
LEAST_DEVIATION = 1e-6  # a feature that hardly varies is left where it is, not blown up


def choose(x, y, x_choice, error):
    """The one of LAMBDAS whose prediction for ``x_choice`` has the least error; the larger of equal ones.

    Args:
        x: (n, D).  y: (n, K).  x_choice: (m, D), all float64.  error: from a prediction (m, K) to a float.
    """
    solve = _solver(x, y, x_choice)
    errors = [error(solve(one)) for one in LAMBDAS]
    return LAMBDAS[max(range(len(errors)), key=lambda i: (-errors[i], i))]


def predict(x, y, x_new, chosen):
    """(m, K) prediction for ``x_new`` of the ridge regression of y on x that has lambda = chosen * n.

    Features are standardised by the mean and the deviation of x; the intercept is not shrunk.
    """
    return _solver(x, y, x_new)(chosen)


def _solver(x, y, x_new):
    """From lambda / n to the prediction for x_new: one decomposition serves all lambdas.

    With U S V' = x (standardised), the prediction is x_new V S / (S^2 + lambda) U' y. The decomposition is of the smaller of
    x'x (D, D) and xx' (n, n).
    """
    mean, deviation = x.mean(0), x.std(0, correction=0)
    deviation = torch.where(deviation < LEAST_DEVIATION, torch.ones_like(deviation), deviation)
    x, x_new = (x - mean) / deviation, (x_new - mean) / deviation
    centre, count = y.mean(0), len(x)
    if x.shape[1] <= count:
        values, vectors = torch.linalg.eigh(x.T @ x)
        left, right = x_new @ vectors, vectors.T @ (x.T @ (y - centre))
    else:
        values, vectors = torch.linalg.eigh(x @ x.T)
        left, right = x_new @ (x.T @ vectors), vectors.T @ (y - centre)
    values = values.clamp(min=0)  # rounding may leave a little less
    return lambda chosen: centre + left @ (right / (values + chosen * count)[:, None])
