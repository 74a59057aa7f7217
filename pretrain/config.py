"""The keys of ``python -m pretrain``."""

from dataclasses import dataclass

from data.config import DataConfig
from engine.config import key, section
from engine.errors import UserError
from pretrain.model import ModelConfig
from pretrain.objective import ObjectiveConfig

# What may differ when a run goes on, because results do not depend on it (design decision 7).
FREE = ("run", "init", "device", "data.workers", "data.prefetch", "data.shards", "data.sources.*.shards", "log.*",
        "checkpoint.*")


@dataclass
class MaskingConfig:
    ratio: float = key(0.9, "share of a's patches that are masked", low=0, high=0.99)
    person_bonus: float = key(0.0, "above 0, patches on the person are masked first; 1 or more: always before background")
    min_visible_person: int = key(8, "of the visible patches at least so many (or a quarter of the person's) lie on it", low=0)


@dataclass
class OptimConfig:
    lr: float = key(1.5e-4, "learning rate for 256 pairs a step; scales with batch", low=0)
    min_lr: float = key(0.0, "learning rate at the end, for 256 pairs", low=0)
    warmup: int = key(1000, "steps of linear warm-up", low=0)
    beta1: float = key(0.9, "AdamW", low=0, high=1)
    beta2: float = key(0.95, "AdamW", low=0, high=1)
    weight_decay: float = key(0.05, "AdamW; 0 on biases and norms", low=0)
    clip: float | None = key(None, "largest gradient norm; null: no clipping", low=0)


@dataclass
class CheckpointConfig:
    every: int = key(1000, "steps between checkpoints; one more at the end", low=1)
    keep: int = key(3, "newest checkpoints kept", low=1)


@dataclass
class LogConfig:
    every: int = key(10, "steps between lines of log.jsonl", low=1)
    held_out_every: int = key(200, "steps between held-out losses; 0: never", low=0)
    held_out_pairs: int = key(64, "held-out pairs of each kind", low=1)
    pictures_every: int = key(1000, "steps between pictures of completions; 0: never", low=0)
    pictures: int = key(4, "held-out pairs of each kind that are drawn", low=1)
    wandb: str = key("off", "weights & biases", choices=("off", "offline", "online"))


@dataclass
class PretrainConfig:
    run: str = key("", "the run's folder; starting again with the same folder goes on")
    init: str = key("", "start from weights: a run, a weights file, a parents' checkpoint, a timm checkpoint")
    seed: int = key(0, "of weights, order, crops and masks", low=0)
    steps: int = key(100_000, "updates", low=1)
    batch: int = key(256, "pairs in a step, over all processes", low=1)
    accumulate: int = key(1, "parts that each process cuts its share of a batch into, to save memory", low=1)
    device: str = key("auto", "auto takes a GPU where there is one", choices=("auto", "cpu", "cuda"))
    precision: str = key("auto", "auto: bf16 on a GPU, float32 on a CPU", choices=("auto", "float32", "bf16"))
    deterministic: bool = key(False, "refuse operations whose result varies from run to run (GPU)")
    model: ModelConfig = section(ModelConfig)
    masking: MaskingConfig = section(MaskingConfig)
    objective: ObjectiveConfig = section(ObjectiveConfig)
    data: DataConfig = section(DataConfig)
    optim: OptimConfig = section(OptimConfig)
    checkpoint: CheckpointConfig = section(CheckpointConfig)
    log: LogConfig = section(LogConfig)

    def check(self):
        patches = (self.model.image_size // self.model.patch) ** 2
        if not 0 < int(self.masking.ratio * patches) < patches:
            masked = int(self.masking.ratio * patches)
            raise UserError(f"masking.ratio={self.masking.ratio} masks {masked} of {patches} patches; at least one must be "
                            f"masked and one visible")
        if self.optim.warmup > self.steps:
            raise UserError(f"optim.warmup={self.optim.warmup} is longer than steps={self.steps}")
        if self.batch % self.accumulate:
            raise UserError(f"batch={self.batch} does not divide by accumulate={self.accumulate}")

    @property
    def peak_lr(self):
        return self.optim.lr * self.batch / 256
