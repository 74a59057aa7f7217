"""The floor of a video whose camera stands still."""

from dataclasses import dataclass

import numpy as np

from finetune.animation.track import Take
from finetune.scene.ground import find_ground, list_corners

MOST = 48  # people of frames, spread evenly over all, that tell it
AGREE = 0.5  # least share of those who stand that have to stand on it
AROUND_M = 1.0  # beyond the places of people


@dataclass(frozen=True, eq=False)
class Floor:
    """What is known of it.

    Attributes:
        corners: (4, 3) metres in the camera's frame, or None where nothing is known.
        words: by what it is known, or why not.
    """

    corners: np.ndarray | None
    words: str


def find_floor(take: Take) -> Floor:
    """Return the floor that the people of a video stand on.

    It is that of one image in which all of them stand, whichever frame they are from. Where the
    camera moves they do not stand on one floor, and none is returned.
    """
    seen = [
        (track, row) for track in take.tracks if track.kind == "body" for row in range(len(track))
    ]
    if not seen:
        return Floor(None, "not known: no bodies")
    chosen = [seen[at] for at in np.unique(np.linspace(0, len(seen) - 1, MOST).astype(int))]
    people = [track.make_person(row) for track, row in chosen]
    names = chosen[0][0].body.keypoint_names
    ground = find_ground(people, names, (take.width, take.height))
    if not ground.standing:
        return Floor(None, "not known: nobody who stands shows a foot")
    if len(ground.standing) < AGREE * ground.tried:
        return Floor(
            None,
            f"not known: of {ground.tried} who stand {len(ground.standing)} do on one floor; does "
            "the camera move?",
        )
    roots = np.stack([person.translation for person in people])
    words = f"by {len(ground.standing)} sightings of people who stand"
    return Floor(list_corners(ground, roots, AROUND_M), words)
