"""InterHand2.6M: each hand about its own wrist, the left wrist about the right, which hands.

TRUTH/InterHand2.6M_SPLIT_data.json, ..._camera.json, ..._joint_3d.json
PREDICTIONS.npz     annot_id (N,), in any order; joints (N, 42, 3) metres in the camera's axes,
                    right hand first, both wrists where they are; hands (N, 2) certainty of
                    right and left
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.sources.labelled.bodies import as_numbers, reading
from data.sources.labelled.npz import read_npz
from data.sources.labelled.places import read_json
from engine.errors import UserError, explain, failure_of
from engine.run.files import replace_file
from finetune.evaluation.protocols import (
    PROTOCOLS,
    FrameProtocol,
    Frames,
    RunHands,
    Scores,
    Value,
)
from finetune.evaluation.scoring.errors import distances
from finetune.verb_config import ScoreConfig

JOINTS, HAND = 42, 21
RIGHT_WRIST, LEFT_WRIST = 20, 41
HANDS = {"right": (1.0, 0.0), "left": (0.0, 1.0), "interacting": (1.0, 1.0)}
MM = 1000.0


@PROTOCOLS.register("interhand")
class InterHand(FrameProtocol):
    """InterHand2.6M."""

    title = "InterHand2.6M"
    script = "facebookresearch/InterHand2.6M dataset.py"
    joint_set = "interhand21 of the right hand, then of the left"
    root = "each hand's own wrist; MRRPE: the left wrist about the right"
    alignment = "none"
    unit = "mm"
    counted = "joints that are valid with their wrist; MRRPE: interacting, both wrists valid"
    averaging = "samples of a joint, then the 42 joints; single and interacting apart"
    kind = "hand"
    submission = "npz: annot_id N, joints N x 42 x 3 metres, hands N x 2"
    truth = "folder of annotations of one subset; with split= where it holds several splits"
    run = RunHands("interhand21")

    def read_files(self, config: ScoreConfig) -> tuple[Frames, Frames]:
        """Return predicted and true frames, in the order of the annotations."""
        ids, true = read_truth(config.truth, config.split)
        path = config.predictions
        with reading(path, "npz of predictions"):
            arrays = read_npz(path, ("annot_id", "joints", "hands"))
            count = len(arrays["annot_id"])
            joints = as_numbers(arrays["joints"], "joints", count, JOINTS, 3)
            hands = None
            if "hands" in arrays:
                hands = as_numbers(arrays["hands"], "hands", count, 2)
        places = {int(name): row for row, name in enumerate(arrays["annot_id"].tolist())}
        missing = [name for name in ids if name not in places]
        if missing or len(places) != count:
            raise UserError(
                f"{path} holds {count} predictions of {len(places)} annotations; {true.name} has "
                f"{len(ids)}, of which {len(missing)} have none"
            )
        rows = np.array([places[name] for name in ids], np.int64)
        return Frames(joints[rows], hands=None if hands is None else hands[rows], name=path), true

    def write(self, path: str, found: Frames) -> None:
        """Write an npz; ``index`` holds the annotations' numbers."""
        assert found.index is not None and found.hands is not None
        try:
            with replace_file(path) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(
                    file, annot_id=found.index, joints=found.joints, hands=found.hands
                )
        except OSError as error:
            raise failure_of(error, f"{path} cannot be written: {explain(error)}") from None

    def compute(self, found: Frames, true: Frames) -> Scores:
        """Return the script's numbers; those of which there is no sample are left out."""
        assert true.valid is not None and true.hands is not None
        both = true.hands.min(1) > 0.5
        wrists = true.valid[:, RIGHT_WRIST] & true.valid[:, LEFT_WRIST]
        values = _list_wrists(found, true, both & wrists)
        valid = true.valid.copy()
        valid[:, :HAND] &= true.valid[:, RIGHT_WRIST, None]
        valid[:, HAND:] &= true.valid[:, LEFT_WRIST, None]
        errors = distances(_about_wrists(found.joints), _about_wrists(true.joints)) * MM
        notes = []
        for key, name, rows in (
            ("all", "MPJPE of all", np.ones(len(true), bool)),
            ("single", "MPJPE of single hands", ~both),
            ("interacting", "MPJPE of interacting hands", both),
        ):
            counts = (valid & rows[:, None]).sum(0)
            seen = counts > 0
            if not seen.any():
                continue
            sums = np.where(valid & rows[:, None], errors, 0.0).sum(0)
            mean = float((sums[seen] / counts[seen]).mean())
            values.append(Value(f"MPJPE {key}", name, mean, "mm", 2))
            if not seen.all():
                notes.append(
                    f"{name}: {int((~seen).sum())} of {JOINTS} joints have no sample and are left "
                    f"out; the script ends in a traceback there."
                )
        return Scores(len(true), values, notes)


