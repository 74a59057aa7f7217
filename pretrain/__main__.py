"""``python -m pretrain CONFIG.yaml key=value ...`` and ``python -m pretrain export RUN out=FILE``."""

from engine.cli import run

USAGE = "python -m pretrain CONFIG.yaml [key=value ...]\n       python -m pretrain export RUN-or-FILE out=FILE"


def main(argv):
    """Train, or export; returns the exit code."""
    # Imported here because a loader's worker imports this module anew and needs none of it.
    if argv[:1] == ["export"]:
        from pretrain import weights

        return weights.main(argv[1:])
    from engine.config import parse
    from pretrain.config import PretrainConfig

    config = parse(PretrainConfig, argv, "pretrain", USAGE)
    from pretrain.train import train

    return train(config)


if __name__ == "__main__":
    run(main)
