"""People of a stretch of a video, in batches over frames and people."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from engine.errors import UserError
from finetune.inference.fingers import JoiningRules, join_hands
from finetune.inference.predictor import BATCH, Predictor, check_boxes
from finetune.people import make_people
from finetune.person import Person
from finetune.video.asked import BODY, Asked, Plan, Who

SIDES = ("left", "right")


@dataclass(eq=False)
class Rows:
    """N people of single frames, of one body model.

    Attributes:
        who: (N,) int64 number of whom it is; see finetune.video.asked.plan_crops.
        frame: (N,) int64.  score: (N,) float32.  box: (N, 4) float32 pixels.
        pose: (N, J, 3, 3), shape: (N, S), translation: (N, 3) float32, of Person.
        uncertainty: (N, K) float32 metres; K is 0 where the network does not say.
        hands: (N, 2) bool, sides whose fingers come from the hand's own crop.
    """

    who: np.ndarray
    frame: np.ndarray
    score: np.ndarray
    box: np.ndarray
    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray
    uncertainty: np.ndarray
    hands: np.ndarray


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Return the Rows of several stretches as one."""
    return Rows(
        *(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Rows))
    )


@dataclass
class _Group:
    """Crops of whole frames that wait to go through a network, of one kind."""

    images: list[torch.Tensor]
    cameras: list[torch.Tensor]
    prompts: list[torch.Tensor | None]
    flip: list[torch.Tensor]
    asked: list[tuple[int, Asked]]
    boxes: list[np.ndarray]


