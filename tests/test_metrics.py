"""Metrics against SciPy in float64, also where points are degenerate; tables against sentences
written by hand."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from engine.errors import UserError
from engine.pose_metrics import mpjpe, pa_mpjpe
from finetune.evaluation import metrics, tables

MM = 1000


def pair(batch=6, count=21, seed=0, noise=0.05):
    """Predicted and true points (B, N, 3): another rotation, size and translation, and noise;
    metres."""
    random = np.random.default_rng(seed)
    true = random.normal(size=(batch, count, 3)) * [0.2, 0.5, 0.1] + random.normal(
        size=(batch, 1, 3)
    )
    rotations = Rotation.from_rotvec(2 * random.normal(size=(batch, 3))).as_matrix()
    predicted = 0.8 * np.einsum("bij,bnj->bni", rotations, true) + random.normal(size=(batch, 1, 3))
    return predicted + noise * random.normal(size=true.shape), true


def aligned(predicted, true):
    """One cloud (N, 3) on another: SciPy's rotation (Kabsch on quaternions or SVD, never a mirror),
    scale in closed form."""
    p, q = predicted - predicted.mean(0), true - true.mean(0)
    rotated = Rotation.align_vectors(q, p)[0].apply(p)
    scale = (rotated * q).sum() / max((p * p).sum(), 1e-30)
    return scale * rotated + true.mean(0)


def mean_mm(a, b):
    return np.linalg.norm(a - b, axis=-1).mean(-1) * MM


def close(mine, theirs, atol=1e-6):
    assert mine.dtype == torch.float64
    np.testing.assert_allclose(mine.numpy(), theirs, rtol=0, atol=atol)


def tensors(*arrays):
    return [torch.tensor(a) for a in arrays]


def test_errors_agree_with_scipy():
    predicted, true = pair()
    p, t = tensors(predicted, true)
    for root in (0, 7):
        close(
            mpjpe(p, t, root),
            mean_mm(predicted - predicted[:, [root]], true - true[:, [root]]),
            1e-9,
        )
        close(
            metrics.pve_plain(p, t, p[:, root] + 1, t[:, root] - 1),
            mean_mm(predicted - predicted[:, [root]] - 1, true - true[:, [root]] + 1),
            1e-9,
        )
    best = [mean_mm(aligned(a, b), b) for a, b in zip(predicted, true, strict=True)]
    close(pa_mpjpe(p, t), best, 1e-9)
    close(metrics.pa_pve_plain(p, t), best, 1e-9)


def test_alignment_is_the_least_that_a_search_finds():
    """By numerical optimisation over rotation vector, log scale and shift: shares no formula with
    the closed form."""
    predicted, true = pair(batch=3, count=12)
    for a, b in zip(predicted, true, strict=True):

        def cost(x, a=a, b=b):
            return ((np.exp(x[3]) * Rotation.from_rotvec(x[:3]).apply(a) + x[4:] - b) ** 2).sum()

        starts = [
            np.concatenate([v, np.zeros(4)]) for v in Rotation.create_group("O").as_rotvec()[::3]
        ]
        x = min(
            (minimize(cost, start, options={"gtol": 1e-9}) for start in starts),
            key=lambda found: found.fun,
        ).x
        searched = np.exp(x[3]) * Rotation.from_rotvec(x[:3]).apply(a) + x[4:]
        close(pa_mpjpe(*tensors(a[None], b[None])), [mean_mm(searched, b)], 1e-4)


def test_place_turn_and_size_are_forgiven_as_said():
    _, true = pair()
    t = torch.tensor(true)
    rotation = torch.tensor(Rotation.from_rotvec([0.3, -2, 1]).as_matrix())
    close(pa_mpjpe(3 * t @ rotation + 5, t), np.zeros(6), 1e-9)
    close(mpjpe(t + 5, t, 0), np.zeros(6), 1e-9)
    close(metrics.pve_plain(t + 5, t, t[:, 2] + 5, t[:, 2]), np.zeros(6), 1e-9)
    assert (mpjpe(t @ rotation, t, 0) > 100).all() and (mpjpe(1.1 * t, t, 0) > 10).all()


def icosphere(level):
    """(V, 3) vertices and (F, 3) faces of a unit sphere of triangles, by splitting an
    octahedron's."""
    corners = [
        np.array(v, float)
        for v in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
    ]
    faces = [(a, b, c) for a in (0, 1) for b in (2, 3) for c in (4, 5)]
    for _ in range(level):
        known, split = {}, []

        def middle(a, b, known=known):
            key = min(a, b), max(a, b)
            if key not in known:
                known[key] = len(corners)
                corners.append((corners[a] + corners[b]) / np.linalg.norm(corners[a] + corners[b]))
            return known[key]

        for a, b, c in faces:
            ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
            split += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = split
    return np.array(corners), np.array(faces)


