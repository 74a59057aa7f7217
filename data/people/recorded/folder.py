"""A folder of recorded motions: what can be read of it, and stretches drawn from it."""

import os
from dataclasses import dataclass

import numpy as np

from data.people.motion import Clock
from data.people.poses import INDEX, REST
from data.people.recorded import retarget
from data.people.recorded.amass import is_motion, read_amass
from data.people.recorded.bvh import check_bvh, read_bvh
from data.people.recorded.mimic import read_mimic
from data.people.recorded.predicted import is_predicted, read_predicted
from data.people.recorded.track import Track
from data.people.rig import Rig, make_rotation
from data.sources.user_folder import list_files, mark_files
from engine.errors import UserError
from engine.logging.console import get_logger

KEY, FILE_KEY = "domain.recorded", "motion"
SUFFIXES = (".bvh", ".npz", ".txt", ".json")
CACHED_BYTES = 256 << 20  # of tracks that a process keeps
TOLD = 5  # files that are passed over, by name
TRIES = 6
ROUNDING_S = 0.01  # of the clock's milliseconds
_MIRROR = np.diag([-1.0, 1.0, 1.0])
_Z = np.array([0.0, 0, 1])

log = get_logger(__name__)


@dataclass
class Take:
    """A stretch of a recording at T instants, on the rig.

    Attributes:
        rotations (T, B, 3, 3), root (T, 3), lift_m (T,): see retarget.Pose.
        angles: (T, 36) degrees in the order of poses.NAMES; hips, knees and the torso's tilt, the
            rest as at rest: for what is asked of written postures.
        heading_deg: where the person faces at the middle instant.
        times_s: (T,) seconds, the first at 0.
        seated: (T,) bool of who is planned to sit, or None where angles tell.
    """

    rotations: np.ndarray
    root: np.ndarray
    lift_m: np.ndarray
    angles: np.ndarray
    heading_deg: float
    times_s: np.ndarray
    seated: np.ndarray | None = None


def mark_recordings(folder: str) -> str:
    """16 hex digits that change with a folder's recordings; tells which cannot be read.

    Raises:
        UserError: there is no such folder, or nothing in it that can be read.
    """
    names = list_files(folder, SUFFIXES, KEY, "recorded motion")
    refused = []
    for name in names:
        try:
            _check(os.path.join(folder, name))
        except UserError as error:
            refused.append(str(error))
    if len(refused) == len(names):
        raise UserError(f"{KEY}={folder}: none of its files can be read; the first: {refused[0]}")
    for reason in refused[:TOLD]:
        log.warning(f"{KEY}: passed over: {reason}")
    if len(refused) > TOLD:
        log.warning(f"{KEY}: so are {len(refused) - TOLD} more of {len(names)} files")
    return mark_files(folder, names, KEY, b"recorded")