class Recoverer:
    """Recovers the people of a video's frames.

    Args:
        predictors: {"body", "hand": the network}, one of them or both.
        K: (3, 3) intrinsics of the frames.
        everybody: of whom there are crops; their place in the list is their number.
        rules: how hands are put on bodies; None: each stays a mesh of its own.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        K: np.ndarray,
        everybody: Sequence[Who],
        rules: JoiningRules | None,
    ) -> None:
        self.predictors, self.K, self.rules = predictors, K, rules
        self.numbers = {who: number for number, who in enumerate(everybody)}

    def recover(self, frames: Iterable[tuple[int, np.ndarray]], plan: Plan) -> dict[str, Rows]:
        """Return {"body", "hand": Rows} of those frames of which something is asked.

        Args:
            frames: (number, (H, W, 3) uint8 RGB).
            plan: by frame.
        """
        rows: dict[str, list[Rows]] = {}
        for people in self._run(frames, plan):
            for kind, found in people.items():
                rows.setdefault(kind, []).append(found)
        return {kind: join_rows(parts) for kind, parts in rows.items()}

    def _run(
        self, frames: Iterable[tuple[int, np.ndarray]], plan: Plan
    ) -> Iterator[dict[str, Rows]]:
        """Yield the rows of some whole frames, as many as fill a batch."""
        waiting = self._open_groups()
        for number, image in frames:
            for kind, group in waiting.items():
                mine = [one for one in plan.get(number, []) if one.who.kind == kind]
                if mine:
                    self._cut(kind, number, image, mine, group)
            if any(len(group.asked) >= BATCH for group in waiting.values()):
                yield self._finish(waiting)
                waiting = self._open_groups()
        if any(group.asked for group in waiting.values()):
            yield self._finish(waiting)

    def _open_groups(self) -> dict[str, _Group]:
        return {kind: _Group([], [], [], [], [], []) for kind in self.predictors}

    def _cut(
        self, kind: str, number: int, image: np.ndarray, mine: list[Asked], group: _Group
    ) -> None:
        """Add the crops of one frame; a box that lies outside of it is nobody's."""
        predictor = self.predictors[kind]
        height, width = image.shape[:2]
        inside = [one for one in mine if _is_inside(one.region.box, width, height)]
        if not inside:
            return
        config = predictor.config
        boxes = [one.region.box for one in inside]
        squares, checked = check_boxes(boxes, width, height, config.margin, config.model.size)
        flip = torch.tensor(
            [one.who.part == "left_hand" for one in inside], device=predictor.device
        )
        images, cameras = predictor.cut_crops(image, self.K, squares, flip)
        keypoints = [one.region.keypoints for one in inside]
        group.images.append(images)
        group.cameras.append(cameras)
        group.prompts.append(predictor.place_prompts(keypoints, squares, flip))
        group.flip.append(flip)
        group.asked += [(number, one) for one in inside]
        group.boxes.append(checked)

    def _finish(self, waiting: dict[str, _Group]) -> dict[str, Rows]:
        found = [person for kind, group in waiting.items() for person in self._ask(kind, group)]
        return self._pack(self._join(found) if self.rules else found)

    @torch.no_grad()
    def _ask(self, kind: str, group: _Group) -> list["_Found"]:
        """The people of a group's crops."""
        predictor, found = self.predictors[kind], []
        if not group.asked:
            return found
        images, cameras, flip = (
            torch.cat(parts) for parts in (group.images, group.cameras, group.flip)
        )
        given = [part for part in group.prompts if part is not None]
        prompts = torch.cat(given) if given else None
        boxes = np.concatenate(group.boxes)
        K = torch.from_numpy(self.K).float().to(predictor.device)
        for first in range(0, len(images), BATCH):
            part = slice(first, first + BATCH)
            asked = group.asked[part]
            answer = predictor.model(
                images[part],
                cameras[part],
                predictor.body,
                None if prompts is None else prompts[part],
            )
            if answer.parameters is None:
                raise UserError(
                    f"{predictor.checkpoint}: its head, {predictor.config.head.name}, answers "
                    "without a body model's parameters, which videos are kept as"
                )
            kinds = [one.who.part for _, one in asked]
            people = make_people(
                answer, flip[part], predictor.body, K.expand(len(asked), 3, 3), boxes[part], kinds
            )
            for (number, one), person in zip(asked, people, strict=True):
                found.append(_Found(number, one, person))
        return found

    def _join(self, found: list["_Found"]) -> list["_Found"]:
        """Hands are put on bodies frame by frame; those of a known body that fit not are dropped.

        A hand that comes and goes beside its body is no person.
        """
        if set(self.predictors) != {"body", "hand"}:
            return found
        out = []
        by_frame: dict[int, list[_Found]] = {}
        for one in found:
            by_frame.setdefault(one.frame, []).append(one)
        body, hand = self.predictors["body"].body, self.predictors["hand"].body
        for people in by_frame.values():
            marked = [replace(one.person, track=place) for place, one in enumerate(people)]
            wrists = [one.asked.region.find_wrists(one.asked.who.kind) for one in people]
            for joined in join_hands(marked, body, hand, self.rules, wrists):
                one = people[joined.track or 0]
                if one.asked.who.part == BODY or Who(one.asked.who.person) not in self.numbers:
                    out.append(replace(one, person=joined))
        return out

    def _pack(self, found: list["_Found"]) -> dict[str, Rows]:
        out = {}
        for kind in self.predictors:
            mine = [one for one in found if one.asked.who.kind == kind]
            if mine:
                out[kind] = self._pack_kind(mine)
        return out

    def _pack_kind(self, mine: list["_Found"]) -> Rows:
        people = [one.person for one in mine]
        unsure = [
            np.zeros(0) if person.uncertainty is None else person.uncertainty for person in people
        ]
        return Rows(
            who=np.array([self.numbers[one.asked.who] for one in mine], np.int64),
            frame=np.array([one.frame for one in mine], np.int64),
            score=np.array([one.asked.score for one in mine], np.float32),
            box=np.stack([person.box for person in people]).astype(np.float32),
            pose=np.stack([_known(person.pose) for person in people]).astype(np.float32),
            shape=np.stack([_known(person.shape) for person in people]).astype(np.float32),
            translation=np.stack([person.translation for person in people]).astype(np.float32),
            uncertainty=np.stack(unsure).astype(np.float32),
            hands=np.array([[side in person.hands for side in SIDES] for person in people]),
        )


@dataclass(frozen=True)
class _Found:
    """A Person, in which frame, and what was asked."""

    frame: int
    asked: Asked
    person: Person


def _known(values: np.ndarray | None) -> np.ndarray:
    """The parameters of a person: ``_ask`` has refused heads without them."""
    if values is None:
        raise ValueError("a person without parameters has no row")
    return values


def _is_inside(box: np.ndarray, width: int, height: int) -> bool:
    x0, y0, x1, y1 = box.tolist()
    return min(x1, width) - max(x0, 0) >= 1 and min(y1, height) - max(y0, 0) >= 1