def heron(a, b, c):
    """Area of a triangle from the lengths of its sides."""
    x, y, z = np.linalg.norm(a - b), np.linalg.norm(b - c), np.linalg.norm(c - a)
    half = (x + y + z) / 2
    return max(half * (half - x) * (half - y) * (half - z), 0.0) ** 0.5


def test_areas_are_a_third_of_each_triangle():
    vertices, faces = icosphere(2)
    vertices = np.stack([vertices, vertices * [1, 2, 0.5] + 3])
    wanted = np.zeros(vertices.shape[:2])
    for mesh, areas in zip(vertices, wanted, strict=True):
        for face in faces:
            areas[face] += heron(*mesh[face]) / 3
    found = metrics.vertex_areas(*tensors(vertices, faces))
    close(found, wanted, 1e-9)
    assert float(found[0].sum()) == pytest.approx(
        4 * np.pi, rel=0.1
    )  # a coarse sphere's is a little less


def uneven_sphere():
    """A sphere whose upper half is 64 times as finely meshed as its lower: (V, 3), (F, 3), (V,)
    bool upper."""
    fine, fine_faces = icosphere(4)
    coarse, coarse_faces = icosphere(1)
    up = fine_faces[(fine[fine_faces][:, :, 2] >= -1e-9).all(1)]
    down = coarse_faces[(coarse[coarse_faces][:, :, 2] <= 1e-9).all(1)]
    vertices = np.concatenate([fine, coarse])
    faces = np.concatenate([up, down + len(fine)])
    return vertices, faces, np.arange(len(vertices)) < len(fine)


def test_a_surface_error_does_not_depend_on_how_finely_a_part_is_meshed():
    """10 cm off on the fine half, 0 on the coarse one: half of the surface's error, whatever the
    mesh."""
    vertices, faces, upper = uneven_sphere()
    moved = vertices + np.where(upper[:, None], [0.1, 0, 0], 0)
    used = np.unique(faces)
    p, t = tensors(moved[None], vertices[None])
    root = torch.zeros(1, 3, dtype=torch.float64)
    areas = metrics.vertex_areas(t, torch.tensor(faces))
    upper_area, whole = (
        sum(heron(*vertices[f]) for f in part) for part in (faces[upper[faces[:, 0]]], faces)
    )
    close(metrics.pve(p, t, root, root, areas), [100 * upper_area / whole], 1e-9)
    assert 100 * upper_area / whole == pytest.approx(52, abs=3)  # the coarse half is flatter
    plain = mean_mm(moved, vertices)
    close(metrics.pve_plain(p, t, root, root), [plain], 1e-9)
    assert plain > 90 and upper[used].mean() > 0.9
    with pytest.raises(UserError, match="1 of 1 true meshes of a batch have no area"):
        metrics.pve(p, t, root, root, 0 * areas)


def test_a_weighted_alignment_is_that_of_points_that_come_as_often():
    """Whole weights w against the plain alignment of points that are repeated w times, by SciPy."""
    predicted, true = pair(batch=4, count=15)
    weights = np.random.default_rng(5).integers(0, 5, (4, 15))
    wanted = []
    for p, t, w in zip(predicted, true, weights, strict=True):
        wanted.append(mean_mm(aligned(p.repeat(w, 0), t.repeat(w, 0)), t.repeat(w, 0)))
    found = metrics.pa_pve(*tensors(predicted, true, weights.astype(float)))
    close(found, wanted, 1e-9)
    assert (
        np.abs(found.numpy() - metrics.pa_pve_plain(*tensors(predicted, true)).numpy()).min() > 0.1
    )
    close(
        metrics.pa_pve(*tensors(predicted, true, np.full((4, 15), 0.3))),
        metrics.pa_pve_plain(*tensors(predicted, true)).numpy(),
        1e-9,
    )


