"""``python -m pretrain VERB ...``."""

from collections.abc import Sequence

from engine.cli import run
from engine.commands import Package, Verb, run_package

PACKAGE = Package(
    "pretrain",
    "Pre-train an encoder on pairs of images of one person; measure it, and write its weights.",
    (
        Verb(
            "train",
            "pretrain.train:train",
            "pre-train; the same command resumes a run that was stopped",
            "CONFIG run=DIR data.shards=DIR [key=value ...]",
            "body_vits run=runs/body data.shards=shards/body optim.lr=1e-4 steps=20000",
            keys="pretrain.config:PretrainConfig",
            usual=("run", "data.shards", "batch", "steps", "optim.lr", "device", "init"),
            takes_config=True,
            trains=True,
        ),
        Verb(
            "probe",
            "pretrain.probe:main",
            "measure how well 3D joints can be read off the frozen encoders of runs or files",
            "RUN-or-FILE ... shards=DIR [key=value ...]",
            "runs/body shards=shards/test clips=500",
            keys="pretrain.verb_config:ProbeCommand",
            starts_ranks=True,
        ),
        Verb(
            "export",
            "pretrain.weights:main",
            "write the weights of a run in timm's or CroCo's layout",
            "RUN-or-FILE out=FILE [layout=timm|croco] [overwrite=true]",
            "runs/body out=encoder.safetensors",
            keys="pretrain.verb_config:ExportConfig",
        ),
        Verb(
            "replay",
            "pretrain.replay:main",
            "read the batch of a step again and name its highest-loss samples",
            "RUN step=N [out=FILE.png] [key=value of the run ...]",
            "runs/body step=1200 out=highest_loss.png",
            keys="pretrain.verb_config:ReplayConfig",
        ),
    ),
    example="pretrain train body_vits run=runs/body data.shards=shards/body",
    default="train",
)


def main(argv: Sequence[str]) -> int:
    """Runs a verb of this package; returns its exit code."""
    return run_package(PACKAGE, argv)


if __name__ == "__main__":
    run(main)
