"""What OpenSim reads in the TRC and MOT files of a clip, and how its model moves by them.

    python -m venv other && other/bin/pip install opensim numpy
    other/bin/python benchmarks/opened_opensim.py juggle.npz juggle.body-1 MODEL.osim

It runs in an environment with opensim alone and imports nothing of this project. The model is
anybody's: Pose2Sim's (BSD-3-Clause, pip download pose2sim) derives from Rajagopal2016.
"""

import json
import sys

import numpy as np
import opensim

# Coordinates of the trunk have other names where a model has a spine of several joints.
SPINE = {
    "lumbar_extension": "L5_S1_Flex_Ext",
    "lumbar_bending": "L5_S1_Lat_Bending",
    "lumbar_rotation": "L5_S1_axial_rotation",
}
LIMBS = {
    "thigh": ("femur", "tibia", "hip", "knee"),
    "shank": ("tibia", "talus", "knee", "ankle"),
    "upper arm": ("humerus", "ulna", "shoulder", "elbow"),
    "forearm": ("ulna", "hand", "elbow", "wrist"),
}
EVERY = 6  # frames of which one is posed
TRANSLATION = 2  # opensim.Coordinate's motion type


def main(numbers: str, stem: str, model_path: str) -> None:
    """Print what is read and how far it is from our numbers."""
    opensim.Logger.setLevelString("error")
    markers, names = read_markers(f"{stem}.trc")
    compare_markers(markers, names, numbers, stem.rsplit(".", 1)[1])
    angles, columns = read_angles(f"{stem}.mot")
    model = opensim.Model(model_path)
    state = model.initSystem()
    check_ranges(model, angles, columns)
    compare_limbs(model, state, angles, columns, markers, names)


def read_markers(path: str) -> tuple[np.ndarray, list[str]]:
    """Return (T, M, 3) metres and the markers' names."""
    data = opensim.MarkerData(path)
    print(f"MarkerData: {data.getNumMarkers()} markers, {data.getNumFrames()} frames")
    print(f"  {data.getDataRate():g} a second, {data.getUnits().getLabel()}")
    table = opensim.TimeSeriesTableVec3(path)
    rows = [table.getRowAtIndex(row) for row in range(table.getNumRows())]
    count = table.getNumColumns()
    points = [[[row[c][k] for k in range(3)] for c in range(count)] for row in rows]
    return np.array(points) / 1000, list(table.getColumnLabels())


def compare_markers(points: np.ndarray, names: list[str], numbers: str, track: str) -> None:
    """The markers beside the joints and keypoints of the NPZ."""
    with np.load(numbers) as arrays:
        about = json.loads(str(arrays["about"]))
        (mine,) = [one for one in about["tracks"] if one["name"] == track]
        known = dict(
            zip(mine["joint_names"], arrays[f"{track}/joints"].swapaxes(0, 1), strict=True)
        )
        ours = arrays[f"{track}/keypoints"].swapaxes(0, 1)
        known |= dict(zip(mine["keypoint_names"], ours, strict=True))
        frames = arrays[f"{track}/frames"]
    both = [name for name in names if name in known]
    off = [
        np.abs(points[frames, names.index(name)] - known[name] * [1, -1, -1]).max() for name in both
    ]
    print(f"  {len(both)} of them are in {numbers} by name: {1000 * max(off):.5f} mm off at most")


def read_angles(path: str) -> tuple[np.ndarray, list[str]]:
    """Return (T, C) degrees and metres, and the columns' names."""
    table = opensim.TimeSeriesTable(path)
    columns = list(table.getColumnLabels())
    rows = [table.getRowAtIndex(row) for row in range(table.getNumRows())]
    told = table.getTableMetaDataAsString("inDegrees")
    print(f"Storage: {opensim.Storage(path).getSize()} rows, {len(columns)} columns")
    print(f"  inDegrees={told}")
    return np.array([[row[c] for c in range(len(columns))] for row in rows]), columns


def check_ranges(model: opensim.Model, angles: np.ndarray, columns: list[str]) -> None:
    """The coordinates that a model has by these names, and whether values are in its ranges."""
    known = model.getCoordinateSet()
    own = [known.get(i).getName() for i in range(known.getSize())]
    print(f"{model.getName()}: {len(own)} coordinates")
    print(f"  not by these names: {[name for name in columns if name not in own]}")
    for column, name in enumerate(columns):
        if name not in own:
            continue
        coordinate = known.get(name)
        scale = 1.0 if coordinate.getMotionType() == TRANSLATION else 180 / np.pi
        low, high = coordinate.getRangeMin() * scale, coordinate.getRangeMax() * scale
        values = angles[:, column]
        outside = ((values < low) | (values > high)).mean()
        if outside:
            told = f"{values.min():.1f} to {values.max():.1f}, range {low:.1f} to {high:.1f}"
            print(f"  {name}: {100 * outside:.0f} % outside ({told})")


def compare_limbs(
    model: opensim.Model,
    state: opensim.State,
    angles: np.ndarray,
    columns: list[str],
    markers: np.ndarray,
    names: list[str],
) -> None:
    """Directions of limbs of the model that the angles drive, beside those of the markers."""
    known, bodies = model.getCoordinateSet(), model.getBodySet()
    own = [known.get(i).getName() for i in range(known.getSize())]
    named = [name if name in own else SPINE.get(name, name) for name in columns]
    off: dict[str, list[float]] = {}
    for row in range(0, len(angles), EVERY):
        for name, value in zip(named, angles[row], strict=True):
            if name not in own:
                continue
            coordinate = known.get(name)
            coordinate.setLocked(state, False)
            coordinate.setClamped(state, False)
            turned = coordinate.getMotionType() != TRANSLATION
            coordinate.setValue(state, float(np.radians(value) if turned else value), False)
        model.realizePosition(state)
        for limb, (first, last, start, end) in LIMBS.items():
            for letter, side in (("l", "left"), ("r", "right")):
                here = place(bodies, f"{last}_{letter}", state)
                here -= place(bodies, f"{first}_{letter}", state)
                there = markers[row, names.index(f"{side}_{end}")]
                there = there - markers[row, names.index(f"{side}_{start}")]
                cosine = here @ there / np.linalg.norm(here) / np.linalg.norm(there)
                off.setdefault(limb, []).append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        pelvis = np.abs(place(bodies, "pelvis", state) - markers[row, names.index("pelvis")]).max()
        off.setdefault("pelvis, um", []).append(1e6 * pelvis)
    for limb, values in off.items():
        print(f"  {limb}: mean {np.mean(values):.1f}, most {np.max(values):.1f}")


def place(bodies: opensim.BodySet, name: str, state: opensim.State) -> np.ndarray:
    """(3,) metres of a body's frame in the ground."""
    point = bodies.get(name).getPositionInGround(state)
    return np.array([point[k] for k in range(3)])


if __name__ == "__main__":
    main(*sys.argv[1:])
