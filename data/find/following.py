"""From what is seen in each frame of a video to its people and their hands."""

import numpy as np

from data.find.config import FindConfig
from data.find.detection import Detection
from data.find.found import Found
from data.find.hand_sides import SeenHand, list_hands, settle_hands
from data.find.joining import join_tracks
from data.find.looks import Looks
from data.find.tracking import Track, Tracker

LEAST_SIGHTINGS = 2
JOIN = 2.0  # people are found again after this many times lost_s, where their clothes agree
LONE_SHARE = 0.5  # of the frames of its time in which a hand without a body is to be seen
HAND = "hand"  # begins the name of a hand that belongs to nobody


def follow_people(looks: Looks, times: np.ndarray, options: FindConfig) -> Found:
    """Return the people of a video by what is seen in its searched frames.

    Args:
        times: (F,) seconds of all frames of the video.
        options: lost_s and track_min_s are used.
    """
    found = Found(
        searched=len(looks.frame),
        still=int(looks.still.sum()),
        cuts=looks.frame[looks.cut].tolist(),
    )
    person_of: dict[int, str] = {}
    for number, track in enumerate(_keep_long(_follow_bodies(looks, times, options), options)):
        person_of |= {int(seen.detection.where): str(number) for seen in track.sightings}
        _add_body(found, str(number), track, looks)
    hands = settle_hands(list_hands(looks, person_of, found.tracks), looks, times)
    _add_hands(found, hands, times, options)
    return found


def _follow_bodies(looks, times, options):
    boxes = [
        Detection(b.astype(np.float64), float(s), p.astype(np.float64))
        for b, s, p in zip(looks.box, looks.score, looks.points, strict=True)
    ]
    for number, one in enumerate(boxes):
        one.where = str(number)
    clothes = looks.clothes.astype(np.float32)
    return _follow(looks, times, looks.people, boxes, clothes, options)


def _follow(looks, times, counts, boxes, clothes, options) -> list[Track]:
    tracker = Tracker(options.lost_s)
    ends = np.cumsum(counts)
    for row, frame in enumerate(looks.frame.tolist()):
        if looks.still[row]:
            tracker.skip(float(times[frame]))
            continue
        if looks.cut[row]:
            tracker.cut()
        here = slice(int(ends[row] - counts[row]), int(ends[row]))
        dressed = None if clothes is None else list(clothes[here])
        shift = looks.shift[row].astype(np.float64)
        tracker.update(frame, float(times[frame]), boxes[here], dressed, shift)
    return join_tracks(tracker.finish(), JOIN * options.lost_s)


def _keep_long(tracks, options):
    return [
        track
        for track in tracks
        if len(track.sightings) >= LEAST_SIGHTINGS
        and track.last.time_s - track.sightings[0].time_s >= options.track_min_s
    ]


def _add_body(found, name, track, looks):
    found.tracks[name], found.sharpness[name], found.hand_sharpness[name] = {}, {}, {}
    for seen in track.sightings:
        one = seen.detection
        row, one.where = int(one.where), ""
        if one.keypoints is not None and not one.keypoints.any():
            one.keypoints = None
        found.tracks[name][seen.frame] = one
        found.sharpness[name][seen.frame] = float(looks.sharp[row])
        found.hand_sharpness[name][seen.frame] = {}


def _add_hands(found: Found, hands: list[SeenHand], times: np.ndarray, options: FindConfig) -> None:
    """Give people their hands, and each hand that is nobody's a name of its own."""
    lone: dict[int, list[SeenHand]] = {}
    for one in hands:
        if one.person is None:
            lone.setdefault(one.track, []).append(one)
        elif one.frame in found.tracks[one.person]:
            found.tracks[one.person][one.frame].hands[one.hand.side] = one.hand
            found.hand_sharpness[one.person][one.frame][one.hand.side] = one.sharp
    number = 0
    for members in lone.values():
        long_s = float(times[members[-1].frame] - times[members[0].frame])
        # Feet and elbows are taken for hands here and there; a hand is one most of the time.
        least = max(LEAST_SIGHTINGS, LONE_SHARE * long_s * options.rate_hz)
        if len(members) < least or long_s < options.track_min_s:
            continue
        name = f"{HAND}{number}"
        number += 1
        found.tracks[name], found.sharpness[name], found.hand_sharpness[name] = {}, {}, {}
        for one in members:
            side, hand = one.hand.side, one.hand
            detection = Detection(hand.box, hand.score, hand.keypoints, "hand21", {side: hand})
            found.tracks[name][one.frame] = detection
            found.sharpness[name][one.frame] = one.sharp
            found.hand_sharpness[name][one.frame] = {side: one.sharp}
