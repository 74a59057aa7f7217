"""``finetune evaluate RUN protocol=NAME`` of keypoints, meshes and pairs of hands on small shards.

What is printed is what ``finetune score`` says of the submission and the data set's own files.
"""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from body_scenes import SIZE, K, body, draw, pose, save, to_pixels
from body_standins import make_body, write_npz
from networks import make_run
from scipy.spatial.transform import Rotation
from test_labelled import write_coco
from test_labelled_hands import write_interhand, write_wholebody
from test_protocols_people import SMPLX, agora_table, make_person, near, write_old

from data.bodies.body_files import VARIABLE
from data.bodies.models import open_model
from data.format.clip import Clip, Crop
from data.format.labels import CropLabels, Joints
from data.sources.label_shards import main as write_labels
from engine.errors import UserError
from finetune.__main__ import main
from finetune.evaluation.protocols import PROTOCOLS
from finetune.evaluation.run_frames import FrameCollector
from finetune.person import Person
from finetune.verb_config import EvaluateConfig

IMAGES = {7: "000000000007.png", 8: "COCO_val_000000000008.png"}


def read_numbers(path):
    return {value["key"]: value["value"] for value in json.loads(path.read_text())["values"]}


def grow(tree):
    """People so large that an untrained network's points are neither all right nor all wrong."""
    random = np.random.default_rng(0)
    for image in tree["images"]:
        image["file_name"] = IMAGES[image["id"]]
    for note in tree["annotations"]:
        points = np.concatenate(
            [random.uniform(40, 100, (17, 2)), random.integers(0, 3, (17, 1))], 1
        )
        note["keypoints"] = points.ravel().tolist()
        note["num_keypoints"] = int((points[:, 2] > 0).sum())
        note["area"] = float(10 ** random.uniform(4, 6))


def rename(folder):
    for old, new in zip(("a.png", "b.png"), IMAGES.values(), strict=True):
        (folder / "val2017" / old).rename(folder / "val2017" / new)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """(data set, its shards)."""
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder / "root", grow)
    rename(folder / "root")
    words = [f"root={folder / 'root'}", f"out={folder / 'shards'}", "size=64", "box_min_px=10"]
    assert write_labels(["coco", *words]) == 0
    return folder / "root", folder / "shards"


@pytest.mark.parametrize("head", ["mesh", "keypoints"])
def test_keypoints_of_a_run_are_scored_as_its_submission_is(coco, head, tmp_path, capsys):
    root, shards = coco
    more = ("head.name=keypoints", "task=keypoints", "head.joints=coco17", "head.width=8")
    run = make_run(tmp_path / "run", "body", *(more if head == "keypoints" else ()))
    words = ["evaluate", str(run), f"data.shards={shards}", "device=cpu", f"out={tmp_path}"]
    file = tmp_path / "results.json"
    assert main([*words, "protocol=coco", f"submission={file}"]) == 0
    said = capsys.readouterr().out
    assert "cut around its person's own box" in said and "numbered" not in said
    mine = read_numbers(tmp_path / "coco.json")
    results = json.loads(file.read_text())
    assert sorted(one["image_id"] for one in results) == [7, 7, 8, 8, 8]
    truth = root / "annotations" / "person_keypoints_val2017.json"
    tree = json.loads(truth.read_text())
    tree["annotations"] = [note for note in tree["annotations"] if not note["iscrowd"]]
    (tmp_path / "truth.json").write_text(json.dumps(tree))
    score = ["score", str(file), f"truth={tmp_path / 'truth.json'}", "protocol=coco"]
    assert main([*score, f"out={tmp_path / 'score.json'}"]) == 0
    assert mine["AP50"] > 0 and mine["AP"] < 1
    assert read_numbers(tmp_path / "score.json") == pytest.approx(mine, abs=1e-9)
    if head == "keypoints":
        with pytest.raises(UserError, match="3dpw measures people in space, .* has head.name=keyp"):
            main([*words, "protocol=3dpw"])
    with pytest.raises(UserError, match="plausibility=true measures meshes"):
        main([*words, "protocol=coco", "plausibility=true"])


