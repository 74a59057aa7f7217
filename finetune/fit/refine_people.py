"""People of a photograph moved onto the keypoints that were found of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from data.bodies.base import BodyModel
from finetune.fit.config import FitKeys
from finetune.fit.refine import Bodies, Refiner, Seen
from finetune.people import repose_person
from finetune.person import Person

Keypoints = Sequence[np.ndarray | None]


class PeopleRefiner:
    """Refines people of single images; those of one kind are fitted side by side.

    Args:
        bodies: {"body", "hand": the full body model}.  keys: of the fit.
    """

    def __init__(self, bodies: Mapping[str, BodyModel], keys: FitKeys) -> None:
        self.bodies = bodies
        self.refiners = {kind: Refiner(body, keys) for kind, body in bodies.items()}

    def refine(self, people: Sequence[Person], keypoints: Keypoints, kind: str) -> list[Person]:
        """Return people of an image, each nearer to its keypoints or as it was.

        Args:
            people: of one kind, "body" or "hand", in one camera.
            keypoints: of each (P, 3) pixels and confidence, in the order of
                finetune.prompts.PROMPTED; None: the person stays.
        """
        refiner, out = self.refiners[kind], list(people)
        asked = {}
        for number, (person, points) in enumerate(zip(people, keypoints, strict=True)):
            seen = None if points is None else see_person(person, points)
            if seen is not None and np.isfinite(refiner.judge.measure(seen, seen.bodies)).all():
                asked[number] = seen
        if not asked:
            return out
        fitted = refiner.fit([refiner.ask(seen) for seen in asked.values()])
        for (number, seen), bodies in zip(asked.items(), fitted, strict=True):
            taken = bool(refiner.choose(seen, bodies)[0])
            person, found = people[number], bodies if taken else seen.bodies
            if taken:
                person = repose_person(
                    person, self.bodies[kind], found.pose[0], found.shape, found.translation[0]
                )
            error = float(refiner.judge.measure(seen, found)[0])
            out[number] = replace(person, refined=taken, error_px=error)
        return out


def see_person(person: Person, points: np.ndarray) -> Seen | None:
    """Return a person as the fit takes them; None without a body model's parameters."""
    if person.pose is None or person.shape is None:
        return None
    return Seen(
        kind=person.kind,
        times_s=np.zeros(1),
        K=person.intrinsics,
        bodies=Bodies(person.pose[None], person.shape, person.translation[None]),
        points=points[None],
        box=person.box[None],
    )
