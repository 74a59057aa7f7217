"""USD as text (.usda) with UsdSkel: a skeleton that moves and its skinned mesh a person.

Metres, y up, the world is that of the GLB. Time codes are frames of the video at its mean rate; a
person is invisible in frames in which they are not found.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from finetune.animation.files import write_parts
from finetune.animation.formats import FORMATS
from finetune.animation.formats.glb import list_shown
from finetune.animation.rig import Motion, Rig, make_motion, make_rig
from finetune.animation.track import Take, Track
from finetune.animation.turning import to_quaternions
from finetune.person import colour

WORLD = "World"
VERTEX = (
    '(\n                elementSize = {}\n                interpolation = "vertex"\n            )'
)
BINDING = '(\n{0}    prepend apiSchemas = ["SkelBindingAPI"]\n{0})\n'


@FORMATS.register("usd")
def write_usd(take: Take, stem: Path) -> list[Path]:
    """Write STEM.usda."""
    return [write_parts(f"{stem}.usda", _list_parts(take))]


def _list_parts(take: Take) -> Iterator[str]:
    last = max(len(take.times) - 1, 0)
    yield (
        f'#usda 1.0\n(\n    defaultPrim = "{WORLD}"\n    endTimeCode = {last}\n'
        f"    framesPerSecond = {take.fps:.9g}\n    metersPerUnit = 1\n    startTimeCode = 0\n"
        f'    timeCodesPerSecond = {take.fps:.9g}\n    upAxis = "Y"\n)\n\ndef Xform "{WORLD}"\n{{\n'
    )
    for number, track in enumerate(take.tracks):
        yield from _list_person(take, track, number)
    yield "}\n"


def _list_person(take: Take, track: Track, number: int) -> Iterator[str]:
    rig, motion = make_rig(track), make_motion(track)
    name = to_identifier(track.name)
    codes = track.times * take.fps
    yield f'    def SkelRoot "{name}" {BINDING.format("    ")}    {{\n'
    shown_at, shown = list_shown(track, take)
    if not all(shown):
        yield "        token visibility.timeSamples = {\n"
        for time, there in zip(shown_at, shown, strict=True):
            word = "inherited" if there else "invisible"
            yield f'            {time * take.fps:.9g}: "{word}",\n'
        yield "        }\n"
    yield from _list_skeleton(rig, name)
    yield from _list_motion(rig, motion, codes, name)
    yield from _list_mesh(rig, name, number)
    yield "    }\n\n"


def to_identifier(name: str) -> str:
    """Return a name as USD's paths allow it."""
    word = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{word}" if word[:1].isdigit() else word


def list_joint_paths(rig: Rig) -> list[str]:
    """Return the joints as UsdSkel names them: by all that they hang on."""
    out: list[str] = []
    for name, parent in zip(rig.joint_names, rig.parents, strict=True):
        own = to_identifier(name)
        out.append(own if parent < 0 else f"{out[parent]}/{own}")
    return out


def _list_skeleton(rig: Rig, name: str) -> Iterator[str]:
    joints = ", ".join(f'"{path}"' for path in list_joint_paths(rig))
    yield (
        f'        def Skeleton "{name}_skeleton" {BINDING.format("        ")}        {{\n'
        f"            uniform token[] joints = [{joints}]\n"
        f"            uniform matrix4d[] bindTransforms = [{_word_moves(rig.joints)}]\n"
        f"            uniform matrix4d[] restTransforms = [{_word_moves(rig.offsets)}]\n"
        f"            rel skel:animationSource = </{WORLD}/{name}/{name}_motion>\n        }}\n\n"
    )


def _word_moves(places: np.ndarray) -> str:
    """Matrices that move by (n, 3); USD's take rows, so the move is in the last."""
    return ", ".join(
        f"((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), ({_word(place)}, 1))" for place in places
    )


def _list_motion(rig: Rig, motion: Motion, codes: np.ndarray, name: str) -> Iterator[str]:
    joints = ", ".join(f'"{path}"' for path in list_joint_paths(rig))
    ones = ", ".join(["(1, 1, 1)"] * len(rig.joints))
    rest = ", ".join(f"({_word(offset)})" for offset in rig.offsets[1:])
    yield (
        f'        def SkelAnimation "{name}_motion"\n        {{\n'
        f"            uniform token[] joints = [{joints}]\n            half3[] scales = [{ones}]\n"
        "            float3[] translations.timeSamples = {\n"
    )
    for code, root in zip(codes, motion.places, strict=True):
        yield f"                {code:.9g}: [({_word(root)}), {rest}],\n"
    yield "            }\n            quatf[] rotations.timeSamples = {\n"
    for code, turns in zip(codes, to_quaternions(motion.turns), strict=True):
        # USD writes the real part first.
        numbers = ", ".join(f"({_word(np.roll(turn, 1))})" for turn in turns)
        yield f"                {code:.9g}: [{numbers}],\n"
    yield "            }\n        }\n\n"


def _list_mesh(rig: Rig, name: str, number: int) -> Iterator[str]:
    owners, shares = rig.list_influences()
    kind = VERTEX.format(owners.shape[1])
    low, high = rig.vertices.min(0), rig.vertices.max(0)
    shade = [(value / 255) ** 2.2 for value in colour(number)]
    yield (
        f'        def Mesh "{name}_mesh" {BINDING.format("        ")}        {{\n'
        "            uniform bool doubleSided = 1\n"
        f"            float3[] extent = [({_word(low)}), ({_word(high)})]\n"
        f"            int[] faceVertexCounts = [{', '.join(['3'] * len(rig.faces))}]\n"
        f"            int[] faceVertexIndices = [{_list(rig.faces)}]\n"
        f"            point3f[] points = [{', '.join(f'({_word(one)})' for one in rig.vertices)}]\n"
        f"            color3f[] primvars:displayColor = [({_word(np.array(shade))})]\n"
        "            matrix4d primvars:skel:geomBindTransform = "
        "((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))\n"
        f"            int[] primvars:skel:jointIndices = "
        f"[{_list(owners)}] {kind}\n"
        f"            float[] primvars:skel:jointWeights = "
        f"[{', '.join(f'{one:.7g}' for one in shares.ravel())}] {kind}\n"
        f"            rel skel:skeleton = </{WORLD}/{name}/{name}_skeleton>\n"
        '            uniform token subdivisionScheme = "none"\n        }\n'
    )


def _word(values: np.ndarray) -> str:
    return ", ".join(f"{value:.7g}" for value in values)


def _list(numbers: np.ndarray) -> str:
    return ", ".join(map(str, numbers.ravel().tolist()))
