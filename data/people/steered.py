"""Synthetic humans by given numbers: the parameters of a clip in place of the generator's draws.

Each parameter is a latent of a standard normal distribution. A drawn number is the quantile of what
the generator draws from there: the latent 0 gives the median, independent normal latents give the
generator's own distribution (its primary sample space: Kelemen and others, Computer Graphics Forum
2002). What has no parameter (textures, colours, fingers of bodies, ...) is drawn from the clip's
number as ever. Postures come from latents too, see pose_space.py.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from data.format.clip import Clip
from data.people import motion
from data.people.config import PeopleConfig
from data.people.extras import HAIR, HELD, OTHERS
from data.people.maker import FAULTS, PHOTO, ClipMaker
from data.people.pose_space import PoseSpace

# Names of the first numbers that each stage draws, in their order; "" is drawn as ever. A group is
# the first numbers of one array.
Names = tuple[str | tuple[str, ...], ...]
_EYE: Names = ("distance", "", "camera_height")
FAULT_NAMES: Names = (
    ("few_pixels", "out_of_focus", "shaken", "compressed", "exposed", "colourless"),
    "pixels",
    "defocus",
    "",
    "shake",
    "quality",
    "offset",
    "gain",
)
STAGES: dict[str, Names] = {
    "person": ("child", "sex"),
    "shape": ("", "age", "muscle", "weight", "height", "proportions"),
    "look": ("", "garment"),
    "scene": ("outdoors",),
    "boxes": ("clutter",),
    "light": ("light_height", "light_way", "light_warmth", "light_1", "light_2", "light_3"),
    "photography": ("exposure",),
    "azimuth": ("any_side", "azimuth"),
    "eye": _EYE,
    "frame": ("margin", "upper_body"),
    "shot": ("", ("off_axis_x", "off_axis_y"), "roll", ("shift_x", "shift_y"), "cut",
             ("cut_x", "cut_y")),
    "occluder": ("occluded", "occluder_near", "occluder_low", "occluder_width", "",
                 "occluder_height", "occluder_aside"),
    "background": ("painted",),
    "faults": FAULT_NAMES,
    "others": ("others",),
    "held": ("held",),
    "hair": ("hair",),
}  # fmt: skip
PURPOSES = {PHOTO: "background", FAULTS: "faults", OTHERS: "others", HELD: "held", HAIR: "hair"}
POSE, FIRST_STAGE = 70, 71  # purposes of random numbers: the rest of a posture, and stages' own
# What draws nothing where its share is 0: its parameters change nothing then.
SHARES = {
    "occluder": "occluded_share",
    "faults": "degraded_share",
    "others": "others_share",
    "held": "held_share",
    "hair": "hair_share",
    "background": "painted_share",
}


class SteeredGenerator(np.random.Generator):
    """A numpy Generator whose first numbers are given.

    Args:
        natural: whose numbers all others are.
        given: a latent, or one for each of the first numbers of an array, for each of the calls of
            ``random``, ``uniform``, ``normal``, ``beta`` and ``integers``; NaN: as ever.
    """

    def __init__(self, natural: np.random.Generator, given: Sequence[Sequence[float]]) -> None:
        super().__init__(natural.bit_generator)
        self._given = deque(given)

    def _put(self, natural: Any, quantile: Any) -> Any:
        """A call's numbers, the given ones in the places of the first; ``quantile`` of latents."""
        if not self._given:
            return natural
        latents = [(i, z) for i, z in enumerate(self._given.popleft()) if not math.isnan(z)]
        if not isinstance(natural, np.ndarray):
            return type(natural)(quantile(latents[0][1])) if latents else natural
        for i, z in latents:
            natural[i] = quantile(z)
        return natural

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """As numpy's; its quantile is the normal distribution's own."""
        return self._put(super().random(size, dtype, out), find_share)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """As numpy's."""
        natural = super().uniform(low, high, size)
        return self._put(natural, lambda z: low + (high - low) * find_share(z))

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        """As numpy's."""
        return self._put(super().normal(loc, scale, size), lambda z: loc + scale * z)

    def beta(self, a: Any, b: Any, size: Any = None) -> Any:
        """As numpy's."""
        from scipy.special import betaincinv

        return self._put(super().beta(a, b, size), lambda z: betaincinv(a, b, find_share(z)))

    # The parent has an overload for each dtype.
    # pyrefly: ignore[bad-override]
    def integers(self, low: Any, high: Any = None, size: Any = None, **more: Any) -> Any:
        """As numpy's."""
        start, stop = (0, low) if high is None else (low, high)
        stop = stop + 1 if more.get("endpoint") else stop

        def pick(z: float) -> int:
            return min(int(start + (stop - start) * find_share(z)), stop - 1)

        return self._put(super().integers(low, high, size, **more), pick)


