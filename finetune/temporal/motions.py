"""Motions to learn from, in memory: the generator's, recorded ones, those that predict wrote."""

import functools
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data.bodies.anny_body import AnnyBody
from data.bodies.base import BodyModel
from data.people.acting import Actor
from data.people.actions.sampling import sample_stretch
from data.people.motion import even_times, sample_motion
from data.people.recorded.folder import SUFFIXES, read_track
from data.people.recorded.retarget import fit_rest, put_on_rig
from data.people.rig import Rig
from data.people.skeleton import Skeleton
from data.sources.user_folder import list_files
from engine.config.paths import split_paths
from engine.errors import UserError, explain, failure_of
from engine.geometry import rotation_6d_to_matrix
from engine.logging import progress
from engine.logging.console import get_logger
from finetune.temporal.keys import MotionDataConfig
from finetune.temporal.limbs import Chain, Limbs, take_6d

RATE_HZ = 50.0  # of what is kept
LEAST_S = 1.0  # shorter stretches are passed over
ADULT = 0.75  # age in anny's shape of who moves; a young adult is at 2/3
LEG_M = 0.9  # of who moves as recorded

log = get_logger(__name__)


@dataclass(eq=False)
class Piece:
    """One stretch of a motion at RATE_HZ.

    Attributes:
        six: (F, J, 6) float32 rotations of the limbs.
        place: (F, 3) float32 metres, the root.
        is_world: z is up, and a camera is yet to be put somewhere; else it is the camera's frame.
    """

    six: np.ndarray
    place: np.ndarray
    is_world: bool


@dataclass(eq=False)
class Bank:
    """Pieces in one array.

    Attributes:
        six: (F, J, 6), place: (F, 3) float32 of all.
        starts, counts: (N,) of each piece.  is_world: (N,) bool.
    """

    six: np.ndarray
    place: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    is_world: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)


def join_pieces(pieces: Sequence[Piece]) -> Bank:
    """Return the Bank of pieces, at least one."""
    counts = np.array([len(piece.six) for piece in pieces])
    return Bank(
        np.concatenate([piece.six for piece in pieces]),
        np.concatenate([piece.place for piece in pieces]).astype(np.float32),
        np.cumsum(counts) - counts,
        counts,
        np.array([piece.is_world for piece in pieces]),
    )


def read_bank(
    config: MotionDataConfig, body: BodyModel, limbs: Limbs, chain: Chain, seed: int
) -> Bank:
    """Return all motions of a config.

    Args:
        seed: of what is drawn.
    Raises:
        UserError: a file or folder cannot be read, or holds no motion of this body model.
    """
    # What may be wrong comes before what takes minutes.
    pieces: list[Piece] = []
    if config.recorded:
        found = read_recorded(config, limbs, chain, seed)
        log.info(f"data.recorded={config.recorded}: {len(found)} stretches")
        pieces += found
    for path in split_paths(config.tracks, "data.tracks") if config.tracks else []:
        found = read_written(path, body, limbs)
        log.info(f"data.tracks={path}: {len(found)} stretches of {LEAST_S:g} s or more")
        pieces += found
    if config.made:
        log.info(f"making {config.made} motions of {config.seconds:g} s")
    made = make_pieces(config.made, config.seconds, config.acted, limbs, chain, seed)
    with progress.bar(config.made, "motion", description="making") as bar:
        for piece in made:
            pieces.append(piece)
            bar.update(1)
    if not pieces:
        raise UserError(
            f"data.tracks={config.tracks}: there is no stretch of {LEAST_S:g} s of body={body.name}"
        )
    return join_pieces(pieces)


def make_pieces(
    count: int, seconds: float, acted: float, limbs: Limbs, chain: Chain, seed: int
) -> Iterator[Piece]:
    """Yield motions of the generator; each is of (seed, its number) alone.

    Args:
        acted: share of people who act (data.people.actions), in place of moves between postures.
    """
    if not count:
        return
    stage = _open_stage()
    clock = even_times(round(seconds * RATE_HZ), 1 / RATE_HZ)
    for number in range(count):
        rng = np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, 0, number]))
        if rng.random() < acted:
            done = sample_stretch(rng, clock.times_s, stage.rig, stage.skeleton)
            yield _keep(done.rotations, done.root, stage.rig, limbs)
            continue
        motion = sample_motion(rng, clock)
        pose, root = stage.rig.pose(motion.angles, motion.hands, motion.root)
        yield _ground(pose, root, stage.rig, limbs, chain)


@dataclass(frozen=True)
class Stage:
    """The average anny that motions are made on.

    Attributes:
        rig: by whose bones the generator's angles are meant.  skeleton: its bones and soles.
    """

    rig: Rig
    skeleton: Skeleton