def test_hands_are_much_of_the_mesh_and_little_of_the_body(bodies):
    body = bodies["anny"]
    pose, root = torch.zeros(1, len(body.joint_names), 3), torch.zeros(1, 3)
    with torch.no_grad():
        vertices, _ = body(pose, root, torch.full((1, len(body.shape_space.names)), 0.5))
    areas = metrics.vertex_areas(vertices, body.faces)[0].numpy()
    hand = np.isin(body.vertex_ids.numpy(), bodies["anny_hand"].vertex_ids.numpy())  # the right one
    assert 2 * hand.mean() == pytest.approx(0.23, abs=0.005)
    assert 2 * areas[hand].sum() / areas.sum() == pytest.approx(0.0456, abs=0.0005)


def test_a_mirrored_prediction_stays_wrong():
    _, true = pair()
    mirrored = true * [-1, 1, 1]
    expected = [mean_mm(aligned(a, b), b) for a, b in zip(mirrored, true, strict=True)]
    close(pa_mpjpe(*tensors(mirrored, true)), expected, 1e-6)
    assert min(expected) > 20
    flat = true * [1, 1, 0]
    close(
        pa_mpjpe(*tensors(flat * [-1, 1, 1], flat)), np.zeros(6), 1e-9
    )  # the mirror image of a plane is a rotation


def test_points_in_one_place():
    predicted, true = pair()
    for at in (0.0, 0.1, 1000.1):
        one = np.full_like(true, at)
        close(pa_mpjpe(*tensors(one, true)), mean_mm(true, true.mean(1, keepdims=True)), 1e-8)
        close(pa_mpjpe(*tensors(predicted, one)), np.zeros(6), 1e-8)
        close(pa_mpjpe(*tensors(one + 1, one)), np.zeros(6), 1e-8)
        close(mpjpe(*tensors(one, true), 0), mean_mm(true, true[:, :1]), 1e-8)


@pytest.mark.filterwarnings("ignore:Optimal rotation is not uniquely")  # which is the point
def test_points_on_a_line_or_in_a_plane():
    random = np.random.default_rng(3)
    _, true = pair()
    line = random.normal(size=(6, 21, 1)) * random.normal(size=(6, 1, 3)) + 2
    other = random.normal(size=(6, 21, 1)) * random.normal(size=(6, 1, 3))
    plane = random.normal(size=(6, 21, 2)) @ random.normal(size=(6, 2, 3)) - 1
    for a, b in (
        (line, true),
        (true, line),
        (line, other),
        (plane, true),
        (true, plane),
        (plane, line),
        (line, plane),
    ):
        expected = [mean_mm(aligned(p, q), q) for p, q in zip(a, b, strict=True)]
        close(pa_mpjpe(*tensors(a, b)), expected, 1e-6)


def test_two_points_and_one():
    predicted, true = pair(count=2)
    close(pa_mpjpe(*tensors(predicted, true)), np.zeros(6), 1e-9)
    close(pa_mpjpe(*tensors(predicted[:, :1], true[:, :1])), np.zeros(6), 1e-9)


def test_far_people_and_float32():
    predicted, true = pair()
    expected = {
        "mpjpe": mean_mm(predicted - predicted[:, :1], true - true[:, :1]),
        "pa": [mean_mm(aligned(a, b), b) for a, b in zip(predicted, true, strict=True)],
    }
    far = [torch.tensor(points + [0, -300, 1000]) for points in (predicted, true)]
    close(mpjpe(*far, 0), expected["mpjpe"], 1e-8)
    close(pa_mpjpe(*far), expected["pa"], 1e-8)
    close(metrics.pve_plain(*far, far[0][:, 0], far[1][:, 0]), expected["mpjpe"], 1e-8)
    # float32 points are what they are; nothing more is lost on the way.
    for shift in (0, 1000):
        single = [torch.tensor(points + shift, dtype=torch.float32) for points in (predicted, true)]
        exact = [points.double().numpy() for points in single]
        close(
            mpjpe(*single, 0), mean_mm(exact[0] - exact[0][:, :1], exact[1] - exact[1][:, :1]), 1e-8
        )
        close(
            pa_mpjpe(*single),
            [mean_mm(aligned(a, b), b) for a, b in zip(*exact, strict=True)],
            1e-8,
        )


