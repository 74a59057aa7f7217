"""EHF: SMPL-X's mesh, all of it, hands and face; about a joint, and after an alignment.

TRUTH/01_align.ply ...            100 meshes, metres, in the world
PREDICTIONS/01.npy ...            (10475, 3) metres in the camera's axes; or an npz whose
                                  ``vertices`` are (N, 10475, 3) in the order of the files
"""

import os
from dataclasses import replace
from typing import ClassVar

import numpy as np

from data.bodies.body_files import read_body
from data.bodies.smpl_layout import SMPLX
from data.sources.labelled.bodies import as_numbers, reading
from data.sources.labelled.ehf import ROTATION, VERTICES, read_mesh
from data.sources.labelled.npz import read_npz
from data.sources.labelled.places import list_files
from engine.errors import UserError, explain, failure_of
from engine.run.files import make_folder, replace_file
from finetune.evaluation.protocols import (
    PROTOCOLS,
    FrameProtocol,
    Frames,
    RunJoints,
    Scores,
    Value,
)
from finetune.evaluation.scoring.align import align_similarity, centre
from finetune.evaluation.scoring.body_errors import MM
from finetune.evaluation.scoring.errors import distances
from finetune.evaluation.scoring.part_vertices import read_face, read_hands
from finetune.verb_config import EvaluateConfig, ScoreConfig

SUFFIX = "_align.ply"
ROOTS = {name: SMPLX.joint_names.index(name) for name in ("pelvis", "neck")}
WRISTS = SMPLX.joint_names.index("left_wrist"), SMPLX.joint_names.index("right_wrist")


@PROTOCOLS.register("ehf")
class Ehf(FrameProtocol):
    """Expressive Hands and Faces."""

    title = "EHF"
    script = "IDEA-Research/OSX EHF.py"
    joint_set = "smplx55, for the roots alone; V2V of all vertices, hands, face"
    root = "pelvis; hands: their wrist; face: neck, all by SMPL-X's regressor"
    alignment = "shift, rotation and scale, of each part by its own vertices"
    unit = "mm"
    counted = "all 100"
    averaging = "vertices of a mesh (both hands' means), then meshes"
    kind = "body"
    submission = "folder NN.npy, or npz with vertices N x 10475 x 3: metres, camera's axes"
    truth = "folder of EHF; indices= for hands and face"
    run: ClassVar[RunJoints] = RunJoints(
        SMPLX.joint_names, rows=tuple(range(len(SMPLX.joint_names)))
    )
    bodies = ("smplx",)

    def __init__(self) -> None:
        self.hands: tuple[np.ndarray, np.ndarray] | None = None
        self.face: np.ndarray | None = None

    def open_run(self, config: EvaluateConfig, body: str) -> RunJoints:
        """Return all joints of SMPL-X by its own regressor; reads which vertices parts have."""
        self._read_parts(config.indices)
        return replace(self.run, regressor=read_body(SMPLX, "neutral").regressor)

    def _read_parts(self, indices: str) -> None:
        if indices:
            self.hands, self.face = read_hands(indices), read_face(indices)

    def read_files(self, config: ScoreConfig) -> tuple[Frames, Frames]:
        """Return predicted and true meshes with the joints of the regressor."""
        import cv2

        paths = list_files(config.truth, SUFFIX)
        turn = cv2.Rodrigues(ROTATION)[0]
        true = np.stack([read_mesh(path) @ turn.T for path in paths])
        names = [os.path.basename(path)[: -len(SUFFIX)] for path in paths]
        found = _read_meshes(config.predictions, names)
        self._read_parts(config.indices)
        regressor = read_body(SMPLX, "neutral").regressor
        return (
            Frames(regressor @ found, found, name=config.predictions),
            Frames(regressor @ true, true, name=config.truth),
        )

    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return the script's numbers, in its order, as far as parts are known."""
        if found.vertices is None or true.vertices is None:
            raise UserError(f"protocol=ehf compares meshes; {found.name} or {true.name} lacks some")
        aligned = [_mean("PA MPVPE (All)", "PA-V2V, all", [_align(found, true, None)])]
        shifted = [_mean("MPVPE (All)", "V2V, all", [_shift(found, true, None, ROOTS["pelvis"])])]
        if self.hands is None or self.face is None:
            note = "indices= is not set: there are no numbers of hands and face."
            return Scores(len(true), [*aligned, *shifted], [note])
        sides, face = list(zip(self.hands, WRISTS, strict=True)), self.face
        aligned += [
            _mean("PA MPVPE (Hands)", "PA-V2V, hands", [_align(found, true, i) for i, _ in sides]),
            _mean("PA MPVPE (Face)", "PA-V2V, face", [_align(found, true, face)]),
        ]
        shifted += [
            _mean("MPVPE (Hands)", "V2V, hands", [_shift(found, true, i, j) for i, j in sides]),
            _mean("MPVPE (Face)", "V2V, face", [_shift(found, true, face, ROOTS["neck"])]),
        ]
        return Scores(len(true), [*aligned, *shifted])

    def write(self, path: str, found: Frames) -> None:
        """Write a folder of meshes, each by the name of its image."""
        assert found.vertices is not None and found.sequence is not None
        make_folder(path, f"submission={path}")
        for name, mesh in zip(found.sequence, found.vertices, strict=True):
            file = os.path.join(path, f"{name}.npy")
            try:
                with replace_file(file) as temporary, open(temporary, "wb") as out:
                    np.save(out, mesh)
            except OSError as error:
                raise failure_of(error, f"{file} cannot be written: {explain(error)}") from None


def _mean(key: str, name: str, parts: list[np.ndarray]) -> Value:
    """Of (N, V) errors in mm, each part's mean alike."""
    return Value(key, name, float(np.mean([part.mean(1) for part in parts])), "mm", 2)


def _take(frames: Frames, indices: np.ndarray | None) -> np.ndarray:
    assert frames.vertices is not None
    return frames.vertices if indices is None else frames.vertices[:, indices]


def _align(found: Frames, true: Frames, indices: np.ndarray | None) -> np.ndarray:
    mine, theirs = _take(found, indices), _take(true, indices)
    return distances(align_similarity(mine, theirs), theirs) * MM


def _shift(found: Frames, true: Frames, indices: np.ndarray | None, root: int) -> np.ndarray:
    mine = centre(_take(found, indices), found.joints[:, root])
    return distances(mine, centre(_take(true, indices), true.joints[:, root])) * MM


def _read_meshes(path: str, names: list[str]) -> np.ndarray:
    """(N, 10475, 3) predictions in the order of names."""
    if os.path.isfile(path):
        with reading(path, "npz of meshes"):
            arrays = read_npz(path, ("vertices",))
            vertices = as_numbers(arrays["vertices"], "vertices", -1, VERTICES, 3)
        if len(vertices) != len(names):
            raise UserError(f"{path} holds {len(vertices)} meshes, the truth {len(names)}")
        return vertices
    files = {os.path.basename(one)[: -len(".npy")]: one for one in list_files(path, ".npy")}
    missing = [name for name in names if name not in files]
    if missing:
        raise UserError(
            f"{path} holds {len(files)} meshes, and none called {missing[0]}.npy; the truth has "
            f"{len(names)}"
        )
    out = []
    for name in names:
        with reading(files[name], "mesh of SMPL-X"):
            mesh = np.load(files[name], allow_pickle=False)
            out.append(as_numbers(mesh, "its vertices", VERTICES, 3))
    return np.stack(out)