def test_a_keypoint_lies_where_the_image_has_it(coco, tmp_path, monkeypatch):
    """A network that answers with the labelled points is right about all of them."""
    from finetune.evaluation import run_keypoints

    def look(self, pixels, crop):
        return np.column_stack([self.true[:, :2], np.ones(17)])

    def read_truth(self, labels):
        self.true = read(self, labels)
        return self.true.copy()

    read = run_keypoints.KeypointCollector._read_truth
    monkeypatch.setattr(run_keypoints.KeypointCollector, "_look", look)
    monkeypatch.setattr(run_keypoints.KeypointCollector, "_read_truth", read_truth)
    root, shards = coco
    words = ["evaluate", str(make_run(tmp_path / "run")), f"data.shards={shards}", "device=cpu"]
    file = tmp_path / "results.json"
    assert main([*words, "protocol=coco", f"out={tmp_path}", f"submission={file}"]) == 0
    assert read_numbers(tmp_path / "coco.json")["AP"] == pytest.approx(1)
    tree = json.loads((root / "annotations" / "person_keypoints_val2017.json").read_text())
    labelled = np.array([note["keypoints"] for note in tree["annotations"]]).reshape(-1, 17, 3)
    for result in json.loads(file.read_text()):
        found = np.reshape(result["keypoints"], (17, 3))
        apart = np.abs(found[None, :, :2] - labelled[..., :2]) * (labelled[..., 2:] > 0)
        best = apart.max((1, 2)).argmin()
        assert apart[best].max() < 0.01
        assert tree["annotations"][best]["image_id"] == result["image_id"]


def test_parts_that_a_run_lacks_are_told(tmp_path, capsys):
    write_wholebody(tmp_path / "root", area=9000.0)
    words = [f"root={tmp_path / 'root'}", f"out={tmp_path / 'shards'}", "size=64"]
    assert write_labels(["coco_wholebody", *words]) == 0
    run = make_run(tmp_path / "run")
    words = ["evaluate", str(run), f"data.shards={tmp_path / 'shards'}", "device=cpu"]
    file = tmp_path / "results.json"
    more = ["protocol=coco_wholebody", f"out={tmp_path}", f"submission={file}"]
    assert main([*words, *more]) == 0
    said = capsys.readouterr().out
    assert "The run has no face_0, face_1" in said and "numbers are of 65 of 133 keypoints" in said
    assert "Images are numbered in the shards' order" in said
    mine = read_numbers(tmp_path / "coco_wholebody.json")
    assert mine["face AP"] == -1 and mine["body AP"] >= 0 and mine["foot AP"] == -1
    (result,) = json.loads(file.read_text())
    assert set(np.reshape(result["face_kpts"], (68, 3))[:, 2]) == {0}


def test_shards_without_areas_are_told(tmp_path):
    write_coco(tmp_path / "root")
    words = [f"root={tmp_path / 'root'}", f"out={tmp_path / 'shards'}", "size=64", "box_min_px=10"]
    assert write_labels(["coco", *words]) == 0
    run = make_run(tmp_path / "run")
    words = ["evaluate", str(run), f"data.shards={tmp_path / 'shards'}", "device=cpu"]
    with pytest.raises(UserError, match="does not say the area of its person"):
        main([*words, "protocol=coco"])


def test_pairs_of_hands_are_scored_as_their_submission_is(tmp_path, capsys):
    write_interhand(tmp_path / "root")
    words = [f"root={tmp_path / 'root'}", f"out={tmp_path / 'shards'}", "size=64"]
    assert write_labels(["interhand", *words]) == 0
    run = make_run(tmp_path / "run", "hand")
    words = ["evaluate", str(run), f"data.shards={tmp_path / 'shards'}", "device=cpu"]
    file = tmp_path / "pred.npz"
    assert main([*words, "protocol=interhand", f"out={tmp_path}", f"submission={file}"]) == 0
    assert "Which hands an image shows is given" in capsys.readouterr().out
    mine = read_numbers(tmp_path / "interhand.json")
    score = ["score", str(file), f"truth={tmp_path / 'root' / 'annotations' / 'train'}"]
    assert main([*score, "protocol=interhand", f"out={tmp_path / 'score.json'}"]) == 0
    again = read_numbers(tmp_path / "score.json")
    assert again.pop("Handedness accuracy") == 1
    assert {"MRRPE", "MPJPE all", "MPJPE interacting"} == mine.keys()
    assert again == pytest.approx(mine, rel=1e-5)