def mark_recording(path: str) -> str:
    """16 hex digits that change with one recording.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    if not os.path.isfile(path):
        what = "a folder; domain.recorded= takes one" if os.path.isdir(path) else "no such file"
        raise UserError(f"{FILE_KEY}={path}: {what}")
    if not path.lower().endswith(SUFFIXES):
        raise UserError(f"{FILE_KEY}={path}: files that end on {', '.join(SUFFIXES)} are read")
    read_track(path)
    return mark_files(os.path.dirname(path), [os.path.basename(path)], FILE_KEY, b"motion")


def _check(path: str) -> None:
    """Raise UserError where a file is none, as far as can be told at little cost."""
    lower = path.lower()
    if lower.endswith(".bvh"):
        check_bvh(path)
    elif lower.endswith(".npz"):
        if not is_predicted(path) and not is_motion(path):
            raise UserError(
                f"{path} is no motion of AMASS, nor what predict writes of a video: it lacks "
                f"'trans' and 'about'"
            )
    else:
        read_mimic(path)


def read_track(path: str) -> Track:
    """The Track in a file, by its suffix.

    Raises:
        UserError: it cannot be read, or its joints cannot be identified.
    """
    lower = path.lower()
    if lower.endswith(".bvh"):
        return read_bvh(path)
    if not lower.endswith(".npz"):
        return read_mimic(path)
    return read_predicted(path) if is_predicted(path) else read_amass(path)


class Recordings:
    """Draws stretches from one recording or a folder of them.

    Args:
        place: one recording, or a folder of some, also in folders inside it; those that cannot be
            read are told once and passed over.
        rig: that they are put onto.
    """

    def __init__(self, place: str, rig: Rig) -> None:
        self.rig, self.alone = rig, os.path.isfile(place)
        if self.alone:
            self.folder, self.names = os.path.dirname(place), [os.path.basename(place)]
        else:
            self.folder, self.names = place, list_files(place, SUFFIXES, KEY, "recorded motion")
        sizes = [os.path.getsize(os.path.join(self.folder, name)) for name in self.names]
        # A second of one file is about as likely as a second of another.
        self._chances = np.maximum(np.array(sizes, np.float64), 1)
        self._broken: dict[str, str] = {}  # {name: why}
        self._cache: dict[str, tuple[Track, dict[str, np.ndarray]]] = {}
        self._other_side = _pair_bones(rig)

    def draw(self, rng: np.random.Generator, clock: Clock, leg_m: float, roam_m: float) -> Take:
        """A stretch, drawn by ``rng`` alone.

        Args:
            clock: of the instants.  leg_m: length of the person's leg.
            roam_m: whoever would go farther in gaps that vary is seen at shorter ones.

        Raises:
            UserError: not one file of the folder can be read, or is long enough.
        """
        # Files in an order in which each comes first by its chance (Efraimidis and Spirakis 2006).
        order = np.argsort(rng.exponential(size=len(self.names)) / self._chances, kind="stable")
        start, turn_deg, mirrored = rng.random(), rng.uniform(0, 360), rng.random() < 0.5
        for number in order:
            name = self.names[number]
            found = self._read(name)
            if found is None:
                continue
            track, fitted = found
            fast = clock.within(track.duration_s)
            if fast.times_s[-1] > track.duration_s + ROUNDING_S:
                self._pass_over(
                    name, f"it takes {track.duration_s:.2f} s, a clip {clock.times_s[-1]:g}"
                )
                continue
            times_s, pose = self._place(track, fitted, fast, start, leg_m, roam_m)
            return self._finish(pose, times_s, turn_deg, mirrored)
        name, reason = next(iter(self._broken.items()))
        if self.alone:
            raise UserError(f"{FILE_KEY}={os.path.join(self.folder, name)}: {reason}")
        raise UserError(
            f"{KEY}={self.folder}: none of its files can be read and is long enough; "
            f"{os.path.join(self.folder, name)}: {reason}"
        )

    def _read(self, name: str) -> tuple[Track, dict[str, np.ndarray]] | None:
        if name in self._broken:
            return None
        if name in self._cache:
            return self._cache[name]
        try:
            track = read_track(os.path.join(self.folder, name))
        except UserError as error:
            self._pass_over(name, str(error))
            return None
        found = track, retarget.fit_rest(track, self.rig)
        self._cache[name] = found
        while len(self._cache) > 1:
            if sum(kept.nbytes for kept, _ in self._cache.values()) <= CACHED_BYTES:
                break
            del self._cache[next(iter(self._cache))]
        return found

    def _pass_over(self, name: str, reason: str) -> None:
        self._broken[name] = reason
        if not self.alone:
            log.warning(f"{KEY}: {os.path.join(self.folder, name)} is passed over: {reason}")

    def _place(
        self,
        track: Track,
        fitted: dict[str, np.ndarray],
        clock: Clock,
        start: float,
        leg_m: float,
        roam_m: float,
    ) -> tuple[np.ndarray, retarget.Pose]:
        """Times from the first instant, and the Pose; nearer instants for whoever goes far."""

        def pose_at(times_s: np.ndarray) -> retarget.Pose:
            begin_s = start * max(0.0, track.duration_s - times_s[-1])
            return retarget.put_on_rig(track, fitted, self.rig, begin_s + times_s, leg_m)

        pose = pose_at(clock.times_s)
        for _ in range(TRIES if clock.varies else 0):
            way = pose.root[:, None, :2] - pose.root[:, :2]
            far = float(np.linalg.norm(way, axis=-1).max())
            if far <= roam_m:
                break
            clock = clock.within(0.9 * clock.times_s[-1] * roam_m / far)
            pose = pose_at(clock.times_s)
        return clock.times_s, pose

    def _finish(
        self, pose: retarget.Pose, times_s: np.ndarray, turn_deg: float, mirrored: bool
    ) -> Take:
        """Mirrored or not, turned about the vertical, its path about the origin."""
        rotations, root = pose.rotations, pose.root
        if mirrored:
            rotations = _MIRROR @ rotations[:, self._other_side] @ _MIRROR
            root = root * [-1, 1, 1]
        turn = make_rotation(_Z, np.array([turn_deg]))[0]
        rotations[:, 0] = turn @ rotations[:, 0]
        root = root @ turn.T
        root[:, :2] -= root[:, :2].mean(0)
        forward = rotations[len(rotations) // 2, 0] @ np.array([0.0, -1.0, 0.0])
        heading_deg = float(np.rad2deg(np.arctan2(forward[0], -forward[1])))
        angles = measure_angles(rotations, self.rig)
        return Take(rotations, root, pose.lift_m, angles, heading_deg, times_s)


def _pair_bones(rig: Rig) -> list[int]:
    """For each bone the number of that of the other side, or its own."""
    out = []
    for name in rig.names:
        stem, _, letter = name.rpartition(".")
        other = {"L": f"{stem}.R", "R": f"{stem}.L"}.get(letter, name)
        out.append(rig.index[other])
    return out


def measure_angles(rotations: np.ndarray, rig: Rig) -> np.ndarray:
    """(T, 36) degrees: how far hips, knees and the whole person are bent; the rest as at rest."""
    out = np.tile(REST, (len(rotations), 1))
    out[:, INDEX["tip_forward"]] = np.rad2deg(np.arccos(np.clip(rotations[:, 0, 2, 2], -1, 1)))
    for letter, side in (("L", "left"), ("R", "right")):
        thigh = -rotations[:, rig.index[f"upperleg01.{letter}"], :, 2]
        out[:, INDEX[f"hip_forward_{side}"]] = np.rad2deg(np.arctan2(-thigh[:, 1], -thigh[:, 2]))
        shin = -rotations[:, rig.index[f"lowerleg01.{letter}"], :, 2]
        out[:, INDEX[f"knee_{side}"]] = np.rad2deg(np.arctan2(shin[:, 1], -shin[:, 2]))
    return out
