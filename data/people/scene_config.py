"""The keys of synthetic scenes of several people, and which other keys mean nothing for them."""

from dataclasses import dataclass

from data.format.frame import ASPECTS
from engine.config.parser import key
from engine.errors import UserError

MOST_PEOPLE = 20
# Keys of data make about the one person of a clip and the cameras around it.
OF_CLIPS = (
    "surface",
    "margin",
    "cameras",
    "near_deg",
    "domain.any_side_share",
    "domain.facing_deg",
    "domain.far_view_deg",
    "domain.distance_m",
    "domain.hand_distance_m",
    "domain.off_axis_deg",
    "domain.cut_share",
    "domain.others_share",
    "domain.part_share",
    "domain.things_share",
)


@dataclass
class SceneKeys:
    """Sets who is in a frame and how it is taken; for kind=scene."""

    people: list[int] = key([1, 10], "least and greatest number of people, each as often")
    aspects: list[str] = key(
        list(ASPECTS), "shapes of frames, width to height: " + ", ".join(ASPECTS)
    )
    lens_mm: list[float] = key(
        [18.0, 200.0],
        "least and greatest focal length, as on film 36 mm along a frame's longer side, even in "
        "its logarithm",
    )
    close_share: float = key(
        0.25, "share of frames with somebody so near that the frame cuts the body", low=0, high=1
    )
    crowd_share: float = key(
        0.3, "share of frames of people far and near; the others show a group", low=0, high=1
    )

    def check(self) -> None:
        """Raise UserError where a range is none or a shape is unknown."""
        people, lens = self.people, self.lens_mm
        if len(people) != 2 or not 1 <= people[0] <= people[1] <= MOST_PEOPLE:
            raise UserError(
                f"scene.people={people}: two numbers of 1 to {MOST_PEOPLE} are needed, the lesser "
                f"first"
            )
        if len(lens) != 2 or not 8 <= lens[0] <= lens[1] <= 800:
            raise UserError(
                f"scene.lens_mm={lens}: two numbers of 8 to 800 are needed, the lesser first"
            )
        for name in self.aspects or [""]:
            if name not in ASPECTS:
                raise UserError(f"scene.aspects: '{name}' is none of {', '.join(ASPECTS)}")
        if self.close_share + self.crowd_share > 1:
            raise UserError(
                f"scene.close_share={self.close_share:g} and scene.crowd_share="
                f"{self.crowd_share:g} are above 1 together"
            )
