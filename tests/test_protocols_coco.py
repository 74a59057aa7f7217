"""COCO's protocols: against loops, and against pycocotools where it is installed."""

import copy
import json

import numpy as np
import pytest

from engine.errors import UserError
from finetune.evaluation.protocols import PROTOCOLS
from finetune.evaluation.protocols.coco import SIGMAS
from finetune.evaluation.protocols.coco_wholebody import PARTS
from finetune.verb_config import ScoreConfig

KEYS = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
FIELDS = {field: len(sigmas) for _, field, sigmas in PARTS}


def make_points(random, count, centre, size, spread):
    points = np.zeros((count, 3))
    points[:, :2] = centre + random.normal(0, size / 6, (count, 2)) + spread
    return points


def make_files(seed, images=25):
    """(annotations, results): crowds, empty and tiny people, equal scores, too many detections."""
    random = np.random.default_rng(seed)
    notes, results = [], []
    for image in range(images):
        people = random.integers(0, 5)
        for _ in range(people):
            size = float(random.choice([20, 60, 90, 200]))
            centre = random.uniform(100, 500, 2)
            note = {
                "id": len(notes) + 1,
                "image_id": image * 3 + 1,
                "category_id": 1,
                "bbox": [*(centre - size / 2).tolist(), size, size],
                "area": float(size * size * random.uniform(0.3, 0.9)),
                "iscrowd": int(random.random() < 0.1),
            }
            spread = size * random.choice([0.0, 0.02, 0.1, 0.4])
            result = {"image_id": note["image_id"], "category_id": 1}
            for field, count in FIELDS.items():
                points = make_points(random, count, centre, size, 0)
                points[:, 2] = random.choice([0, 1, 2], count)
                if random.random() < 0.15:
                    points[:, 2] = 0
                guess = points.copy()
                guess[:, :2] += random.normal(0, spread + 1e-3, (count, 2))
                guess[:, 2] = random.random(count) * (random.random() < 0.9)
                note[field] = points.ravel().tolist()
                result[field] = guess.ravel().tolist()
            note["num_keypoints"] = int((np.array(note["keypoints"])[2::3] > 0).sum())
            notes.append(note)
            copies = random.integers(0, 3) if image else 12
            for _ in range(copies):
                one = copy.deepcopy(result)
                one["score"] = float(random.integers(0, 10) / 10)
                results.append(one)
    random.shuffle(results)
    names = [{"id": image * 3 + 1} for image in range(images)]
    return {"images": names, "categories": [{"id": 1, "name": "person"}], "annotations": notes}, (
        results
    )


def score(tmp_path, name, truth, results):
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    config = ScoreConfig(str(tmp_path / "results.json"), str(tmp_path / "truth.json"), name)
    return {value.key: value.value for value in PROTOCOLS.find(name)().score_files(config).values}


def oks_of(detection, note, sigmas):
    d, g = np.array(detection["keypoints"]), np.array(note["keypoints"])
    x, y, w, h = note["bbox"]
    total, count = 0.0, 0
    labelled = (g[2::3] > 0).any()
    for k, sigma in enumerate(sigmas):
        if labelled and g[3 * k + 2] <= 0:
            continue
        if labelled:
            dx, dy = d[3 * k] - g[3 * k], d[3 * k + 1] - g[3 * k + 1]
        else:
            dx = max(0, x - w - d[3 * k]) + max(0, d[3 * k] - x - 2 * w)
            dy = max(0, y - h - d[3 * k + 1]) + max(0, d[3 * k + 1] - y - 2 * h)
        total += np.exp(-(dx * dx + dy * dy) / (2 * sigma) ** 2 / note["area"] / 2)
        count += 1
    return total / count