def f_by_tree(predicted, true, threshold):
    to_true, to_predicted = cKDTree(true).query(predicted)[0], cKDTree(predicted).query(true)[0]
    precision, recall = (to_true < threshold).mean(), (to_predicted < threshold).mean()
    return stats.hmean([precision, recall]) if precision and recall else 0.0


def test_f_score_agrees_with_a_tree(monkeypatch):
    # Small parts, so that several are needed.
    monkeypatch.setattr(metrics, "NUMBERS_AT_ONCE", 4 * 300 * 7)
    predicted, true = pair(batch=4, count=300, noise=0.03)
    thresholds = (0.012, 0.03, 0.08)
    expected = np.array(
        [
            [f_by_tree(aligned(a, b), b, limit) for a, b in zip(predicted, true, strict=True)]
            for limit in thresholds
        ]
    )
    assert 0 < expected.min() < 0.2 and 0.8 < expected.max() < 1
    p, t = tensors(predicted, true)
    close(metrics.f_score(p, t, thresholds), expected, 1e-12)
    close(metrics.f_score(p, t, 0.03), expected[1], 1e-12)
    close(metrics.f_score(p.float(), t.float(), 0.03), expected[1], 0.01)


def test_f_score_at_its_ends():
    true = torch.zeros(1, 4, 3, dtype=torch.float64)
    true[0, :, 0] = torch.tensor([0.0, 1, 2, 3])
    close(metrics.f_score(true, true, 0.005), [1])
    # All predicted vertices in one place: the alignment puts them at the mean, 1.5, half a metre
    # from two true ones.
    one = torch.zeros_like(true)
    close(metrics.f_score(one, true, (0.4, 0.6)), [[0], [2 * 1 * 0.5 / 1.5]])
    # A distance equal to the threshold does not count.
    close(metrics.f_score(one, true, 0.5), [0])


def test_iou_counts_pixels():
    a, b = torch.zeros(4, 5, 7, dtype=torch.bool), torch.zeros(4, 5, 7, dtype=torch.bool)
    a[0, :2, :3], b[0, 1:3, :3] = True, True  # 6 and 6 pixels, 3 in both
    a[1, 0, 0] = True
    a[2], b[2] = True, True
    close(metrics.iou(a, b), [3 / 9, 0, 1, 0])
    close(metrics.iou(b, a), [3 / 9, 0, 1, 0])
    for bad in (b.float(), b[:, :4], b[0]):
        with pytest.raises(ValueError, match="bool"):
            metrics.iou(a, bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_stops(bad):
    predicted, true = tensors(*pair())
    broken = predicted.clone()
    broken[4, 20, 2] = bad
    for call in (
        lambda p, t: mpjpe(p, t, 0),
        pa_mpjpe,
        metrics.pa_pve_plain,
        lambda p, t: metrics.f_score(p, t, 1),
        lambda p, t: metrics.pa_pve(p, t, torch.ones(p.shape[:2])),
        lambda p, t: metrics.pve(p, t, p[:, 0], t[:, 0], torch.ones(p.shape[:2])),
        lambda p, t: metrics.pve_plain(p, t, p[:, 0], t[:, 0]),
    ):
        with pytest.raises(UserError, match="predicted points: 1 of 6 crops.*number 4"):
            call(broken, true)
        with pytest.raises(UserError, match="true points"):
            call(true, broken)
    with pytest.raises(UserError, match="predicted points"):
        metrics.pve_plain(predicted, true, broken[:, 20], true[:, 0])


def test_shapes_do_not_broadcast():
    predicted, true = tensors(*pair())
    for a, b in (
        (predicted[:1], true),
        (predicted[:, :1], true),
        (predicted[0], true[0]),
        (predicted[:, :0], true[:, :0]),
    ):
        with pytest.raises(ValueError, match="shape"):
            mpjpe(a, b, 0)
    assert pa_mpjpe(predicted[:0], true[:0]).shape == (0,)


def test_bootstrap_agrees_with_scipy_on_single_crops():
    values = np.random.default_rng(0).gamma(4, 10, 120)
    mean, low, high = metrics.bootstrap(values, np.arange(120), draws=20000)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20000,
        method="percentile",
        random_state=np.random.default_rng(1),
    ).confidence_interval
    assert mean == pytest.approx(values.mean(), abs=1e-12)
    np.testing.assert_allclose(
        (low, high), theirs, atol=0.2
    )  # the bounds are 7 apart; both are drawn


