"""HTML: one page that plays the video, the meshes on it and in space, and a timeline of confidence.

It needs no other file and no network. The video is coded anew, small, with its sound; the meshes
are skinned in the browser from the same rig and rotations that other files of animation hold.
"""

import base64
import json
import tempfile
from pathlib import Path

import numpy as np
from markupsafe import Markup

from data.sources.frames import Unreadable, open_video
from engine.errors import UserError
from engine.logging.page import render
from finetune.animation.formats import FORMATS
from finetune.animation.rig import make_motion, make_rig
from finetune.animation.track import Take, Track
from finetune.animation.turning import to_quaternions
from finetune.heads.confidence import surround_vertices
from finetune.person import colour
from finetune.video.film import join_film, shrink_frames, write_stretch
from finetune.viz.confidence import find_ends, list_colours

LOOKS = Path(__file__).resolve().parent.parent / "player"
LONGEST_PX = 640  # of the page's video
WHOLE = 255  # of how much a vertex has of what a point near it has
UNIT = 32767  # of a quaternion's numbers: 3e-5, a tenth of a millimetre at an arm's length


@FORMATS.register("html")
def write_html(take: Take, stem: Path) -> list[Path]:
    """Write STEM.html.

    Raises:
        UserError: the video cannot be read any more.
    """
    path = Path(f"{stem}.html")
    render.write(path, render_take(take, _shrink_video(take, stem)))
    return [path]


def render_take(take: Take, film: bytes) -> str:
    """Return the page of a take.

    Args:
        film: its video as MP4; of a take of one frame that frame, which the page shows as an image.
    """
    packed = {
        "times": np.round(take.times, 6).tolist(),
        "fps": take.fps,
        "size": [take.width, take.height],
        "intrinsics": [float(take.intrinsics[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2))],
        "tracks": [
            _pack_track(track, number, take.confident) for number, track in enumerate(take.tracks)
        ],
    }
    seconds, known = float(take.times[-1]), bool(take.focal_from)
    is_single = len(take.times) == 1
    values = {
        "name": Path(take.video).name,
        "is_single": is_single,
        "facts": [
            *([] if is_single else [f"{len(take.times)} frames", f"{seconds:.1f} s"]),
            *([] if is_single else [f"{take.fps:.2f} frames a second"]),
            f"{take.width} x {take.height}",
            *([f"focal length {take.intrinsics[0, 0]:.0f} px ({take.focal_from})"] * known),
        ],
        "people": [
            {"name": track.name, "frames": len(track), "colour": colour(number)}
            for number, track in enumerate(take.tracks)
        ],
        "scales": _list_scales(take) if take.confident else [],
        "width": take.width,
        "height": take.height,
        "film": f"data:video/mp4;base64,{base64.b64encode(film).decode()}",
        # Numbers and names alone; "<" would end the script that holds them.
        "take": Markup(json.dumps(packed, separators=(",", ":")).replace("<", "\\u003c")),
    }
    return render.page("player.html", values, [LOOKS], [LOOKS / "player.js"])


def _list_scales(take: Take) -> list[dict]:
    """What the colours mean, for each kind of mesh."""
    kinds = dict.fromkeys("body" if track.kind == "body" else "hand" for track in take.tracks)
    ends = {kind: find_ends(kind) for kind in kinds}
    return [{"kind": kind, "low": low, "high": high} for kind, (low, high) in ends.items()]


def _pack_surface(track: Track) -> dict:
    """How sure the network is of some vertices in each frame, and of which each vertex has what."""
    if track.surface is None:
        return {}
    around = surround_vertices(track.body)
    low, high = find_ends(track.kind)
    return {
        "surface": _pack(track.surface, np.float32),
        "near": _pack(around.index.numpy(), np.uint8),
        "nearness": _pack(np.round(around.weight.numpy() * WHOLE), np.uint8),
        "ends": [low / 1000, high / 1000],
        "bands": _pack(np.array(list_colours()), np.uint8),
    }


def _pack_track(track: Track, number: int, confident: bool) -> dict:
    rig, motion = make_rig(track), make_motion(track)
    owners, shares = rig.list_influences()
    turns = np.round(to_quaternions(motion.turns) * UNIT).astype(np.int16)
    return {
        "name": track.name,
        "colour": colour(number),
        "parents": rig.parents,
        "influences": owners.shape[1],
        "frames": _pack(track.frames, np.int32),
        "confidence": _pack(track.confidence, np.float32),
        "offsets": _pack(rig.offsets, np.float32),
        "rest": _pack(rig.vertices, np.float32),
        "faces": _pack(rig.faces, np.uint32),
        "owners": _pack(owners, np.uint16),
        "shares": _pack(shares, np.float32),
        "turns": _pack(turns, np.int16),
        "places": _pack(motion.places, np.float32),
        **(_pack_surface(track) if confident else {}),
    }


def _pack(values: np.ndarray, dtype: type) -> str:
    """Base64 of an array, little-endian as browsers' machines are."""
    array = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
    return base64.b64encode(array.tobytes()).decode()


def _shrink_video(take: Take, stem: Path) -> bytes:
    """The video as browsers play it."""
    try:
        source = open_video(take.video)
        with tempfile.TemporaryDirectory(prefix=f".{stem.name}-", dir=stem.parent) as folder:
            silent, whole = Path(folder) / "silent.mp4", Path(folder) / "whole.mp4"
            shown = ((n, take.correct_image(one)) for n, one in source.get(range(source.count)))
            frames = shrink_frames(shown, LONGEST_PX)
            write_stretch(silent, frames, take.times, take.fps)
            join_film(whole, [(0, silent)], take.times, source)
            return whole.read_bytes()
    except Unreadable as error:
        raise UserError(f"{take.video}: {error}") from None
