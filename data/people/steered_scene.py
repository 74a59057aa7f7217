"""Synthetic scenes by given numbers: the parameters of a scene in place of the generator's draws.

As data/people/steered.py has them of one person: each is a latent of a standard normal
distribution, the latent 0 gives the median of what the generator draws there, and independent
normal latents give the scenes that it makes. Given are how many people there are, where the first
of them stand, the camera, what is in the way, the light and the faults of the image. Who the people
are, what they wear and do, and where those beyond the first OTHERS stand, is drawn from the scene's
number.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from data.format.frame import Frame
from data.people.config import PeopleConfig
from data.people.maker import FAULTS, PHOTO
from data.people.scene_maker import SceneMaker
from data.people.steered import (
    SHARES,
    STAGES,
    Names,
    Steering,
    flatten_names,
)

OTHERS = 4  # people beside the one whom the frame is about whose places have parameters
# As STAGES; of "place" those of each of the others come in their place. Of who stands beside
# somebody, "depth" says whom of them and "across" on which side.
SCENE_STAGES: dict[str, Names] = {
    "scene": STAGES["scene"],
    "view": ("shape", "lens", "crowd_or_close", "tall", "camera_height", "camera_low_high"),
    "cast": ("people",),
    "aim": ("", "", "aim_across", "aim_down", "roll"),
    "barrier": (STAGES["occluder"][0], "occluded_whom", *STAGES["occluder"][1:]),
    "boxes": STAGES["boxes"],
    "light": STAGES["light"],
    "photography": STAGES["photography"],
    "background": STAGES["background"],
    "faults": STAGES["faults"],
}
PLACE = ("beside", "depth", "across")
SCENE_SHARES = {**SHARES, "barrier": SHARES["occluder"]}
FIRST_STAGE = 80  # purpose of random numbers: of the first stage, and from PLACES on of places
PLACES = 95


def name_place(which: int) -> Names:
    """The names of the parameters of where one of the others, from 1 on, stands."""
    return tuple(f"{name}_{which}" for name in PLACE)


def list_scene_parameters(config: PeopleConfig) -> list[str]:
    """The names of the parameters of a config's scenes."""
    names: list[str] = []
    for stage, group in SCENE_STAGES.items():
        share = SCENE_SHARES.get(stage)
        if share is None or getattr(config.domain, share):
            names += [name for name in flatten_names(group) if name]
    for which in range(1, min(OTHERS + 1, config.scene.people[1])):
        names += flatten_names(name_place(which))
    low, high = config.scene.people
    alone = {"shape": len(config.scene.aspects) == 1, "people": low == high}
    return [name for name in names if not alone.get(name)]


class SteeredSceneMaker(Steering, SceneMaker):
    """Makes scenes of one frame by given parameters, in any order.

    Args:
        config: of the world that they are of, kind=scene; ``instants`` is 1.
        device: "cpu" or "cuda".
    """

    stages: ClassVar[Mapping[str, Names]] = SCENE_STAGES
    purposes: ClassVar[Mapping[int, str]] = {PHOTO: "background", FAULTS: "faults"}
    first_stage: ClassVar[int] = FIRST_STAGE

    def __init__(self, config: PeopleConfig, device: str = "cpu") -> None:
        super().__init__(config, device)
        self.names = list_scene_parameters(config)

    def make_frame(self, index: int, latents: np.ndarray) -> Frame:
        """The Frame of this scene's number by these latents (len(names),); NaN: as ever."""
        self._given = dict(zip(self.names, np.asarray(latents, float).tolist(), strict=True))
        self._index = index
        (frame,) = self.frames(index)
        return frame

    def steer(self, rng: np.random.Generator, stage: str, which: int = 0) -> np.random.Generator:
        """As of Steering; the first places of each of the others are given too."""
        if stage == "place" and 1 <= which <= OTHERS:
            natural = SceneMaker.random(self, self._index, PLACES + which)
            return self._give(natural, name_place(which))
        return super().steer(rng, stage, which)
