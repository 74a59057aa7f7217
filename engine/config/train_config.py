"""The keys that every training run has."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.config.parser import key, section
from engine.errors import UserError

LR_SAMPLES = 256  # samples a step that learning rates are given for


@dataclass
class OptimConfig:
    """Sets AdamW and the schedule of its learning rate."""

    lr: float = key(1.5e-4, "learning rate for 256 samples a step; scales with batch", low=0)
    min_lr: float = key(0.0, "learning rate at the end, for 256 samples", low=0)
    warmup: int = key(1000, "steps of linear warm-up", low=0)
    fall_share: float = key(
        1.0,
        "share of all steps, the last, in which the learning rate falls to min_lr; before that it "
        "stays",
        low=0,
        high=1,
    )
    beta1: float = key(0.9, "AdamW", low=0, high=0.99999)
    beta2: float = key(0.95, "AdamW", low=0, high=0.99999)
    weight_decay: float = key(0.05, "AdamW; 0 on biases and norms", low=0)
    max_grad_norm: float | None = key(
        None, "largest gradient norm; null: no clipping", low=1e-9, renamed_from="clip"
    )
    ema: float = key(
        0.0,
        "share that a running average of the weights keeps of itself an update, such as 0.999; "
        "checkpoints then hold the average; 0: none",
        low=0,
        high=0.999999,
        resumable=True,
    )


@dataclass
class CheckpointConfig:
    """Sets how often checkpoints are written and which are kept."""

    every: int = key(1000, "steps between checkpoints; one more at the end", low=1)
    keep: int = key(3, "newest checkpoints kept", low=1)
    keep_every: int = key(0, "checkpoints of every so many steps are kept for ever; 0: none", low=0)
    background: bool = key(
        True,
        "write while training continues; takes host memory for one checkpoint in the first process",
    )


@dataclass
class EvaluateConfig:
    """Evaluations of checkpoints beside the training; see engine/training/eval_jobs.py."""

    every: int = key(
        0,
        "steps between evaluations, each in a process or a job of its own, and one at the end; 0: "
        "never",
        low=0,
    )
    shards: str = key(
        "",
        "labelled shards that they are on; default: probe.shards, and in fine-tuning the run's "
        "validation clips",
        path="several",
    )
    keys: list[str] = key(
        [], "further keys of the command that evaluates, such as evaluate.keys=clips=200,device=cpu"
    )
    here: bool = key(
        True,
        "the first process starts them, one at a time, at the lowest priority; false: who started "
        "the run "
        "does, as python -m slurm on a cluster",
    )


@dataclass
class GuardConfig:
    """Sets when an update is skipped, a run goes back, and a rank counts as hanging."""

    spike: float | None = key(
        8.0,
        "an update is skipped if its gradient norm's logarithm lies so many standard deviations "
        "above its running mean; null: only if it is NaN or Inf",
        low=1,
    )
    warmup: int = key(100, "steps before spikes are looked for", low=1)
    skips: int = key(
        10,
        "bad updates in a row after which the run goes back to an earlier checkpoint and over that "
        "stretch",
        low=1,
    )
    rollbacks: int = key(
        3, "such returns in a run; when one more is due it stops with a report", low=0
    )
    hang_s: float = key(
        600,
        "seconds without progress after which a rank counts as hanging and all leave",
        low=1,
        resumable=True,
    )
    compile_s: float = key(
        1800,
        "seconds that the first step may take beyond that where it compiles the network's blocks",
        low=0,
        resumable=True,
    )


@dataclass
class LogConfig:
    """Sets how often a run logs, validates and draws images, and what wandb gets."""

    every: int = key(10, "steps between lines of log.jsonl", low=1)
    val_every: int = key(
        200, "steps between validations; 0: never", low=0, renamed_from="held_out_every"
    )
    images_every: int = key(
        1000, "steps between images; 0: never", low=0, renamed_from="pictures_every"
    )
    wandb: str = key(
        "off",
        "weights & biases; online continues offline where the server is not reached",
        choices=("off", "offline", "online"),
    )
    faces: bool = key(
        False,
        "send wandb images of others than synthetic humans too; false keeps those in RUN/images "
        "alone",
    )


@dataclass
class TrainConfig:
    """Holds the keys that every training run has."""

    run: str = key(
        "",
        "the run's folder; starting again with the same folder resumes it",
        path="one",
        resumable=True,
    )
    init: str = key(
        "",
        "start from weights: a run, a weights file, a CroCo checkpoint, a timm checkpoint",
        path="one",
        resumable=True,
    )
    seed: int = key(0, "of weights, order, crops and masks", low=0, high=2**63 - 1)
    steps: int = key(100_000, "updates", low=1)
    batch: int = key(256, "samples in a step, over all processes", low=1)
    grad_accum_steps: int = key(
        1,
        "parts that each process cuts its share of a batch into, to save memory",
        low=1,
        renamed_from="accumulate",
    )
    device: str = key(
        "auto",
        "auto takes a GPU where there is one",
        choices=("auto", "cpu", "cuda"),
        resumable=True,
    )
    parallel: str = key(
        "ddp",
        "a process holds all weights (ddp: best where they fit), a share of its node's copy (hsdp: "
        "several nodes) or a share of the only copy (fsdp: one node, or least memory)",
        choices=("ddp", "fsdp", "hsdp"),
        resumable=True,
    )
    shard_over: int | None = key(
        None,
        "processes that hold one copy of the weights under parallel=hsdp; null: those of a node",
        low=2,
        resumable=True,
    )
    precision: str = key(
        "auto",
        "of the network; auto: bf16 where the device multiplies in it; float32 is never TF32",
        choices=("auto", "float32", "bf16"),
    )
    compile: str = key(
        "auto",
        "compile the network's blocks; auto: on a GPU",
        choices=("auto", "on", "off"),
        resumable=True,
    )
    activation_checkpointing: bool = key(
        False,
        "compute a block's inside again in the backward pass: less memory, a third more work",
        renamed_from="recompute",
        resumable=True,
    )
    deterministic: bool = key(False, "refuse operations whose result varies from run to run (GPU)")
    optim: OptimConfig = section(OptimConfig)
    checkpoint: CheckpointConfig = section(CheckpointConfig, resumable=True)
    evaluate: EvaluateConfig = section(EvaluateConfig, resumable=True)
    guard: GuardConfig = section(GuardConfig)
    if TYPE_CHECKING:
        # Every command's config has such a section, with keys of its own at the end.
        log: LogConfig = section(LogConfig, resumable=True)

    def check(self) -> None:
        """UserError where keys do not fit each other; see engine.config.parser.parse."""
        if not self.run:
            raise UserError("run is not set: run=DIR names the run's folder")
        if self.optim.warmup > self.steps:
            raise UserError(f"optim.warmup={self.optim.warmup} is longer than steps={self.steps}")
        if self.checkpoint.keep_every % self.checkpoint.every:
            raise UserError(
                f"checkpoint.keep_every={self.checkpoint.keep_every} is not a multiple of "
                f"checkpoint.every={self.checkpoint.every}, so hardly any would be kept"
            )
        if self.evaluate.every % self.checkpoint.every:
            raise UserError(
                f"evaluate.every={self.evaluate.every} is not a multiple of checkpoint.every="
                f"{self.checkpoint.every}: checkpoints are what is evaluated"
            )
        for word in self.evaluate.keys:
            if "=" not in word:
                raise UserError(f"evaluate.keys: '{word}' is not of the form key=value")
        if self.batch % self.grad_accum_steps:
            raise UserError(
                f"batch={self.batch} does not divide by grad_accum_steps={self.grad_accum_steps}"
            )
        if self.shard_over is not None and self.parallel != "hsdp":
            raise UserError(
                f"shard_over={self.shard_over} is for parallel=hsdp, and parallel={self.parallel}: "
                f"leave one out"
            )

    def check_processes(self, world: int, node: int) -> None:
        """Raises UserError where so many processes cannot share a batch, or the weights.

        Called before anything is built.

        Args:
            world: processes in all.  node: of them on one node.
        """
        if self.batch % (world * self.grad_accum_steps):
            raise UserError(
                f"batch={self.batch} does not divide by {world} processes times "
                f"grad_accum_steps={self.grad_accum_steps}"
            )
        size = self.holders(world, node)
        said = (
            f"the {node} processes of a node"
            if self.shard_over is None
            else f"shard_over={self.shard_over}"
        )
        if world % size:
            raise UserError(
                f"parallel=hsdp: {world} processes do not divide by {said}; set shard_over to a "
                f"divisor"
            )
        if self.parallel == "hsdp" and size < min(2, world):
            raise UserError(
                f"parallel=hsdp: a node has 1 process of {world}, so each would hold a copy as "
                f"under parallel=ddp; "
                f"set that, or shard_over=N for copies over several nodes"
            )

    def holders(self, world: int, node: int) -> int:
        """Processes that hold one copy of the weights together; 1: each has all.

        Arguments as above.
        """
        if world == 1 or self.parallel == "ddp":
            return 1
        return world if self.parallel == "fsdp" else self.shard_over or node

    def evaluation(self, checkpoint: str) -> list[str]:
        """Return the words of ``python -m`` that evaluate a checkpoint for the run's log."""
        return []

    @property
    def samples(self) -> int:
        """What a step learns from, over all processes: pairs or crops."""
        return self.batch

    def scale_lr(self, lr: float) -> float:
        """The learning rate of this run's batch, of one that is given for LR_SAMPLES samples."""
        return lr * self.samples / LR_SAMPLES

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up."""
        return self.scale_lr(self.optim.lr)