def reference(truth, results, sigmas, area, limit):
    """(AP, AR) at one threshold and range of areas, written from the definition."""
    rows, wanted = [], 0
    for image in [one["id"] for one in truth["images"]]:
        people = [n for n in truth["annotations"] if n["image_id"] == image]
        found = [r for r in results if r["image_id"] == image]
        found = sorted(found, key=lambda r: -r["score"])[:20]
        out = [
            bool(n["iscrowd"] or not n["num_keypoints"] or not area[0] <= n["area"] <= area[1])
            for n in people
        ]
        wanted += out.count(False)
        free = [True] * len(people)
        for one in found:
            oks = [oks_of(one, n, sigmas) for n in people]
            chosen = None
            for ignored in (False, True):
                near = [
                    i
                    for i, value in enumerate(oks)
                    if value >= limit and out[i] == ignored and (free[i] or people[i]["iscrowd"])
                ]
                if near:
                    chosen = max(near, key=lambda i: oks[i])
                    break
            x, y = one["keypoints"][0::3], one["keypoints"][1::3]
            size = (max(x) - min(x)) * (max(y) - min(y))
            if chosen is None:
                rows.append((one["score"], False, not area[0] <= size <= area[1]))
            else:
                free[chosen] = False
                rows.append((one["score"], True, out[chosen]))
    rows = [(hit, ignored) for _, hit, ignored in sorted(rows, key=lambda row: -row[0])]
    right = wrong = 0
    curve = []
    for hit, ignored in rows:
        right += hit and not ignored
        wrong += not hit and not ignored
        curve.append((right / wanted, right / max(right + wrong, 1e-16)))
    precisions = [
        max((p for recall, p in curve if recall >= level), default=0.0)
        for level in np.linspace(0, 1, 101)
    ]
    return np.mean(precisions), curve[-1][0]


@pytest.mark.parametrize("seed", [0, 1])
def test_coco_equals_loops(tmp_path, seed):
    truth, results = make_files(seed)
    mine = score(tmp_path, "coco", truth, results)
    for suffix, area in (("", (0, 1e10)), ("m", (1024, 9216)), ("l", (9216, 1e10))):
        limits = np.linspace(0.5, 0.95, 10)
        both = np.array([reference(truth, results, SIGMAS, area, limit) for limit in limits])
        wanted = both.mean(0)
        assert (mine[f"AP{suffix}"], mine[f"AR{suffix}"]) == pytest.approx(wanted, abs=1e-9)
        if not suffix:
            assert (mine["AP50"], mine["AR50"]) == pytest.approx(both[0], abs=1e-9)
            assert (mine["AP75"], mine["AR75"]) == pytest.approx(both[5], abs=1e-9)


def by_pycocotools(truth, results, sigmas):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    from pycocotools.cocoeval import COCOeval

    index = coco.COCO()
    index.dataset = copy.deepcopy(truth)
    index.createIndex()
    judge = COCOeval(index, index.loadRes(copy.deepcopy(results)), "keypoints")
    judge.params.kpt_oks_sigmas = sigmas
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats


@pytest.mark.parametrize("seed", range(6))
def test_coco_equals_pycocotools(tmp_path, seed):
    truth, results = make_files(seed, images=60)
    wanted = by_pycocotools(truth, results, SIGMAS)
    mine = score(tmp_path, "coco", truth, results)
    assert [mine[key] for key in KEYS] == pytest.approx(list(wanted), abs=1e-12)