def write_emdb(root, frames=8, bad=(2, 6)):
    """A sequence of one person, of which some frames do not count; the last one is bad."""
    random = np.random.default_rng(0)
    good = np.ones(frames, bool)
    good[[*bad, frames - 1]] = False
    joints = np.stack([body(random, 24) for _ in range(frames)])
    cameras = np.array([pose(0, 0.02 * f, 0.01, t=(0.05 * f, 0, 6)) for f in range(frames)])
    pixels = np.stack([to_pixels(j, K, c) for j, c in zip(joints, cameras, strict=True)])
    boxes = np.concatenate([pixels.min(1) - 10, pixels.max(1) + 10], 1)
    tree = {
        "gender": "female",
        "name": "P0_walk",
        "emdb1": True,
        "emdb2": False,
        "n_frames": frames,
        "good_frames_mask": good,
        "camera": {"intrinsics": K, "extrinsics": cameras, "width": SIZE[0], "height": SIZE[1]},
        "smpl": {
            "poses_root": random.normal(0, 0.4, (frames, 3)),
            "poses_body": random.normal(0, 0.4, (frames, 69)),
            "trans": random.normal(size=(frames, 3)),
            "betas": random.normal(size=10),
        },
        "kp2d": pixels - 0.5,
        "bboxes": {"bboxes": boxes - 0.5, "invalid_idxs": np.zeros(0, int)},
    }
    for frame in range(frames):
        save(root / "P0" / "walk" / "images" / f"{frame:05d}.jpg", draw(pixels[frame]))
    (root / "P0" / "walk" / "P0_walk_data.pkl").write_bytes(pickle.dumps(tree))


def test_poses_of_a_run_are_scored_as_emdb_scores_its_submission(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "bodies"))
    for place, variant in enumerate(("NEUTRAL", "FEMALE")):
        arrays = make_body("smpl", variant.lower(), seed=place)
        write_npz(tmp_path / "bodies" / "smpl" / f"SMPL_{variant}.npz", arrays)
    write_emdb(tmp_path / "root")
    words = [f"root={tmp_path / 'root'}", f"out={tmp_path / 'shards'}", "size=64"]
    assert write_labels(["emdb", *words]) == 0
    run = make_run(tmp_path / "run", "body", "body=smpl", "coarse_vertices=40")
    words = ["evaluate", str(run), f"data.shards={tmp_path / 'shards'}", "device=cpu"]
    assert main([*words, "protocol=emdb", f"out={tmp_path}", f"submission={tmp_path / 'p'}"]) == 0
    mine = read_numbers(tmp_path / "emdb.json")
    with np.load(tmp_path / "p" / "P0_walk.npz") as arrays:
        assert arrays["pose"].shape == (6, 72) and not arrays["pose"][2].any()
        assert str(arrays["gender"]) == "neutral"
    score = ["score", str(tmp_path / "p"), f"truth={tmp_path / 'root'}", "protocol=emdb"]
    assert main([*score, f"out={tmp_path / 'score.json'}"]) == 0
    again = read_numbers(tmp_path / "score.json")
    assert mine.keys() == again.keys() and {"MVE_PA", "MPJAE", "Jitter"} <= mine.keys()
    assert again == pytest.approx(mine, rel=1e-3)
    capsys.readouterr()


class Answers:
    """A run on a body model that answers with meshes that a test made, one after the other."""

    device = "cpu"

    def __init__(self, name, meshes, regressor):
        self.body = open_model(name, "neutral")
        self.meshes, self.regressor = iter(meshes), regressor

    def __call__(self, pixels, boxes, intrinsics, sides):
        vertices = next(self.meshes)
        joints = self.regressor @ vertices
        both = (torch.from_numpy(np.asarray(one, np.float32))[None] for one in (vertices, joints))
        points = self.body.keypoints(*both)[0].numpy()
        faces, plain = np.zeros((1, 3)), np.zeros((len(points), 2))
        where = np.zeros(4), vertices, faces, joints, points, plain
        return [Person("body", *where, None, None, joints[0], np.eye(3))]


def collect(name, answers, crops, **keys):
    """The numbers of a protocol on ``crops``: (clip's name, crop, labels)."""
    config = EvaluateConfig("run", protocol=name, **keys)
    protocol = PROTOCOLS.find(name)()
    run = protocol.open_run(config, answers.body.name)
    collector = FrameCollector(protocol, run, answers, config)
    for clip, crop, labels in crops:
        whole = Clip(clip, "test", "", "somebody", 8, [crop])
        collector.add(whole, crop, np.zeros((8, 8, 3), np.uint8), labels)
    return collector.finish()


def write_parts(folder, random, vertices=SMPLX):
    left, right, face, inner = (random.choice(vertices, 40, replace=False) for _ in range(4))
    np.save(folder / "SMPL-X__FLAME_vertex_ids.npy", face)
    hands = {"left_hand": left, "right_hand": right}
    (folder / "MANO_SMPLX_vertex_ids.pkl").write_bytes(pickle.dumps(hands))
    np.save(folder / "body_verts_smplx.npy", inner)


def write_smplx(folder):
    arrays = make_body("smplx", vertices=SMPLX, shapes=20)
    arrays["posedirs"] = np.zeros((SMPLX, 3, 486), np.float32)
    (folder / "smplx").mkdir(parents=True)
    np.savez(folder / "smplx" / "SMPLX_NEUTRAL.npz", **arrays)
    return arrays["J_regressor"]