def find_share(latent: float) -> float:
    """The share of a standard normal distribution that is below a latent, in [0, 1)."""
    return min(0.5 * math.erfc(-latent / math.sqrt(2)), 1 - 2**-53)


def list_parameters(config: PeopleConfig) -> list[str]:
    """The names of the parameters of a config's clips, those of the posture first."""
    domain, names = config.domain, list_pose_parameters(config.kind)
    for stage, group in STAGES.items():
        share = SHARES.get(stage)
        if share is not None and not getattr(domain, share):
            continue
        if config.kind == "hand" and stage in ("occluder", "frame"):
            continue
        names += [name for name in flatten_names(group) if name]
    without = {
        "cut": ["cut", "cut_x", "cut_y"] if not domain.cut_share else [],
        "off": ["off_axis_x", "off_axis_y"] if not domain.off_axis_deg else [],
    }
    gone = {name for some in without.values() for name in some}
    return [name for name in names if name not in gone]


def list_pose_parameters(kind: str) -> list[str]:
    """The names of the latents of a posture, "body", or of both hands' shape, "hand"."""
    return [f"pose_{i + 1}" for i in range(PoseSpace.SIZES[kind])]


def flatten_names(group: Names) -> list[str]:
    """The names of a stage one after the other, "" for what is drawn as ever."""
    return [name for part in group for name in ((part,) if isinstance(part, str) else part)]


class Steering(ClipMaker):
    """What the makers of clips and of scenes by given parameters share.

    Attributes:
        stages: the names of the first numbers of each stage.
        purposes: which stage is drawn for a purpose of random numbers.
        first_stage: purpose of the first stage's own numbers.
        names: of the parameters, in the order of their latents.
        poses: what turns the first latents into a posture, None where postures have none.
    """

    stages: ClassVar[Mapping[str, Names]] = STAGES
    purposes: ClassVar[Mapping[int, str]] = PURPOSES
    first_stage: ClassVar[int] = FIRST_STAGE
    names: list[str]
    poses: PoseSpace | None = None

    def __init__(self, config: PeopleConfig, device: str = "cpu") -> None:
        super().__init__(config, device)
        self._given: Mapping[str, float] = {}
        self._index = 0

    def random(self, index: int, purpose: int = 0) -> np.random.Generator:
        """As of ClipMaker, by the given parameters of that purpose."""
        natural = super().random(index, purpose)
        stage = self.purposes.get(purpose)
        return natural if stage is None else self._give(natural, self.stages[stage])

    def steer(self, rng: np.random.Generator, stage: str, which: int = 0) -> np.random.Generator:
        """Numbers of a stage's own, the first ones given; others beside the person are as ever."""
        if which or stage not in self.stages:
            return rng
        number = self.first_stage + list(self.stages).index(stage)
        return self._give(super().random(self._index, number), self.stages[stage])

    def _give(self, natural: np.random.Generator, names: Names) -> np.random.Generator:
        nan = float("nan")
        given = []
        for part in names:
            if part == ("off_axis_x", "off_axis_y") and not self.config.domain.off_axis_deg:
                continue  # the generator makes no such call then
            group = (part,) if isinstance(part, str) else part
            given.append([self._given.get(name, nan) for name in group])
        return SteeredGenerator(natural, given)


class SteeredMaker(Steering):
    """Makes clips of one crop by given parameters, in any order.

    Args:
        config: of the world that they are of; ``instants`` and ``cameras`` are 1.
        device: "cpu" or "cuda".

    Attributes:
        names, poses: see Steering.
    """

    def __init__(self, config: PeopleConfig, device: str = "cpu") -> None:
        super().__init__(config, device)
        self.names = list_parameters(config)
        self.poses: PoseSpace = PoseSpace(config)  # pyrefly: ignore - narrower than Steering's

    def make_clip(self, index: int, latents: np.ndarray, name: str = "") -> Clip:
        """The Clip of this number by these latents (len(names),); NaN is drawn as ever.

        Args:
            name: of the clip and its subject, where it is not that of the number.
        """
        self._given = dict(zip(self.names, np.asarray(latents, float).tolist(), strict=True))
        self._index = index
        clip = self.clip(index)
        if name:
            clip.key = clip.subject = name
        return clip

    def _sample_motion(self, rng, index, which, clock, rest):
        if which:
            return super()._sample_motion(rng, index, which, clock, rest)
        drawn = super().random(index, POSE)
        latents = [self._given[name] for name in list_pose_parameters(self.config.kind)]
        angles, hands = self.poses.place(drawn, np.array(latents))
        root = np.array([[drawn.uniform(0, 360), 0.0, 0.0]])
        return motion.Motion(angles[None], hands[None], root, clock.times_s)