@functools.cache
def _open_stage() -> Stage:
    body = AnnyBody()
    with torch.inference_mode():
        shape = torch.full((1, len(body.shape_names)), 0.5)
        shape[0, body.shape_names.index("age")] = ADULT
        rest = body.rest(shape, torch.zeros(1, len(body.face_names)))
        joints = body.joints_at(torch.zeros(1, len(body.joint_names), 3), torch.zeros(1, 3), rest)
        rig = Rig(body.joint_names, joints[0].numpy())
        actor = Actor(body, rig, body.body_vertices.numpy(), None)
        return Stage(rig, actor.find_skeleton(rest))


def _keep(pose: np.ndarray, root: np.ndarray, rig: Rig, limbs: Limbs) -> Piece:
    """The Piece of rotations in the world."""
    six = take_6d(pose[:, [rig.index[name] for name in limbs.names]])
    return Piece(six, root.astype(np.float32), is_world=True)


def _ground(
    pose: np.ndarray,
    root: np.ndarray,
    rig: Rig,
    limbs: Limbs,
    chain: Chain,
    lift_m: np.ndarray | float = 0.0,
) -> Piece:
    """The Piece of rotations in the world, the lowest of the limbs on the floor."""
    piece = _keep(pose, root, rig, limbs)
    with torch.no_grad():
        lowest = chain(rotation_6d_to_matrix(torch.from_numpy(piece.six)))[..., 2].amin(1).numpy()
    place = np.column_stack([root[:, :2], lift_m - lowest])
    return replace(piece, place=place.astype(np.float32))


def read_recorded(config: MotionDataConfig, limbs: Limbs, chain: Chain, seed: int) -> list[Piece]:
    """Return stretches of a folder of recordings, drawn file by file; what is broken is told.

    Raises:
        UserError: there is no such folder, or nothing in it can be read.
    """
    names = list_files(config.recorded, SUFFIXES, "data.recorded", "recorded motion")
    rng, rig = np.random.default_rng([seed, 1]), _open_stage().rig
    out: list[Piece] = []
    reason = ""
    for number in rng.permutation(len(names)):
        path = str(Path(config.recorded) / names[number])
        try:
            track = read_track(path)
        except UserError as error:
            reason = str(error)
            log.warning(f"data.recorded: passed over: {reason}")
            continue
        fitted = fit_rest(track, rig)
        for times in _cut_times(track.duration_s, config.seconds):
            pose = put_on_rig(track, fitted, rig, times, LEG_M)
            out.append(_ground(pose.rotations, pose.root, rig, limbs, chain, pose.lift_m))
        if len(out) >= config.recorded_takes:
            return out[: config.recorded_takes]
    if not out:
        raise UserError(f"data.recorded={config.recorded}: no motion in it can be used; {reason}")
    return out


def _cut_times(duration_s: float, longest_s: float) -> Iterable[np.ndarray]:
    """Seconds at RATE_HZ, in stretches of at most so many seconds."""
    times = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    for first in range(0, len(times), round(longest_s * RATE_HZ)):
        part = times[first : first + round(longest_s * RATE_HZ)]
        if len(part) >= LEAST_S * RATE_HZ:
            yield part


def read_written(path: str, body: BodyModel, limbs: Limbs) -> list[Piece]:
    """Return the stretches in an NPZ file of ``predict`` that are of a body model.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            kept = {}
            for track in about["tracks"]:
                if track["body"] == body.name and track["kind"] != "left_hand":
                    keys = ("frames", "times", "pose", "translation")
                    kept[track["name"]] = [file[f"{track['name']}/{key}"] for key in keys]
    except OSError as error:
        raise failure_of(error, f"data.tracks={path} cannot be read: {explain(error)}") from None
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        raise UserError(
            f"data.tracks={path} is no NPZ file that predict wrote of a video"
        ) from None
    out = []
    chosen = limbs.index_of(body)
    for frames, times, pose, place in kept.values():
        breaks = np.flatnonzero(np.diff(frames) > 1) + 1
        for rows in np.split(np.arange(len(frames)), breaks):
            if len(rows) > 1 and times[rows[-1]] - times[rows[0]] >= LEAST_S:
                out.append(_resample(times[rows], take_6d(pose[rows][:, chosen]), place[rows]))
    return out


def _resample(times: np.ndarray, six: np.ndarray, place: np.ndarray) -> Piece:
    """The Piece at RATE_HZ of rows at any times; six numbers are made rotations again later."""
    wanted = np.arange(times[0], times[-1], 1 / RATE_HZ)
    before = np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 2)
    share = ((wanted - times[before]) / (times[before + 1] - times[before])).astype(np.float32)
    return Piece(mix_rows(six, before, share), mix_rows(place, before, share), is_world=False)


def mix_rows(rows: np.ndarray, before: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return (T, ...) between rows ``before`` (T,) and the next ones, by shares (T,)."""
    part = share.reshape(-1, *[1] * (rows.ndim - 1))
    return rows[before] * (1 - part) + rows[before + 1] * part