def test_the_whole_body_is_its_parts(tmp_path):
    """A part's numbers are COCO's of that part's keypoints, with other people left out."""
    truth, results = make_files(3, images=40)
    for result in results[::6]:
        for field, count in FIELDS.items():
            result[field] = (np.reshape(result[field], (count, 3)) * (1, 1, 0)).ravel().tolist()
    mine = score(tmp_path, "coco_wholebody", truth, results)
    assert len(mine) == 60
    parts = [(name, [field], sigmas) for name, field, sigmas in PARTS]
    parts.append(("wholebody", list(FIELDS), np.concatenate([one[2] for one in PARTS])))
    for name, fields, sigmas in parts:
        notes, found = [], []
        for note in truth["annotations"]:
            points = sum((note[field] for field in fields), [])
            seen = int((np.array(points)[2::3] > 0).sum())
            notes.append(note | {"keypoints": points, "num_keypoints": seen})
        for result in results:
            points = sum((result[field] for field in fields), [])
            x, y = np.array(result["keypoints"][0::3]), np.array(result["keypoints"][1::3])
            if max(points[2::3]) > 0:
                box = [x.min(), y.min(), float(np.ptp(x)), float(np.ptp(y))]
                found.append(result | {"keypoints": points, "bbox": box})
        wanted = by_pycocotools(truth | {"annotations": notes}, found, sigmas)
        assert [mine[f"{name} {key}"] for key in KEYS] == pytest.approx(list(wanted), abs=1e-12)


def test_nobody_and_perfect_results(tmp_path):
    truth, _ = make_files(0)
    results = [
        {"image_id": n["image_id"], "category_id": 1, "keypoints": n["keypoints"], "score": 1.0}
        for n in truth["annotations"]
        if n["num_keypoints"] and not n["iscrowd"]
    ]
    mine = score(tmp_path, "coco", truth, results)
    assert mine["AP"] == pytest.approx(1) and mine["AR"] == 1
    for note in truth["annotations"]:
        note["num_keypoints"] = 0
    assert score(tmp_path, "coco", truth, results)["AP"] == -1


def test_detections_without_a_scored_keypoint_are_no_false_positives_of_the_whole_body(tmp_path):
    truth, _ = make_files(0)
    results = []
    for note in truth["annotations"]:
        fields = {field: note[field] for field in FIELDS}
        if not note["iscrowd"] and any(max(points[2::3]) for points in fields.values()):
            names = {"image_id": note["image_id"], "category_id": 1}
            results.append({**names, **fields, "score": 0.5})
            empty = {
                f: (np.reshape(p, (-1, 3)) * (1, 1, 0)).ravel().tolist() for f, p in fields.items()
            }
            results.append({**names, **empty, "score": 0.9})
    mine = score(tmp_path, "coco_wholebody", truth, results)
    assert mine["wholebody AP"] == mine["wholebody AR"] == pytest.approx(1)


def test_the_first_result_says_whether_results_have_boxes(tmp_path):
    truth, results = make_files(1)
    plain = score(tmp_path, "coco", truth, results)
    boxed = [one | {"bbox": [0, 0, 1, 1]} for one in results]
    assert score(tmp_path, "coco", truth, [results[0], *boxed[1:]]) == plain
    assert score(tmp_path, "coco", truth, boxed) != plain
    with pytest.raises(UserError, match="lacks 'bbox'"):
        score(tmp_path, "coco", truth, [boxed[0], *results[1:]])


def test_files_that_do_not_fit_are_told(tmp_path):
    truth, results = make_files(0)
    with pytest.raises(UserError, match="1 images such as 2 are none of the 25"):
        score(tmp_path, "coco", truth, [results[0] | {"image_id": 2}])
    with pytest.raises(UserError, match="keypoints of image .* holds 6 numbers, not 51"):
        score(tmp_path, "coco", truth, [results[0] | {"keypoints": [1, 2, 3, 4, 5, 6]}])
    bad = results[0]["keypoints"][:-3] + [float("nan"), 0, 1]
    with pytest.raises(UserError, match="hold NaN or infinity"):
        score(tmp_path, "coco", truth, [results[0] | {"keypoints": bad}])
    with pytest.raises(UserError, match="holds no result"):
        score(tmp_path, "coco", truth, [])
    without = {key: value for key, value in results[0].items() if key != "foot_kpts"}
    with pytest.raises(UserError, match="lacks 'foot_kpts'"):
        score(tmp_path, "coco_wholebody", truth, [without])
