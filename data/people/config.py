"""The keys of ``python -m data make``, and the name of the population that they describe."""

import hashlib
import json
from dataclasses import dataclass

from data.format.surface import STEP_PX
from data.people import poses
from data.people.actions.names import ACTIONS, UPRIGHT_ACTIONS
from data.people.scene_config import OF_CLIPS, SceneKeys
from data.people.split import LOOKS
from data.tools.work_split import HELP, Part
from engine.config.parser import flat, key, section
from engine.errors import UserError


@dataclass
class Domain:
    """How wide the world of the synthetic humans is."""

    upright: bool = key(False, "only standing postures, walks and open hands")
    postures: list[str] = key(
        [],
        "written postures that people move between, by their names in data/people/poses.py; "
        "default: "
        "all, or those of standing people",
    )
    hands: list[str] = key([], "written shapes of hands, likewise; default: all, or open ones")
    walk_share: float = key(0.3, "share of people who walk or run", low=0, high=1)
    planted: bool = key(
        False, "feet that carry somebody stay where they stand, and the body keeps its balance"
    )
    actions_share: float = key(
        0.0,
        "share of people who act: walk with starts and turns, sit down, reach, throw, jump and so "
        "on, in place of moves between written postures (docs/people.md)",
        low=0,
        high=1,
    )
    actions: list[str] = key(
        [], "what those people do, by names of data/people/actions/names.py; default: all"
    )
    recorded: str | None = key(
        None,
        "folder of recorded motions, BVH, AMASS or DeepMimic's (docs/recorded.md)",
        path="one",
    )
    recorded_share: float = key(
        0.5, "share of people who move as recorded, where recorded= is set", low=0, high=1
    )
    recorded_mark: str = key(
        "", "what the folder of recorded= holds, as 16 hex digits; the command sets it"
    )
    child_share: float = key(0.12, "share of children", low=0, high=1)
    shape_spread: float = key(
        1.0,
        "spread of build, height and proportions around the middle (0: all alike)",
        low=0,
        high=1,
    )
    outdoors_share: float = key(0.45, "share of clips in the open air", low=0, high=1)
    plain_share: float = key(
        0.0, "share of clips before plain walls and floors, as in a studio", low=0, high=1
    )
    backgrounds: str | None = key(
        None,
        "folder of photographs that take the place of rooms and open air (docs/backgrounds.md)",
        path="one",
    )
    backgrounds_share: float = key(
        1.0, "share of clips before a photograph, where backgrounds= is set", low=0, high=1
    )
    painted_share: float = key(
        0.0,
        "share of the other clips before a painted background, as busy as a photograph",
        low=0,
        high=1,
    )
    backgrounds_mark: str = key(
        "", "what the folder of backgrounds= holds, as 16 hex digits; the command sets it"
    )
    boxes: int = key(6, "most boxes of clutter around a person", low=0, high=8)
    any_side_share: float = key(
        0.25, "share of clips whose first camera stands on any side of the person", low=0, high=1
    )
    facing_deg: float = key(
        63.0, "otherwise: spread (sigma) of the first camera about the person's front", low=0
    )
    far_view_deg: float = key(
        137.0,
        "largest angle about the person between the first camera and those that are not near",
        low=0,
        high=180,
    )
    distance_m: list[float] = key(
        [2.0, 5.5], "least and greatest distance of a camera from the body"
    )
    hand_distance_m: list[float] = key(
        [0.7, 2.2], "least and greatest distance of a camera from the hand"
    )
    height_m: float = key(
        1.3,
        "mean height of the cameras above the floor (for hands: they are near the hand's height)",
    )
    height_spread_m: float = key(0.45, "spread (sigma) of that height", low=0)
    off_axis_deg: float = key(
        0.0,
        "spread (sigma) of the angle between a camera's axis and the person, each way",
        low=0,
        high=25,
    )
    cut_share: float = key(
        0.0, "share of crops that are cut off somewhere on the person", low=0, high=1
    )
    occluded_share: float = key(
        0.0,
        "share of cameras with a post, a panel or a low thing before the person",
        low=0,
        high=1,
    )
    seats: bool = key(False, "put something under those who sit")
    degraded_share: float = key(
        0.0,
        "how many cameras are out of focus, small, shaken or compressed: 1: about four of five in "
        "some way, 0: none",
        low=0,
        high=1,
    )
    others_share: float = key(
        0.0, "share of clips with one or two other people in the image", low=0, high=1
    )
    held_share: float = key(
        0.0,
        "share of people who hold something; .4 times as many carry a pack on their backs",
        low=0,
        high=1,
    )
    hair_share: float = key(
        0.0, "share of people with hair of some volume or tied, and with hats", low=0, high=1
    )
    looks: str = key(
        "few",
        "textures, garments, colours and hair: few: the small bank; all: a large one; train, test: "
        "two sides of it that have nothing in common (docs/people.md)",
        choices=LOOKS,
    )
    part_share: float = key(
        0.25, "share of body cameras that show the upper body only", low=0, high=1
    )

    finger_share: float = key(
        0.0,
        "share of hands whose fingers are drawn more widely: letters, numbers, grips, each alone",
        low=0,
        high=1,
    )
    gesture_share: float = key(
        0.0,
        "share of people whose arms are raised and turned every way, to show their hands",
        low=0,
        high=1,
    )

    things_share: float = key(
        0.0,
        "share of crops' hands with a thing in their grip, against them, below or before them",
        low=0,
        high=1,
    )
    hand_detail: bool = key(
        False,
        "hands as seen near: blood, tendons, veins, wrinkles, closed cuffs, rings, watches",
    )

    def check(self) -> None:
        """Raise UserError where a name is unknown or a range is none."""
        known_names = {"postures": poses.POSTURES, "hands": poses.HANDS, "actions": ACTIONS}
        for name, known in known_names.items():
            for value in getattr(self, name):
                if value not in known:
                    raise UserError(f"domain.{name}: '{value}' is none of {', '.join(known)}")
        if self.upright and self.actions and not set(self.actions) & set(UPRIGHT_ACTIONS):
            raise UserError(
                f"domain.actions={', '.join(self.actions)}: none of them is done upright, and "
                f"domain.upright is true; upright are {', '.join(UPRIGHT_ACTIONS)}"
            )
        for name in ("distance_m", "hand_distance_m"):
            values = getattr(self, name)
            if len(values) != 2 or not 0.3 <= values[0] <= values[1]:
                raise UserError(
                    f"domain.{name}={values}: two numbers are needed, the lesser first, from 0.3 m"
                )

    def action_names(self) -> list[str]:
        """Return the actions that are drawn from."""
        names = self.actions or list(ACTIONS)
        return [name for name in names if name in UPRIGHT_ACTIONS or not self.upright]

    def posture_names(self) -> list[str]:
        """Return the postures that are drawn from."""
        return self.postures or list(poses.UPRIGHT if self.upright else poses.POSTURES)

    def hand_names(self) -> list[str]:
        """Return the hand shapes that are drawn from."""
        return self.hands or list(poses.EASY_HANDS if self.upright else poses.HANDS)


