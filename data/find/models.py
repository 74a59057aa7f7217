"""The networks that find people and hands: where they come from, their cache, and their opening.

None is shipped here. ``counterpose data models`` takes them out of two wheels of the Python package
index (data/find/wheels.py) and puts them into a cache, ~/.cache/counterpose/models or the folder
that COUNTERPOSE_MODELS names. Only bytes with the SHA-256 below are ever written there or opened.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.find.wheels import MEDIAPIPE, NEURA, Member, Wheel, download_wheels, list_files, read_file
from engine.config.parser import key, parse_keys
from engine.config.paths import split_paths
from engine.errors import Failure, UserError, explain, failure_of
from engine.run.files import write_file

CACHE = "COUNTERPOSE_MODELS"
COMMAND = "counterpose data models"
MEND = f"set {CACHE} to a folder that can be written"


@dataclass(frozen=True)
class Network:
    """A network as a file of LiteRT (.tflite).

    Attributes:
        name: of the file in the cache, without its ending.
        finds: what it finds, for people.
        member: its bytes' number and SHA-256, by which it is known wherever it lies.
        wheel: that holds it.
        licence: SPDX name.
        origin: whose it is and where that is written.
    """

    name: str
    finds: str
    member: Member
    wheel: Wheel
    licence: str
    origin: str


NETWORKS = (
    Network(
        "movenet_multipose",
        "people: boxes and 17 keypoints",
        Member(
            "movenet.tflite",
            9585276,
            "d4489f89e6bd6777a8b9a1a16189832131f84ff90d82fae729e670b84d7948dd",
        ),
        NEURA,
        "Apache-2.0",
        "Google, MoveNet MultiPose Lightning, kaggle.com/models/google/movenet",
    ),
    Network(
        "pose_landmark_full",
        "the outline of a person",
        Member(
            "pose_landmark_full.tflite",
            6440512,
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        ),
        MEDIAPIPE,
        "Apache-2.0",
        "Google, MediaPipe BlazePose GHUM, github.com/google-ai-edge/mediapipe",
    ),
    Network(
        "palm_detection_full",
        "palms",
        Member(
            "palm_detection_full.tflite",
            2339846,
            "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
        ),
        MEDIAPIPE,
        "Apache-2.0",
        "Google, MediaPipe Hands, github.com/google-ai-edge/mediapipe",
    ),
    Network(
        "hand_landmark_full",
        "21 keypoints of a hand",
        Member(
            "hand_landmark_full.tflite",
            5478917,
            "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
        ),
        MEDIAPIPE,
        "Apache-2.0",
        "Google, MediaPipe Hands, github.com/google-ai-edge/mediapipe",
    ),
)


@dataclass
class ModelsConfig:
    """Holds the keys of ``python -m data models``."""

    files: str = key(
        "",
        "wheels, or folders with them, that were brought along; default: they are downloaded",
        path="several",
    )


def cache_folder() -> Path:
    """Return the folder of the networks; it need not exist.

    Raises:
        UserError: there is no home folder, and COUNTERPOSE_MODELS is not set.
    """
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser()
    try:
        return Path.home() / ".cache" / "counterpose" / "models"
    except RuntimeError:
        raise UserError(
            f"HOME is not set, and user {os.getuid()} is in no list of users; {MEND}"
        ) from None


def find_network(name: str) -> Network:
    """Return the Network of that name out of NETWORKS."""
    return next(network for network in NETWORKS if network.name == name)


def network_path(network: Network) -> Path:
    """Return where a network's file lies in the cache, or is to lie."""
    return cache_folder() / f"{network.name}.tflite"


def read_network(network: Network) -> bytes:
    """Return the bytes of a network's file, of the SHA-256 that is written above.

    Raises:
        UserError: it is missing, cannot be read, or holds other bytes.
    """
    path = network_path(network)
    bring = f"run `{COMMAND}`, or `{COMMAND} files=FOLDER` where there is no network"
    try:
        with path.open("rb") as file:
            data = file.read(network.member.size + 1)
    except FileNotFoundError:
        raise UserError(f"the network {network.name} is not at {path}: {bring}") from (None)
    except OSError as error:
        raise failure_of(error, f"{path} cannot be read: {explain(error)}; {MEND}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != network.member.digest:
        raise UserError(
            f"{path} is not the network it should be: its SHA-256 begins {digest[:16]}, not "
            f"{network.member.digest[:16]}; remove it and {bring}"
        )
    return data


def main(argv: Sequence[str]) -> int:
    """Run ``python -m data models``; returns the exit code.

    Raises:
        UserError: files that are no whole wheels, or hold other networks; a cache that cannot be
            written.
        EnvironmentFault: no network.
    """
    config, _ = parse_keys(ModelsConfig, argv, "data models", least=0)
    missing = [network for network in NETWORKS if not _is_kept(network)]
    if config.files:
        # What was brought along is read in any case, so that a wrong file is told.
        _unpack(missing, split_paths(config.files, "files"), f"files={config.files}")
    elif missing:
        with tempfile.TemporaryDirectory(prefix="counterpose-models-") as folder:
            wheels = list(dict.fromkeys(network.wheel for network in missing))
            download_wheels(wheels, folder, COMMAND)
            _unpack(missing, [folder], "the downloaded wheels")
    for network in NETWORKS:
        state = "written" if network in missing else "was there"
        print(f"{network_path(network)}: {state}")
        print(f"  {network.finds}; {network.licence}; {network.origin}")
    return 0


def _is_kept(network: Network) -> bool:
    try:
        read_network(network)
    except Failure:
        return False
    return True


def _unpack(networks: Sequence[Network], paths: Sequence[str], said: str) -> None:
    """Write the networks that lie in files, or in wheels among them, to the cache."""
    wanted = {network.member: network for network in networks}
    found: dict[Member, bytes] = {}
    others: list[str] = []
    for path in list_files(paths):
        found |= read_file(path, [member for member in wanted if member not in found], others)
    lacking = [network for member, network in wanted.items() if member not in found]
    if lacking:
        hint = f"; {others[0]}" if others else ""
        raise UserError(
            f"{said}: {lacking[0].wheel.requirement} brings {lacking[0].member.name} with SHA-256 "
            f"{lacking[0].member.digest[:16]}..., which is not among them{hint}; get the wheel by "
            f"`{lacking[0].wheel.command}`"
        )
    for member, data in found.items():
        _keep(wanted[member], data)


def _keep(network: Network, data: bytes) -> None:
    path = network_path(network)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
    except OSError as error:
        raise failure_of(
            error, f"cannot write the cache of networks, {path.parent}: {explain(error)}; {MEND}"
        ) from None
