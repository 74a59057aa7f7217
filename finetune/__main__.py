"""``python -m finetune train|replay|evaluate|predict|report|demo ...``"""

from engine.cli import run
from engine.distributed.startup import starting
from engine.errors import UserError
from engine.run import signals

USAGE = """usage: python -m finetune train CONFIG.yaml run=DIR init=RUN-or-FILE data.shards=DIR [key=value ...]
       python -m finetune replay RUN step=N [out=FILE.png]
       python -m finetune evaluate run=DIR data.shards=DIR [without=RUN]
       python -m finetune predict run=DIR out=DIR IMAGE ...
       python -m finetune report DIR
       python -m finetune demo DIR

--help after any of them lists its keys."""


def main(argv):
    """Run one of the room's commands; returns the exit code."""
    # Imported when they are wanted: a loader's worker imports this module anew and needs none of
    # them.
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("--help", "-h"):
        print(USAGE)
        return 0
    if command == "train":
        signals.leave_on_signal()
        with starting():
            from engine.config.parser import parse
            from finetune.config import FinetuneConfig

            config = parse(FinetuneConfig, rest, "finetune train")
            from finetune.train import train

        return train(config)
    if command == "replay":
        from finetune.train import replay as command_main
    elif command == "evaluate":
        from finetune.evaluation.evaluate import main as command_main
    elif command == "predict":
        from finetune.predict import main as command_main
    elif command == "report":
        from finetune.report import main as command_main
    elif command == "demo":
        from finetune.demo import main as command_main
    else:
        raise UserError(f"'{command}' is no command of finetune\n{USAGE}")
    return command_main(rest)


if __name__ == "__main__":
    run(main)
