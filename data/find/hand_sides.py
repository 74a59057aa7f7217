"""Whose hand, and which: hands followed over the frames of a video.

A hand that is found at a wrist is of that body, and of the wrist's side; bodies seen from behind
have their wrists exchanged for some frames, and of a hand that is found without a wrist only its
own network says the side. So hands are followed by place, and what most of a track's score speaks
for holds for all of it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.find.detection import SIDES, Detection, HandDetection, Tracks
from data.find.joining import join_tracks
from data.find.looks import Looks
from data.find.tracking import Tracker, middle_of

LOST_S = 0.6  # longest time that a hand may be unseen and its track go on
HAND_BOX = 3.0  # a hand is followed as a box of this many times its size: hands are fast
CLEAR = 0.75  # share of a track's score from which on its side holds for all of it
REACH = 0.1  # of a body's box, by which its hands may lie outside


@dataclass(frozen=True)
class SeenHand:
    """A hand in one frame.

    Attributes:
        frame: its number.  hand: what was found.  sharp: see data.find.appearance.
        person: whose it is, or None.
        at_wrist: whether it was found at a wrist.
        track: number of the hand's track, or -1.
    """

    frame: int
    hand: HandDetection
    sharp: float
    person: str | None
    at_wrist: bool
    track: int = -1


def list_hands(looks: Looks, person_of: dict[int, str], people: Tracks) -> list[SeenHand]:
    """Return all hands that were seen, in order of the frames.

    Args:
        person_of: by row of Looks.box the person who it is; people who were left out are not there.
        people: where they are in each frame.
    """
    out: list[SeenHand] = []
    bodies = np.repeat(np.arange(len(looks.frame)), looks.people)
    for row, at in enumerate(bodies.tolist()):
        for place, side in enumerate(SIDES):
            score = float(looks.hand_score[row, place])
            if score > 0:
                hand = _hand(side, looks.hand_box[row, place], score, looks.hand_points[row, place])
                sharp = float(looks.hand_sharp[row, place])
                out.append(SeenHand(int(looks.frame[at]), hand, sharp, person_of.get(row), True))
    lone = np.repeat(np.arange(len(looks.frame)), looks.loose)
    for row, at in enumerate(lone.tolist()):
        frame, side = int(looks.frame[at]), SIDES[int(looks.loose_right[row])]
        score = float(looks.loose_score[row])
        hand = _hand(side, looks.loose_box[row], score, looks.loose_points[row])
        person = _holder(hand.box, frame, people)
        out.append(SeenHand(frame, hand, float(looks.loose_sharp[row]), person, False))
    return sorted(out, key=lambda seen: (seen.frame, float(seen.hand.box[0])))


def settle_hands(hands: Sequence[SeenHand], looks: Looks, times: np.ndarray) -> list[SeenHand]:
    """Return the hands with the side and the person that their tracks speak for.

    Of two that would be the same hand of a person in one frame, the one at a wrist stays, or the
    surer one.

    Args:
        times: (F,) seconds of the video's frames.
    """
    settled: list[SeenHand] = []
    for number, rows in enumerate(_follow(hands, looks, times)):
        members = [hands[row] for row in rows]
        side = _agree([(one.hand.side, one.hand.score) for one in members], CLEAR)
        known = [(one.person, one.hand.score) for one in members]
        person = _agree(known, 0.5)
        for one in members:
            hand = replace(one.hand, side=side or one.hand.side)
            # A track that is nobody's for most of it stays nobody's.
            settled.append(replace(one, hand=hand, person=person, track=number))
    best: dict[tuple, SeenHand] = {}
    for one in sorted(settled, key=lambda s: (s.at_wrist, s.hand.score)):
        best[one.frame, one.person or one.track, one.hand.side] = one
    return sorted(best.values(), key=lambda one: (one.frame, one.track))


def _follow(hands, looks, times):
    """Lists of rows of ``hands``, one a track."""
    at = defaultdict(list)
    for row, one in enumerate(hands):
        at[one.frame].append(row)
    tracker = Tracker(LOST_S)
    for row, frame in enumerate(looks.frame.tolist()):
        if looks.still[row]:
            tracker.skip(float(times[frame]))
            continue
        if looks.cut[row]:
            tracker.cut()
        boxes = [_wide(hands[r], r) for r in at[frame]]
        tracker.update(frame, float(times[frame]), boxes, None, looks.shift[row].astype(float))
    for track in join_tracks(tracker.finish(), LOST_S):
        yield [int(seen.detection.where) for seen in track.sightings]


def _wide(one, row):
    middle, half = middle_of(one.hand.box), (one.hand.box[2:] - one.hand.box[:2]) * HAND_BOX / 2
    box = np.concatenate([middle - half, middle + half])
    return Detection(box, one.hand.score, where=str(row))


def _agree(votes, least):
    """What at least this share of the score is for, else None."""
    sums: dict = defaultdict(float)
    for value, score in votes:
        sums[value] += score
    best = max(sums, key=lambda value: (sums[value], str(value)))
    return best if sums[best] >= least * sum(sums.values()) else None


def _holder(box, frame, people):
    """The person in whose box a hand lies, the one with the nearest wrist of several."""
    x, y = middle_of(box)
    near = []
    for person, track in people.items():
        if frame not in track:
            continue
        body = track[frame]
        spare = REACH * (body.box[2:] - body.box[:2])
        low, high = body.box[:2] - spare, body.box[2:] + spare
        if low[0] <= x <= high[0] and low[1] <= y <= high[1]:
            wrists = body.box.reshape(2, 2) if body.keypoints is None else body.keypoints[9:11, :2]
            near.append((float(np.linalg.norm(wrists - (x, y), axis=1).min()), person))
    return min(near)[1] if near else None


def _hand(side, box, score, points):
    known = points.astype(np.float64) if points.any() else None
    return HandDetection(side, box.astype(np.float64), score, known)
