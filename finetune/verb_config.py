"""The keys of ``python -m finetune evaluate``. Nothing here imports torch."""

from dataclasses import dataclass

from engine.config.parser import key, section


@dataclass
class EvaluateDataConfig:
    shards: str = key(
        "",
        "labelled shards; clips that the run was trained on are left out; default: those of the "
        "run",
        path="several",
    )


@dataclass
class EvaluateConfig:
    run: str = key("", "a fine-tuning run, or one of its checkpoints", path="one")
    without: str = key(
        "", "the same training without pre-training, for a row of the table", path="one"
    )
    out: str = key("", "folder for the results; default: RUN/evaluation", path="one")
    log: bool = key(
        False,
        "put the numbers into the run's log too, at the checkpoint's step; out is then "
        "RUN/evaluations/step-X",
    )
    clips: int = key(64, "clips, at most", low=1)
    examples: int = key(
        2, "of the best, of the median and of the worst crops that are drawn", low=1
    )
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))
    allow_commands: bool = key(False, "run the commands (pipe:) that RUN's config names as shards")
    data: EvaluateDataConfig = section(EvaluateDataConfig)
