"""The keys of ``python -m finetune referee``; imports no torch."""

from dataclasses import dataclass

from engine.config.parser import key
from engine.errors import UserError


@dataclass
class RefereeConfig:
    """Holds the keys of ``python -m finetune referee``."""

    run: str = key(
        "",
        "a fine-tuning run, one of its checkpoints, or weights (docs/weights.md)",
        path="one",
        positional="RUN",
    )
    beside: list[str] = key(
        [],
        "further runs, checkpoints or weights that are rows of the same tables, on the same people",
        path="several",
    )
    samples: list[str] = key(
        [],
        "videos, images and folders of them; the videos of a folder that holds a calibration file "
        "are one take of synchronised cameras",
        path="several",
    )
    out: str = key("", "folder for the results; default: RUN/referee", path="one")
    truth: str = key(
        "",
        "folder where what was found in the images is kept, for the next run; default: OUT/truth",
        path="one",
    )
    every: int = key(1, "of a video's frames every so many-th is judged", low=1)
    leave_out: list[str] = key(
        [], "names of clips, as the results have them, that are not judged here"
    )
    least_side_px: float = key(
        64.0, "people whose box has a shorter longer side are left out", low=16
    )
    least_score: float = key(0.35, "people that are found with a lower score are", low=0, high=1)
    least_hand_px: float = key(
        48.0, "hands whose box has a shorter longer side are left out", low=8
    )
    least_hand_score: float = key(0.8, "hands that are found with a lower score are", low=0, high=1)
    checkpoints: bool = key(
        False,
        "judge every complete checkpoint of the run on the same people: curve.json and curve.png",
    )
    synthetic: str = key(
        "",
        "labelled shards of synthetic people that are judged by the same numbers, beside the real "
        "ones; clips and people that the runs were trained on are left out",
        path="several",
    )
    synthetic_crops: int = key(300, "crops of them, at most", low=1)
    prompts: bool = key(
        False,
        "give runs that take them the found keypoints and outlines, as predict does; PCK, and IoU "
        "of runs that take outlines, are then of what they were told",
    )
    sheets: bool = key(True, "draw every judged person")
    device: str = key("auto", "where the network runs", choices=("auto", "cpu", "cuda"))

    def check(self) -> None:
        """UserError where there is nothing to judge, or nothing to judge on."""
        if not self.run:
            raise UserError("name the run: python -m finetune referee RUN samples=DIR")
        if not self.samples:
            raise UserError("samples= is not set: name videos, images or folders of them")