def test_meshes_of_smplx_are_scored_by_ehf_and_agora(tmp_path, monkeypatch):
    """As files of the same meshes are."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "bodies"))
    random, regressor = np.random.default_rng(0), write_smplx(tmp_path / "bodies")
    write_parts(tmp_path, random)
    (tmp_path / "ehf").mkdir()
    crops, found = [], []
    turn = Rotation.from_rotvec([-2.98747896, 0.01172457, -0.05704687]).as_matrix()
    Rt = np.column_stack([turn, [-0.03609917, 0.43416458, 2.37101226]])
    for name in ("01", "02"):
        world = random.normal(0, 0.4, (SMPLX, 3)).astype(np.float32)
        mesh = trimesh.Trimesh(world, [[0, 1, 2]], process=False)
        mesh.export(tmp_path / "ehf" / f"{name}_align.ply")
        near_it = 0.9 * world @ turn.T + random.normal(0, 0.02, (SMPLX, 3)) + (0, 0, 3)
        found.append(near_it.astype(np.float32))
        crop = Crop("camera", 0.0, K=np.eye(3), Rt=Rt)
        crops.append((name, crop, CropLabels(vertices=world)))
    answers = Answers("smplx", found, regressor)
    keys = {"indices": str(tmp_path), "submission": str(tmp_path / "pred")}
    scores = collect("ehf", answers, crops, **keys)
    again = PROTOCOLS.find("ehf")().score_files(
        SimpleNamespace(
            predictions=str(tmp_path / "pred"), truth=str(tmp_path / "ehf"), indices=str(tmp_path)
        )
    )
    mine = {value.key: value.value for value in scores.values}
    assert len(mine) == 6
    assert {v.key: v.value for v in again.values} == pytest.approx(mine, rel=1e-4)
    # The same meshes as AGORA's: what is true of those that are found.
    people = [make_person(random, (400, 300), 127, SMPLX) for _ in range(2)]
    guesses = [near(random, one, 2, 0.02) for one in people]
    crops = []
    for number, one in enumerate(people):
        joints = one["allSmplJoints3d"][:55]
        labels = CropLabels(joints=Joints("smplx55", joints, np.ones(55)), vertices=one["verts"])
        crops.append((f"p{number}", Crop("camera", 0.0, K=np.eye(3), Rt=np.eye(3, 4)), labels))
        guesses[number]["allSmplJoints3d"] = np.concatenate(
            [regressor @ guesses[number]["verts"], np.zeros((72, 3))]
        )
    answers = Answers("smplx", [one["verts"] for one in guesses], regressor)
    scores = collect("agora", answers, crops, indices=str(tmp_path))
    mine = {value.key: value.value for value in scores.values}
    (tmp_path / "agora").mkdir()
    columns = {
        "imgPath": ["i.png"],
        "isValid": [[True, True]],
        "occlusion": [[0.0, 0.0]],
        "kid": [[False, False]],
        "gt_joints_2d": [[one["joints"] + (0, 900 * i) for i, one in enumerate(people)]],
        "gt_joints_3d": [[one["allSmplJoints3d"] for one in people]],
        "gt_verts": [[one["verts"] for one in people]],
    }
    write_old(tmp_path / "agora" / "validation_0.pkl", agora_table(columns))
    (tmp_path / "files").mkdir()
    for number, one in enumerate(guesses):
        one["joints"] = one["joints"][:24] + (0, 900 * number)
        (tmp_path / "files" / f"i_personId_{number}.pkl").write_bytes(pickle.dumps(one))
    again = PROTOCOLS.find("agora")().score_files(
        SimpleNamespace(
            predictions=str(tmp_path / "files"),
            truth=str(tmp_path / "agora"),
            indices=str(tmp_path),
        )
    )
    theirs = {value.key: value.value for value in again.values}
    assert theirs["f1"] == 1
    assert mine == {key: theirs[key] for key in ("body-MPJPE", "body-MVE")}
    assert "there is no F1" in scores.notes[0]


def test_runs_on_another_body_are_told(tmp_path, coco):
    run = make_run(tmp_path / "run")
    words = ["evaluate", str(run), f"data.shards={coco[1]}", "device=cpu"]
    with pytest.raises(UserError, match="protocol=ehf is of smplx, .* recovers anny: convert its"):
        main([*words, "protocol=ehf"])
    with pytest.raises(UserError, match="protocol=agora is of smpl or smplx"):
        main([*words, "protocol=agora"])
    with pytest.raises(UserError, match="indices=x is of a protocol: set protocol="):
        main([*words, "indices=x"])