def test_bootstrap_draws_whole_groups():
    random = np.random.default_rng(1)
    sizes = random.integers(1, 12, 60)
    groups = np.repeat([f"clip-{i}" for i in range(60)], sizes)
    values = np.repeat(random.gamma(4, 10, 60), sizes) + random.normal(size=sizes.sum())
    order = random.permutation(len(values))
    mean, low, high = metrics.bootstrap(values[order], groups[order], draws=20000)
    sums = np.array([values[groups == f"clip-{i}"].sum() for i in range(60)])
    theirs = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20000,
        method="percentile",
        random_state=np.random.default_rng(1),
    ).confidence_interval
    assert mean == pytest.approx(values.mean())
    np.testing.assert_allclose((low, high), theirs, atol=0.4)
    alone = metrics.bootstrap(values, np.arange(len(values)))
    assert high - low > 2 * (alone[2] - alone[1])


def test_bootstrap_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(2)
    held = 0
    for trial in range(300):
        clip = random.normal(size=40)
        values = 50 + np.repeat(clip, 5) + random.normal(size=200)
        _, low, high = metrics.bootstrap(values, np.repeat(np.arange(40), 5), draws=400, seed=trial)
        held += low <= 50 <= high
    assert 0.89 < held / 300 < 0.98  # resampling crops one by one holds it in 74 %


def test_bootstrap_is_repeatable_and_does_not_depend_on_its_parts(monkeypatch):
    values, groups = np.random.default_rng(0).normal(size=90), np.arange(90) // 3
    first = metrics.bootstrap(values, groups)
    assert metrics.bootstrap(values, groups) == first != metrics.bootstrap(values, groups, seed=1)
    monkeypatch.setattr(metrics, "NUMBERS_AT_ONCE", 30 * 7)
    np.testing.assert_allclose(metrics.bootstrap(values, groups), first, rtol=1e-12)


def test_bootstrap_of_little():
    mean, low, high = metrics.bootstrap([1.0, 2.0, 6.0], [5, 5, 5])
    assert mean == 3 and np.isnan(low) and np.isnan(high)
    assert metrics.bootstrap([2.0, 2.0], [0, 1]) == (2, 2, 2)
    for values in ([], [1.0, float("nan")], [float("inf"), 2.0]):
        with pytest.raises(UserError, match=f"no mean of {len(values)} values"):
            metrics.bootstrap(values, np.arange(len(values)))
    with pytest.raises(ValueError, match="groups of shape"):
        metrics.bootstrap([1.0, 2.0], [0])


def per_crop(change, clips=40, crops=4):
    """Rows as evaluate makes them; ``change`` {metric: this run minus without pre-training, mm or
    share}."""
    random, count = np.random.default_rng(0), clips * crops
    base = {
        metric: random.gamma(4, 15, count) if unit else random.uniform(0.4, 0.8, count)
        for metric, (_, unit, _) in metrics.METRICS.items()
        if metric in change
    }
    model = {
        metric: values + change[metric] * (1 + 0.2 * random.normal(size=count))
        for metric, values in base.items()
    }
    return {"scratch": base, "model": model}, np.arange(count) // crops