@dataclass
class PeopleConfig:
    """Holds the keys of ``python -m data make``: synthetic humans.

    Equal seed and keys give equal bytes on one kind of device, with any number of workers.
    """

    out: str = key(
        "", "folder for the shards; the same command continues an unfinished one", path="one"
    )
    clips: int = key(1000, "clips to make; a larger number later continues", low=1)
    seed: int = key(
        0,
        "of everything drawn; recipes that differ share nobody, whatever their seeds",
        low=0,
        high=2**63 - 1,
    )
    workers: int = key(1, "processes", low=1)
    part: str | None = key(None, HELP)
    device: str = key("auto", "where images are made", choices=("auto", "cpu", "cuda"))
    clips_per_shard: int = key(250, "clips in one tar", low=1)
    kind: str = key(
        "body",
        "what the crops show; scene: whole frames of several people (docs/scenes.md)",
        choices=("body", "hand", "scene"),
    )
    size: int = key(256, "side of a crop, longer side of a frame, in pixels", low=64, high=1024)
    margin: float = key(
        1.25,
        "least side of a crop, over the side of the square around the person or hand",
        low=1.0,
        high=4.0,
    )
    instants: int = key(2, "instants of a clip", low=1, high=16)
    cameras: int = key(3, "cameras of a clip; the second is near the first", low=1, high=16)
    gap_s: float = key(0.35, "seconds between instants", low=0.01)
    gaps_s: list[float] = key(
        [],
        "least and greatest seconds between instants, each gap drawn on its own, even in its "
        "logarithm; takes the place of gap_s",
    )
    near_deg: float = key(
        55.0, "greatest angle between the first two cameras, seen from the person", low=5, high=180
    )
    antialias: int = key(2, "samples along a pixel's side", low=1, high=4)
    surface: bool = key(
        False,
        "store with each crop which vertex of the body each second pixel shows, and its normal, "
        "for pre-training with objective.masks=seen and model.decoder.geometry (docs/people.md)",
    )
    jpeg_quality: list[int] = key([80, 95], "least and greatest JPEG quality")
    motion: str | None = key(
        None,
        "one recorded motion that everybody moves by, BVH, AMASS, DeepMimic's or an npz of predict "
        "(docs/recorded.md)",
        path="one",
    )
    motion_mark: str = key(
        "", "what the file of motion= holds, as 16 hex digits; the command sets it"
    )
    domain: Domain = section(Domain)
    scene: SceneKeys = section(SceneKeys)

    @property
    def samples_per_clip(self) -> int:
        """Samples that a clip is in a shard: each instant of a scene is a frame of its own."""
        return self.instants if self.kind == "scene" else 1

    @property
    def images_per_clip(self) -> int:
        """Crops of a clip, or frames of a scene."""
        return self.instants * (1 if self.kind == "scene" else self.cameras)

    def check(self) -> None:
        """Raise UserError where keys do not fit each other; see engine.config.parser.parse."""
        if not self.out:
            raise UserError("out= is not set: name the folder for the shards")
        Part.of(self.part)
        self._check_kind()
        if self.kind != "scene" and self.instants * self.cameras < 2:
            raise UserError(
                f"instants={self.instants} and cameras={self.cameras} make one crop a clip; a clip "
                f"has "
                "at least 2"
            )
        if self.instants * self.cameras > 100:
            raise UserError(
                f"instants={self.instants} times cameras={self.cameras} is above 100 crops a clip"
            )
        self._check_gaps()
        if self.motion is not None and self.domain.recorded is not None:
            raise UserError(
                f"motion={self.motion} and domain.recorded={self.domain.recorded} both say how "
                f"people move: set one of them"
            )
        if self.surface and self.size % STEP_PX:
            raise UserError(f"surface=true wants size={self.size} to be a multiple of {STEP_PX}")
        quality = self.jpeg_quality
        if len(quality) != 2 or not 1 <= quality[0] <= quality[1] <= 100:
            raise UserError(
                f"jpeg_quality={quality}: two numbers of 1 to 100 are needed, the lesser first"
            )

    def _check_kind(self) -> None:
        """Refuse keys that mean nothing for this kind."""
        mine, defaults = flat(self), flat(PeopleConfig())
        for name, value in mine.items():
            of_other = name in OF_CLIPS if self.kind == "scene" else name.startswith("scene.")
            if of_other and _canonical(value) != _canonical(defaults[name]):
                raise UserError(
                    f"{name}={value} means nothing with kind={self.kind}: leave it at "
                    f"{defaults[name]}"
                )

    def _check_gaps(self) -> None:
        gaps = self.gaps_s
        if not gaps:
            return
        if len(gaps) != 2 or not 0.01 <= gaps[0] <= gaps[1]:
            raise UserError(f"gaps_s={gaps}: two numbers are needed, the lesser first, from 0.01 s")
        if self.gap_s != PeopleConfig.gap_s:
            raise UserError(
                f"gap_s={self.gap_s:g} and gaps_s={gaps} both say how far apart instants are: set "
                f"one of them"
            )
        if self.instants < 2:
            raise UserError(f"gaps_s={gaps} is between instants, and there are instants=1")


