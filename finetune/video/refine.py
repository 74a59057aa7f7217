"""Tracks moved onto the keypoints of the search, part by part, each kept on the disk.

A track is refined as a whole: one shape, and poses that are smooth in time. Frames in which that
brings nothing stay as they are, with the shape that all frames have.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data.bodies.base import BodyModel
from engine.logging import progress
from finetune.animation.track import Take, Track
from finetune.fit.config import FitKeys
from finetune.fit.jumps import find_jumps
from finetune.fit.refine import Asked, Bodies, Judge, Refiner, Seen
from finetune.inference.fingers import SIDES, JoiningRules, chain_turns, face_hand, map_hand
from finetune.prompts import SURE
from finetune.video.hands import blend_turns
from finetune.video.parts import digest_words, read_arrays, write_arrays
from finetune.video.settle import measure_size

# From a frame with a fit to one without, the body goes from the one to the other so long.
FADE_S = 0.1


class TakeRefiner:
    """Refines the tracks of a video.

    Args:
        bodies: {"body", "hand": the full body model}.
        keys: of the fit.
        rules: how hands were put on bodies.
        folder: where what is done is kept.
    """

    def __init__(
        self, bodies: Mapping[str, BodyModel], keys: FitKeys, rules: JoiningRules, folder: Path
    ) -> None:
        self.keys, self.rules, self.folder = keys, rules, folder
        self.hand = bodies.get("hand")
        self.refiners = {kind: Refiner(body, keys) for kind, body in bodies.items()}
        self.kept: set[Path] = set()

    @property
    def judges(self) -> dict[str, Judge]:
        """{"body", "hand": who says how far bodies are from keypoints}."""
        return {kind: refiner.judge for kind, refiner in self.refiners.items()}

    def refine(self, take: Take) -> Take:
        """Return the take with refined tracks; what an earlier call has kept is taken from there.

        Raises:
            Failure: a part cannot be kept.
        """
        total = sum(len(track) for track in take.tracks)
        with progress.bar(total, "frame", description="refining") as bar:
            tracks = []
            for track in take.tracks:
                tracks.append(self._refine_track(track))
                bar.update(len(track))
        self._clear()
        return replace(take, tracks=tracks)

    def _refine_track(self, track: Track) -> Track:
        refiner = self.refiners[track.body.kind]
        seen = see_track(track)
        if seen is None or not np.isfinite(refiner.judge.measure(seen, seen.bodies)).any():
            return track
        fitted = self._fit(track, refiner, seen)
        taken = refiner.choose(seen, fitted)
        if not taken.any():
            return track
        # Frames that stay as they were have the shape of all, and are as large in the image.
        sizes = [measure_size(track.body, shape[None]) for shape in (fitted.shape, track.shape)]
        kept = torch.from_numpy(track.translation * (sizes[0] / sizes[1]))
        share = torch.from_numpy(fade_in(taken, track.times)).float()
        pose = blend_turns(
            torch.from_numpy(track.pose), torch.from_numpy(fitted.pose), share[:, None, None]
        ).numpy()
        pose[share == 0], pose[share == 1] = track.pose[share == 0], fitted.pose[share == 1]
        place = torch.lerp(kept.float(), torch.from_numpy(fitted.translation), share[:, None])
        self._face_hands(track, pose, taken)
        return replace(
            track,
            pose=pose.astype(np.float32),
            shape=fitted.shape.astype(np.float32),
            translation=place.numpy(),
            refined=taken,
        )

    def _fit(self, track: Track, refiner: Refiner, seen: Seen) -> Bodies:
        """The bodies of all frames, from what is kept and from the fit."""
        asked, digest = refiner.ask(seen), digest_words(digest_track(track), self.keys)
        if refiner.is_short(asked):
            found = self._keep(digest, 0, lambda: vars(refiner.fit([asked])[0]))
            return Bodies(**found)
        shape = self._keep(digest, 0, lambda: {"shape": refiner.fit_shape(asked)})["shape"]
        parts = [
            Bodies(**self._keep(digest, number, partial(_fit_part, refiner, asked, own, shape)))
            for number, own in enumerate(refiner.list_parts(asked), 1)
        ]
        pose, place = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("pose", "translation")
        )
        return Bodies(pose, shape, place)

    def _keep(
        self, digest: str, number: int, make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Arrays of a part of a track: from the disk, or made and put there."""
        path = self.folder / f"refined.{digest}.{number:05d}.npz"
        self.kept.add(path)
        found = read_arrays(path)
        if not found:
            found = make()
            write_arrays(path, found)
        return found

    def _clear(self) -> None:
        """Remove the parts of other tracks and keys."""
        made = re.compile(r"refined\.[0-9a-f]{16}\.\d{5}\.npz(\.writing-\d+)?")
        for path in self.folder.iterdir():
            if made.fullmatch(path.name) and path not in self.kept:
                path.unlink(missing_ok=True)

    def _face_hands(self, track: Track, pose: np.ndarray, taken: np.ndarray) -> None:
        """Let hands that were joined to a body face as they did: only the arms have moved."""
        if self.hand is None or track.body.kind != "body":
            return
        parents = track.body.parents
        for column, side in enumerate(SIDES):
            there = map_hand(track.body, self.hand, side)
            if there is None:
                continue
            for row in np.flatnonzero(taken & (track.hands | track.held)[:, column]):
                before = torch.from_numpy(track.pose[row])
                facing = chain_turns(before, there.wrist, parents)
                moved = torch.from_numpy(pose[row])
                face_hand(moved, facing, there, parents, self.rules)
                pose[row] = moved.numpy()


def fade_in(taken: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return (T,) how much of a fit each frame has: less of it beside frames without.

    Args:
        taken: (T,) bool, which frames have any.  times: (T,) seconds.
    """
    without = times[~taken]
    if not len(without):
        return np.ones(len(times))
    apart = np.abs(times[:, None] - without).min(1)
    return np.clip(apart / FADE_S, 0, 1) * taken


def _fit_part(
    refiner: Refiner, asked: Asked, own: range, shape: np.ndarray
) -> dict[str, np.ndarray]:
    return vars(refiner.fit_part(asked, own, shape))


def see_track(track: Track) -> Seen | None:
    """Return a track as it is judged and refined; None where nobody looked for keypoints."""
    if track.found is None:
        return None
    sizes = (track.box[:, 2:] - track.box[:, :2]).max(1)
    return Seen(
        kind=track.kind,
        times_s=track.times,
        K=track.intrinsics,
        bodies=Bodies(track.pose, track.shape, track.translation),
        points=track.found,
        box=track.box,
        slipped=find_jumps(track.found, track.times, sizes, SURE),
    )


def digest_track(track: Track) -> str:
    """Return 16 hex digits that change with anything that a refinement depends on."""
    hasher = hashlib.blake2b(f"{track.kind} {track.body.name} {track.body.variant}".encode())
    arrays = (track.pose, track.shape, track.translation, track.times, track.intrinsics, track.box)
    for array in (*arrays, track.found):
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()[:16]


def measure_take(take: Take, judges: Mapping[str, Judge]) -> Take:
    """Return the take with ``error_px`` of its tracks.

    Args:
        judges: {"body", "hand": of the body model}.
    """
    tracks = []
    for track in take.tracks:
        seen = see_track(track)
        if seen is not None:
            error = judges[track.body.kind].measure(seen, seen.bodies).astype(np.float32)
            track = replace(track, error_px=error if np.isfinite(error).any() else None)
        tracks.append(track)
    return replace(take, tracks=tracks)
