"""The rows of a labelled data set by image, wherever in it an image's people lie.

The data set is read twice: first where the last person of each image is, then the people, of whom
an image's are held until that one. So little is held where a reader goes image by image, and as
much as there is where people of one image lie far apart, as in COCO's JSON.
"""

import hashlib
from collections.abc import Iterator

from data.sources.label_frame import name_frame
from data.sources.labelled import LabelledImage, LabelledSource
from data.sources.labelled.archives import ArchiveMember
from data.sources.labelled.rows import Rows
from engine.errors import UserError

Place = str | bytes | ArchiveMember


def group_people(source: LabelledSource) -> Iterator[list[LabelledImage]]:
    """Yield the people of each image that somebody is labelled in, in the order of their last.

    Hands on their own are no people.

    Raises:
        UserError: two images have one name; none shows a whole body.
    """
    last = {_place_of(image): number for number, image in enumerate(_read_bodies(source))}
    source.rows = Rows()  # how far the second reading is
    held: dict[Place, list[LabelledImage]] = {}
    names: set[str] = set()
    for number, image in enumerate(_read_bodies(source)):
        place = _place_of(image)
        held.setdefault(place, []).append(image)
        if last[place] != number:
            continue
        people = held.pop(place)
        labelled = [person for person in people if not person.unlabelled]
        if not labelled:
            continue
        name = name_frame(labelled[0])
        if name in names:
            raise UserError(f"root={source.root}: two frames are called {name}")
        names.add(name)
        yield people


def _read_bodies(source: LabelledSource) -> Iterator[LabelledImage]:
    return (image for image in source.read() if image.kind == "body")


def _place_of(image: LabelledImage) -> Place:
    """What tells images apart; of one that is in memory a hash of its bytes."""
    if isinstance(image.image, bytes):
        return hashlib.blake2b(image.image, digest_size=16).digest()
    return image.image