# These decide where and how fast clips are made, not which; all other keys are the recipe of a
# folder.
NOT_RECIPE = (
    "domain.backgrounds",
    "domain.recorded",
    "motion",
    "out",
    "clips",
    "workers",
    "part",
    "device",
)

# These decide how clips are drawn and stored, not whom they show: two sets that differ in them
# alone show the same people, under the same subject names.
STORAGE = (
    "size",
    "antialias",
    "jpeg_quality",
    "clips_per_shard",
    "surface",
    "domain.backgrounds",
    "domain.backgrounds_share",
    "domain.backgrounds_mark",
    "domain.painted_share",
    "domain.degraded_share",
)


def hash_recipe(config: PeopleConfig) -> int:
    """Return the 64-bit number of a recipe, part of the random numbers' key.

    Recipes with other numbers share nobody.

    Keys at their defaults do not count, so that a key that is added later leaves the people of
    today's recipes as they are.
    """
    defaults = flat(PeopleConfig())
    changed = {
        name: _canonical(value)
        for name, value in flat(config).items()
        if name not in (*NOT_RECIPE, *STORAGE, "seed")
        and _canonical(value) != _canonical(defaults[name])
    }
    changed["kind"] = config.kind
    text = json.dumps(changed, sort_keys=True)
    return int.from_bytes(
        hashlib.blake2b(text.encode(), digest_size=8, person=b"made").digest(), "little"
    )


def population(config: PeopleConfig) -> str:
    """What all subject names of a recipe and seed begin with: equal names mean equal people."""
    return f"made-{hash_recipe(config):016x}-{config.seed}"


def _canonical(value):
    """A value as JSON tells it, numbers as floats: 12 and 12.0 are one setting."""
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