def _about_wrists(joints: np.ndarray) -> np.ndarray:
    right = joints[:, :HAND] - joints[:, RIGHT_WRIST, None]
    left = joints[:, HAND:] - joints[:, LEFT_WRIST, None]
    return np.concatenate([right, left], 1)


def _list_wrists(found: Frames, true: Frames, rows: np.ndarray) -> list[Value]:
    """Handedness accuracy and MRRPE, as far as there are samples."""
    values = []
    known = np.ones(len(true), bool) if true.hands_valid is None else true.hands_valid
    if found.hands is not None and true.hands is not None and known.any():
        here, there = found.hands > 0.5, true.hands > 0.5
        # A certainty of exactly 0.5 is neither.
        right = ((here == there) & (found.hands != 0.5)).all(1)
        share = float(right[known].mean())
        values.append(Value("Handedness accuracy", "handedness accuracy", share, "", 4, "higher"))
    if rows.any():
        mine = found.joints[rows, LEFT_WRIST] - found.joints[rows, RIGHT_WRIST]
        theirs = true.joints[rows, LEFT_WRIST] - true.joints[rows, RIGHT_WRIST]
        error = float(np.linalg.norm(mine - theirs, axis=1).mean()) * MM
        values.append(Value("MRRPE", "left wrist about the right", error, "mm", 4))
    return values


def read_truth(folder: str, split: str) -> tuple[list[int], Frames]:
    """Return (ids of annotations, true frames) of a folder of annotations.

    Raises:
        UserError: it holds no split, or several and ``split`` names none.
    """
    stem = os.path.join(folder, f"InterHand2.6M_{split or _find_split(folder)}")
    with reading(stem, "InterHand2.6M annotations"):
        data = read_json(f"{stem}_data.json")
        cameras = read_json(f"{stem}_camera.json")
        joints = read_json(f"{stem}_joint_3d.json")
        images = {image["id"]: image for image in data["images"]}
        notes = data["annotations"]
        points = [_place_joints(images[note["image_id"]], cameras, joints) for note in notes]
        valid = [np.asarray(note["joint_valid"], np.float64).reshape(JOINTS) for note in notes]
        hands = [HANDS[note["hand_type"]] for note in notes]
        known = [bool(note["hand_type_valid"]) for note in notes]
        ids = [int(note["id"]) for note in notes]
    true = Frames(
        np.stack(points) / MM,
        valid=np.stack(valid) > 0,
        hands=np.array(hands),
        hands_valid=np.array(known),
        name=f"{stem}_data.json",
    )
    return ids, true


def _place_joints(
    image: Mapping[str, Any], cameras: Mapping[str, Any], joints: Mapping[str, Any]
) -> np.ndarray:
    """(42, 3) mm in the camera's axes."""
    capture, camera = cameras[str(image["capture"])], str(image["camera"])
    world = joints[str(image["capture"])][str(image["frame_idx"])]["world_coord"]
    centre = np.asarray(capture["campos"][camera], np.float64)
    turn = np.asarray(capture["camrot"][camera], np.float64)
    return (np.asarray(world, np.float64).reshape(JOINTS, 3) - centre) @ turn.T


def _find_split(folder: str) -> str:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        raise UserError(f"truth={folder} is no folder that can be read") from None
    splits = [
        n[14:-10] for n in names if n.startswith("InterHand2.6M_") and n.endswith("_data.json")
    ]
    if len(splits) != 1:
        raise UserError(
            f"truth={folder} holds the annotations of {', '.join(splits) or 'no split'}: "
            f"{'split= names one' if splits else 'InterHand2.6M_SPLIT_data.json is looked for'}"
        )
    return splits[0]
