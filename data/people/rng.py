"""Small draws from a numpy Generator."""


def pick(rng, options, weights=None):
    """One of ``options``; much cheaper than Generator.choice, which counts at a hundred draws a
    clip."""
    if weights is None:
        return options[int(rng.random() * len(options))]
    rest = rng.random() * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        rest -= weight
        if rest < 0:
            return option
    return options[-1]
