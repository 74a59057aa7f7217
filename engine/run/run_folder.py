"""Where everything in a run's folder lies. Nothing here imports torch.

    RUN/config.yaml             the resolved config, with which the run began
    RUN/environment.json        command, versions, git and device of the first start
    RUN/lease.json              who holds the folder; engine.run.run_lock
    RUN/saved.json              step of the last complete checkpoint; engine.checkpoint.history
    RUN/manifest.json           the shards and clips that the run draws from
    RUN/metrics.json            what the run's numbers are; engine.logging.metric_registry
    RUN/log.jsonl               a line a logged step; lines that are done again in log.cut.jsonl
    RUN/checkpoints/step-N/     engine.checkpoint.checkpoints has its files
    RUN/captures/step-N.json    a bad update; engine.training.spike_guard
    RUN/fits/step-N.npz         fits that were made before a step; finetune.fit.table
    RUN/images/KIND-N.png       what the run drew
    RUN/evaluations/step-N/     an evaluation's files, its outcome beside it in step-N.json
    RUN/bad_samples.jsonl       samples with bad bytes, counted by shard in bad_samples.json
    RUN/bad_shards.json         the quarantine: shards to leave out, written by a person
    RUN/wandb/, wandb_id.txt    what wandb keeps
    RUN/report.html             the report, where nobody names another file
    RUN/code/, slurm/           copies of the code and the run metadata of the slurm package

N is the step with 8 digits. A run folder of an older version may hold its images in pictures/.
"""

import contextlib
import os
import re
from pathlib import Path

# Files that only the holder of the lease writes: what a killed process left of them may go.
HELD = (
    "config.yaml",
    "environment.json",
    "saved.json",
    "manifest.json",
    "metrics.json",
    "log.jsonl",
    "bad_samples.jsonl",
    "bad_samples.json",
)
# What a start that was killed before its config was written may leave in a new folder, and what
# the slurm package puts there before a run's first start.
BEFORE_CONFIG = ("lease.", "environment.json", "config.writing", "config.yaml.writing-", "saved.")
OF_SLURM = ("code", "slurm")
CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"


def step_name(step: int) -> str:
    """The name that everything of a step begins with, such as "step-00000050"."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step in such a name; None of other names, such as step-00000010.bak."""
    number = name.removeprefix("step-")
    if not number.isdecimal() or name != step_name(int(number)):
        return None
    return int(number)


class RunFolder:
    """The paths in a run's folder. Making one touches no disk."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def config(self) -> Path:
        """The resolved config; without it a folder is no run's."""
        return self.path / CONFIG

    @property
    def environment(self) -> Path:
        """Command, versions, git and device of the first start."""
        return self.path / "environment.json"

    @property
    def lease(self) -> Path:
        """Who holds the folder."""
        return self.path / "lease.json"

    @property
    def saved(self) -> Path:
        """The step of the last complete checkpoint."""
        return self.path / "saved.json"

    @property
    def manifest(self) -> Path:
        """The shards and clips that the run draws from."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """What the run's numbers are: names, units, which way is better."""
        return self.path / "metrics.json"

    @property
    def log(self) -> Path:
        """A JSON line a logged step."""
        return self.path / "log.jsonl"

    @property
    def cut_log(self) -> Path:
        """Lines of steps that were done again, of all starts, in the order they were cut."""
        return self.path / "log.cut.jsonl"

    @property
    def wandb(self) -> Path:
        """What wandb keeps."""
        return self.path / "wandb"

    @property
    def wandb_id(self) -> Path:
        """The id under which wandb knows the run, across restarts."""
        return self.path / "wandb_id.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.checkpoints / step_name(step)

    @property
    def captures(self) -> Path:
        """The folder of notes on bad updates."""
        return self.path / "captures"

    def capture(self, step: int) -> Path:
        """The note on the bad update of a step."""
        return self.captures / f"{step_name(step)}.json"

    @property
    def fits(self) -> Path:
        """The folder of fits that are labels."""
        return self.path / "fits"

    def fit(self, step: int) -> Path:
        """The fits that were made before a step."""
        return self.fits / f"{step_name(step)}.npz"

    @property
    def images(self) -> Path:
        """The folder of what the run drew."""
        return self.path / "images"

    def image(self, step: int, kind: str = "step") -> Path:
        """An image of a step; ``kind`` begins its name."""
        return self.images / f"{kind}-{step:08d}.png"

    @property
    def evaluations(self) -> Path:
        """The folder of evaluations of the run's checkpoints."""
        return self.path / "evaluations"

    def evaluation(self, step: int) -> Path:
        """The folder that the evaluation of a step writes into."""
        return self.evaluations / step_name(step)

    def outcome(self, step: int) -> Path:
        """The file with what came of the evaluation of a step."""
        return self.evaluations / f"{step_name(step)}.json"

    @property
    def shown_evaluations(self) -> Path:
        """The steps whose evaluations wandb has."""
        return self.evaluations / "shown.json"

    @property
    def bad_samples(self) -> Path:
        """A JSON line a sample with bad bytes."""
        return self.path / "bad_samples.jsonl"

    @property
    def bad_sample_counts(self) -> Path:
        """Counts of bad samples by shard and reason."""
        return self.path / "bad_samples.json"

    @property
    def quarantine(self) -> Path:
        """The shards to leave out, a JSON list that a person writes."""
        return self.path / "bad_shards.json"

    @property
    def report(self) -> Path:
        """The report, where nobody names another file."""
        return self.path / "report.html"

    @property
    def code(self) -> Path:
        """Copies of the code that the slurm package starts."""
        return self.path / "code"

    @property
    def slurm(self) -> Path:
        """The slurm package's run metadata."""
        return self.path / "slurm"

    def list_images(self) -> dict[str, dict[int, Path]]:
        """{kind: {step: path}} of the images that were drawn, by step.

        Those in ``pictures/``, where older versions drew, count where ``images/`` has none of the
        same name.
        """
        found: dict[str, dict[int, Path]] = {}
        for folder in (self.path / "pictures", self.images):
            for path in sorted(folder.glob("*.png")):
                name = re.fullmatch(r"([a-z_]+)-(\d+)\.png", path.name)
                if name:
                    found.setdefault(name[1], {})[int(name[2])] = path
        return {kind: dict(sorted(paths.items())) for kind, paths in found.items()}

    def clear_leftovers(self) -> None:
        """Remove half-written files that a killed process left; for who holds the lease.

        What cannot be listed or removed stays: it counts for nothing.
        """
        folders = self.images, self.captures, self.fits
        for folder, names in ((self.path, HELD), *((folder, None) for folder in folders)):
            with contextlib.suppress(OSError):
                for name in os.listdir(folder):
                    written, mark, _ = name.partition(".writing-")
                    if mark and (names is None or written in names):
                        os.unlink(folder / name)


def find_weights_file(folder: str | os.PathLike) -> Path:
    """The weights in the folder of a checkpoint, whether they are there or not."""
    return Path(folder) / WEIGHTS


def find_run(path: str | os.PathLike) -> RunFolder | None:
    """The run that a file lies in, as RUN/checkpoints/step-N/model.safetensors, or None."""
    checkpoint = Path(path).resolve().parent
    return RunFolder(checkpoint.parents[1]) if checkpoint.parent.name == "checkpoints" else None