def test_summary_is_what_the_file_holds():
    rows, clips = per_crop({"mpjpe": -3.0, "iou": 0.02})
    rows["mean"] = {"mpjpe": rows["scratch"]["mpjpe"] + 40}
    found, differences = metrics.summarise(rows, clips)
    assert [(row["key"], row["name"]) for row in found] == [
        ("model", "this run"),
        ("scratch", "without pre-training"),
        ("mean", "mean pose"),
    ]
    assert [list(row["values"]) for row in found] == [["mpjpe", "iou"], ["mpjpe", "iou"], ["mpjpe"]]
    for row in found:
        for metric, value in row["values"].items():
            assert (value["mean"], value["low"], value["high"]) == metrics.bootstrap(
                rows[row["key"]][metric], clips
            )
    paired = metrics.bootstrap(rows["model"]["mpjpe"] - rows["scratch"]["mpjpe"], clips)
    assert tuple(differences["mpjpe"].values()) == paired and paired[2] < -2
    # Paired: far narrower than the rows' own intervals, which overlap.
    assert found[0]["values"]["mpjpe"]["high"] > found[1]["values"]["mpjpe"]["low"]
    assert json.loads(json.dumps([found, differences], allow_nan=False)) == [found, differences]


def test_summary_of_one_clip_and_of_one_row():
    rows, clips = per_crop({"mpjpe": -3.0}, clips=1)
    found, differences = metrics.summarise(rows, clips)
    assert found[0]["values"]["mpjpe"]["low"] is None and differences["mpjpe"]["high"] is None
    assert json.loads(json.dumps(differences, allow_nan=False))["mpjpe"]["low"] is None
    assert metrics.summarise({"model": rows["model"]}, clips)[1] == {}


def test_summary_refuses_by_name():
    rows, clips = per_crop({"mpjpe": -3.0, "iou": 0.0})
    rows["scratch"]["iou"][3] = float("nan")
    with pytest.raises(UserError, match="^scratch/iou: no mean of 160 values of which 1"):
        metrics.summarise(rows, clips)
    with pytest.raises(ValueError, match="^model/mpjpe: values of shape"):
        metrics.summarise({"model": {"mpjpe": [1.0]}}, clips)
    with pytest.raises(ValueError, match="^best, mpvpe: rows are"):
        metrics.summarise({"best": {"mpvpe": [1.0]}}, [0])


def test_columns():
    assert [column["key"] for column in metrics.columns("body")] == [
        "mpjpe",
        "pa_mpjpe",
        "pve",
        "pve_plain",
        "pa_pve",
        "pa_pve_plain",
        "iou",
    ]
    assert [column["key"] for column in metrics.columns("hand")] == [
        "mpjpe",
        "pa_mpjpe",
        "pve",
        "pve_plain",
        "pa_pve",
        "pa_pve_plain",
        "f5",
        "f15",
        "iou",
    ]
    assert {
        column["key"]: (column["unit"], column["better"]) for column in metrics.columns("hand")
    }["f5"] == ("", "higher")


def value(mean, low, high):
    return {"mean": mean, "low": low, "high": high}


def evaluation(differences, kind="body", clips=100):
    rows = [
        ("model", "this run", 61.23, 0.7),
        ("scratch", "without pre-training", 64.4, 0.71),
        ("turned", "mean pose, rotated", 61.2, 0.5),
        ("mean", "a|b", 180.0, 0.2),
    ]
    return {
        "kind": kind,
        "clips": clips,
        "crops": 1200,
        "differences": differences,
        "metrics": [m for m in metrics.columns(kind) if m["key"] in ("pa_mpjpe", "iou")],
        "rows": [
            {
                "key": key,
                "name": name,
                "values": {
                    "pa_mpjpe": value(mm, mm - 2, mm + 2),
                    "iou": value(share, share - 0.01, share + 0.01),
                },
            }
            for key, name, mm, share in rows
        ],
    }


