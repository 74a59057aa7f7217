"""The keys of ``python -m finetune examine``; imports no torch."""

from dataclasses import dataclass

from engine.config.parser import key
from engine.errors import UserError

ERRORS = ("pa_mpjpe", "mpjpe", "pve", "pck")  # of a crop; the first is the default
SCENE_ERRORS = ("people", "missed")  # of a scene, see scene_judge.py


@dataclass
class ExamineConfig:
    """Holds the keys of ``python -m finetune examine``."""

    run: str = key(
        "",
        "a fine-tuning run, one of its checkpoints, or weights (docs/weights.md)",
        path="one",
        positional="RUN",
    )
    out: str = key("", "folder for what is found; the same command continues", path="one")
    people: str = key(
        "",
        "config of data make whose people are searched; default: people_body or people_hand, as "
        "the run recovers them, or scene",
        path="one",
    )
    scenes: bool = key(
        False,
        "search whole frames of several people, whom a finder and crops recover; runs of "
        "task=scene always do",
    )
    error: str = key(
        "",
        "what is made large. Of crops pa_mpjpe (the default), mpjpe or pve in mm, or pck, the "
        "percentage of keypoints that lie farther from their true place in the image than .1 of "
        "the box around them. Of scenes people (the default), mm of everybody, where somebody who "
        "is missed, or is nobody, counts as 300; or missed, the percentage of these; both over "
        "two people more than there are",
        choices=("", *ERRORS, *SCENE_ERRORS),
    )
    given: bool = key(False, "give the run the true keypoints beside the image, if it takes them")
    random: int = key(240, "samples as the generator draws them, to compare with", low=20)
    niches: int = key(6, "searches, each from another of the worst random samples", low=1)
    budget: int = key(120, "samples of one search", low=12)
    population: int = key(12, "samples of one of its steps", low=4)
    reach: float = key(
        0.99,
        "share of the generator's own draws that are as ordinary as all that is searched, or more",
        low=0.5,
        high=0.9999,
    )
    prior: float = key(
        0.5,
        "what an unusual sample must make worse: standard deviations of random samples' errors for "
        "each 1 that its distance from the middle is above none, in units of a random sample's",
        low=0,
    )
    visible_min: float = key(
        0.15,
        "least share of the person's or hand's surface that is seen; in scenes who shows less "
        "neither counts as missed nor as found",
        low=0,
        high=1,
    )
    size: int | None = key(
        None,
        "side of a crop in pixels, default 160; longer side of a scene's frame, default 448",
        low=64,
        high=1024,
    )
    spread: float = key(
        0.35, "spread (sigma) of a region's samples about its middle", low=0.01, high=2
    )
    fresh: int = key(24, "new samples of each region that tell its error: OUT/test", low=2)
    variations: int = key(100, "samples of each region to train on: OUT/train; 0: none", low=0)
    seed: int = key(0, "of the search", low=0, high=2**31 - 1)
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))

    def check(self) -> None:
        """UserError where a key is missing, or two do not fit each other."""
        if not self.out:
            raise UserError("out= is not set: name the folder for what is found")
        if self.niches > self.random // 2:
            raise UserError(
                f"niches={self.niches} with random={self.random}: a search starts at one of the "
                f"worst of the random samples; there are at least twice as many of these"
            )
        if self.budget < self.population:
            raise UserError(
                f"budget={self.budget} is below population={self.population}, one step of a search"
            )


# These say where and how it runs, not what is found.
FREE = ("out", "device", "variations")
