"""The keys of ``task=motion``. Nothing here imports torch."""

from dataclasses import dataclass

from engine.config.parser import key, section
from engine.config.train_config import LogConfig, TrainConfig
from engine.errors import UserError

MOTION_BODIES = ("anny",)  # whose joints have motions to learn from


@dataclass
class MotionNetworkConfig:
    """Sets the size of the network."""

    width: int = key(96, "of a frame's token", low=16)
    depth: int = key(2, "blocks of attention over the frames", low=1)
    heads: int = key(4, "of a block", low=1)
    frames: int = key(
        48,
        "frames that it sees at once; longer videos are gone through in windows",
        low=8,
        high=512,
    )

    def check(self) -> None:
        """Raise UserError where the width does not divide among the heads."""
        if self.width % (2 * self.heads):
            raise UserError(
                f"model.width={self.width} does not divide by twice model.heads={self.heads}"
            )


@dataclass
class MotionDataConfig:
    """Says which motions are learnt from."""

    made: int = key(1000, "motions of the generator", low=0)
    seconds: float = key(8.0, "length of each", low=1)
    acted: float = key(
        0.7,
        "share of them in which people act (docs/people.md); the others move between written "
        "postures, or walk",
        low=0,
        high=1,
    )
    recorded: str = key(
        "",
        "folder of recorded motions, BVH or AMASS (docs/recorded.md), that are learnt from too",
        path="one",
    )
    recorded_takes: int = key(1000, "stretches drawn from it", low=1)
    tracks: str = key(
        "",
        "NPZ files that predict wrote of videos, learnt from as if they were true",
        path="several",
    )
    val_motions: int = key(64, "validation motions, of a seed of their own", low=1)
    least_hz: float = key(10.0, "lowest frame rate", low=1)
    most_hz: float = key(60.0, "highest frame rate", low=1)

    def check(self) -> None:
        """Raise UserError where there is no motion, or the rates are none."""
        if not (self.made or self.recorded or self.tracks):
            raise UserError(
                "data.made=0, and neither data.recorded nor data.tracks is set: there is no motion "
                "to learn from"
            )
        if self.least_hz > self.most_hz:
            raise UserError(
                f"data.least_hz={self.least_hz:g} is above data.most_hz={self.most_hz:g}"
            )


@dataclass
class SpoilConfig:
    """Sets how motions are spoilt: what a network's errors are like."""

    noise: float = key(1.0, "strength of errors of each frame by itself", low=0)
    slow: float = key(1.0, "strength of errors that last some tenths of a second", low=0)
    limb_hz: float = key(
        0.3, "how often a second a limb is wrong for a while, as where it is hidden", low=0
    )
    flip_share: float = key(
        0.05,
        "share of stretches in which the person faces the wrong way for a while",
        low=0,
        high=1,
    )
    swap_share: float = key(
        0.05, "share of stretches in which left and right are swapped for a while", low=0, high=1
    )
    gap_share: float = key(0.5, "share of stretches with gaps between their frames", low=0, high=1)
    gap_s: float = key(0.5, "longest gap, seconds", low=0)
    drop_share: float = key(0.1, "single frames that are missing, at most", low=0, high=0.9)
    ahead_share: float = key(
        0.3, "share of stretches whose last frames are to be foretold", low=0, high=1
    )
    ahead_s: float = key(0.3, "how long these are at most, seconds", low=0)


@dataclass
class MotionLossConfig:
    """Sets the weights of the terms of the loss."""

    rotation: float = key(1.0, "weight of each joint's rotation, radians", low=0)
    joints: float = key(10.0, "weight of joints about the root, metres", low=0)
    acceleration: float = key(10.0, "weight of their accelerations, metres a squared frame", low=0)
    place: float = key(
        10.0, "weight of where the person is, metres; of the distance a quarter", low=0
    )
    confidence: float = key(0.05, "weight of how well it knows its errors", low=0)


@dataclass
class MotionConfig(TrainConfig):
    """Holds the keys of ``python -m finetune train`` with ``task=motion``."""

    task: str = key("motion", "what is learnt: a module of finetune/tasks")
    body: str = key("anny", "body model whose rotations are learnt", choices=MOTION_BODIES)
    model: MotionNetworkConfig = section(MotionNetworkConfig)
    data: MotionDataConfig = section(MotionDataConfig)
    spoil: SpoilConfig = section(SpoilConfig)
    loss: MotionLossConfig = section(MotionLossConfig)
    log: LogConfig = section(LogConfig, resumable=True)
