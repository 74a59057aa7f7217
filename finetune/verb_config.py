"""The keys of ``python -m finetune evaluate|predict|report``.

Nothing here imports torch: help and completion take a fraction of a second.
"""

from dataclasses import dataclass

from engine.config.parser import key, section
from engine.errors import UserError


@dataclass
class EvaluateDataConfig:
    """Names the labelled shards of an evaluation."""

    shards: str = key(
        "",
        "labelled shards; clips that the run was trained on are left out; default: those of the "
        "run",
        path="several",
    )


@dataclass
class EvaluateConfig:
    """Holds the keys of ``python -m finetune evaluate``."""

    run: str = key("", "a fine-tuning run, or one of its checkpoints", path="one", positional="RUN")
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


@dataclass
class PredictConfig:
    """Holds the keys of ``python -m finetune predict``."""

    run: str = key("", "a fine-tuning run, or one of its checkpoints", path="one")
    out: str = key("", "folder for overlays, meshes and numbers", path="one")
    boxes: str = key(
        "",
        "CSV or JSON with image,x0,y0,x1,y1 and perhaps side, a row a person; default: the whole "
        "image",
        path="one",
    )
    intrinsics: list[float] = key(
        [], "fx,fy,cx,cy of the images in pixels; default: the focal length is the diagonal"
    )
    side: str = key(
        "right",
        "which hands are looked for where boxes= does not say (runs on hands)",
        choices=("right", "left"),
    )
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))


@dataclass
class ReportConfig:
    """Holds the keys of ``python -m finetune report``."""

    out: str = key("", "the HTML file to write; default: report.html in the folder", path="one")
    rows: int = key(4, "clips shown of each folder of shards", low=1, high=16)
    seed: int = key(0, "another seed shows other clips and pairs", low=0)

    def check(self) -> None:
        """UserError where the file's name is none of a page."""
        if self.out and not self.out.lower().endswith((".html", ".htm")):
            raise UserError(f"out={self.out}: the file's name does not end in .html")
