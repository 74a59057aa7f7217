"""``python -m pretrain CONFIG.yaml key=value ...``, and ``python -m pretrain export|probe|replay
...``."""

from engine.cli import run
from engine.distributed.startup import starting
from engine.run import signals

USAGE = """python -m pretrain CONFIG.yaml [key=value ...]
       python -m pretrain export RUN-or-FILE out=FILE
       python -m pretrain probe RUN-or-FILE ... shards=DIR
       python -m pretrain replay RUN step=N [out=FILE.png]"""


def main(argv):
    """Train, export, probe or replay; returns the exit code."""
    # Imported here because a loader's worker imports this module anew and needs none of it.
    if argv[:1] == ["export"]:
        from pretrain import weights

        return weights.main(argv[1:])
    if argv[:1] == ["probe"]:
        with starting():
            from pretrain import probe

        return probe.main(argv[1:])
    if argv[:1] == ["replay"]:
        from pretrain import replay

        return replay.main(argv[1:])
    signals.leave_on_signal()
    with starting():
        from engine.config.parser import parse
        from pretrain.config import PretrainConfig

        config = parse(PretrainConfig, argv, "pretrain", USAGE)
        from pretrain.train import train

    return train(config)


if __name__ == "__main__":
    run(main)