def test_table():
    shown = evaluation({})
    del shown["rows"][3]["values"]["iou"]
    shown["rows"][2]["values"]["iou"] = value(0.5, None, None)
    assert tables.table(shown) == "\n".join(
        [
            "|                      | PA-MPJPE (mm)         | IoU                      |",
            "| -------------------- | --------------------- | ------------------------ |",
            "| this run             | **61.2** [59.2, 63.2] | 0.700 [0.690, 0.710]     |",
            "| without pre-training | 64.4 [62.4, 66.4]     | **0.710** [0.700, 0.720] |",
            "| mean pose, rotated   | **61.2** [59.2, 63.2] | 0.500 [no interval]      |",
            "| a\\|b                 | 180.0 [178.0, 182.0]  | -                        |",
        ]
    )


def test_sentences_of_a_win_a_loss_and_neither():
    win, loss, neither = (
        value(-3.14, -5.0, -1.2),
        value(-0.0123, -0.02, -0.004),
        value(-0.4, -1.2, 0.5),
    )

    def said(differences):
        return [
            text
            for text in tables.sentences(evaluation(differences), True)
            if "re-training" in text and not text.startswith(("Differences", "The best"))
        ]

    assert said({"pa_mpjpe": win, "iou": loss}) == [
        "Pre-training wins in PA-MPJPE (-3.1 mm [-5.0, -1.2]): the interval excludes zero.",
        "Pre-training loses in IoU (-0.012 [-0.020, -0.004]): the interval excludes zero.",
    ]
    assert said({"pa_mpjpe": neither, "iou": value(-0.0001, -0.01, 0.01)}) == [
        "No significant difference by pre-training in PA-MPJPE (-0.4 mm [-1.2, +0.5]) and IoU "
        "(+0.000 [-0.010, +0.010]): each interval includes zero."
    ]
    assert said({"pa_mpjpe": value(2.0, 0.012, 4.0), "iou": value(0.02, 0.01, 0.03)}) == [
        "Pre-training wins in IoU (+0.020 [+0.010, +0.030]): the interval excludes zero.",
        "Pre-training loses in PA-MPJPE (+2.00 mm [+0.01, +4.00]): the interval excludes zero.",
    ]
    assert said({"pa_mpjpe": value(-3.0, None, None)}) == [
        "No significant difference by pre-training in PA-MPJPE (-3.0 mm [no interval]): there is "
        "no interval."
    ]
    assert said({}) == [
        "There is no row without pre-training: this table does not show what pre-training gives. "
        "This run is "
        "one training run with one seed."
    ]


@pytest.mark.parametrize(
    ("low", "high", "better", "expected"),
    [
        (-2, -1, "lower", "wins"),
        (1, 2, "lower", "loses"),
        (1, 2, "higher", "wins"),
        (-2, -1, "higher", "loses"),
        (-1, 1, "lower", "not significant"),
        (0, 2, "higher", "not significant"),
        (-2, 0, "lower", "not significant"),
        (None, None, "lower", "not significant"),
    ],
)
def test_verdicts(low, high, better, expected):
    assert tables.verdict(value(0.0, low, high), better) == expected


def test_sentences_on_what_is_measured():
    body = tables.sentences(evaluation({"iou": value(0.0, -1.0, 1.0)}), True)
    assert body[0] == (
        "1,200 crops of 100 test clips; each value is the mean over the crops. In brackets: "
        "its 95 % "
        "interval, from 2,000 draws of whole clips, because the crops of one clip are alike."
    )
    text = " ".join(body)
    for part in (
        "one training run with one seed",
        "'mean pose, rotated' is a fixed pose and shape with the root's true",
        "'a|b' is a fixed pose, shape and orientation: it knows nothing of the image",
        "not real people",
        "mask of the person, which includes clothes",
        "even the true mesh does not reach 1",
        "pelvis",
        "The best IoU in the table is not of this run but of 'without pre-training'.",
    ):
        assert part in text
    assert "The best PA-MPJPE" not in text
    hand = " ".join(tables.sentences(evaluation({}, "hand", clips=12), False))
    assert (
        "With fewer than 30 clips" in hand
        and "wrist" in hand
        and "silhouette with that of the true mesh" in hand
    )
    assert "clothes" not in hand and "synthetic humans" not in hand
    assert "12 test clips" in hand
    one = tables.sentences(evaluation({}, clips=1), True)[0]
    assert "1 test clip;" in one and "One clip gives no interval" in one and "draws" not in one
