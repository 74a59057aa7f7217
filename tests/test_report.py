"""The report page: it needs no other file, shows the numbers as they are, and survives what is
missing or hostile."""

import base64
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from clips import make_clip, write_shards
from PIL import Image

from engine.errors import UserError
from finetune.evaluation import tables
from finetune.evaluation.tables import LEAK
from finetune.page import curves, numbers
from finetune.page.folder import read_evaluation, read_folder
from finetune.page.images import MOST_STEPS, choose_steps
from finetune.page.meshes import pack_faces, pack_vertices
from finetune.report import main, render_page

VOID = {"meta", "link", "img", "input", "br", "hr"}
LOADING = {
    "src",
    "href",
    "xlink:href",
    "srcset",
    "poster",
    "action",
    "data",
    "background",
    "formaction",
    "ping",
    "cite",
}
METRICS = [
    ("mpjpe", "MPJPE", "mm", "lower"),
    ("pa_mpjpe", "PA-MPJPE", "mm", "lower"),
    ("f5", "F@5 mm", "", "higher"),
    ("iou", "IoU", "", "higher"),
]
MEANS = {
    "model": (91.34, 61.27, 0.4126, 0.7031),
    "scratch": (99.9, 70.04, 0.3561, 0.6512),
    "mean": (180.06, 118.22, 0.1, 0.3333),
}
NAMES = {"model": "this run", "scratch": "without pre-training", "mean": "mean pose"}


class Page(HTMLParser):
    """A page's elements [(tag, attributes)], its text outside of scripts and styles, and the
    scripts; fails on bad nesting."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words, self.scripts, self.styles = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        place = {"script": self.scripts, "style": self.styles}.get(
            self.open[-1] if self.open else "", self.words
        )
        place.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def evaluation(kind="body", examples=3):
    metrics = [
        dict(zip(("key", "name", "unit", "better"), metric, strict=True)) for metric in METRICS
    ]
    rows = []
    for key, means in MEANS.items():
        values = {
            m[0]: {"mean": v, "low": v * 0.9, "high": v * 1.1}
            for m, v in zip(METRICS, means, strict=True)
        }
        rows.append({"key": key, "name": NAMES[key], "values": values})
    differences = {
        "mpjpe": {"mean": -8.56, "low": -12.0, "high": -4.0},
        "pa_mpjpe": {"mean": 3.0, "low": 1.5, "high": 4.5},
        "f5": {"mean": 0.0565, "low": -0.01, "high": 0.1},
        "iou": {"mean": 0.0519, "low": 0.02, "high": 0.08},
    }
    shown = [
        {
            "rank": rank,
            "name": f"{rank}-1",
            "pa_mpjpe": 30.04 + i,
            "mpjpe": 40.06 + i,
            "iou": 0.8125 - i / 8,
            "sheet": f"images/{rank}-1.png",
            "mesh": 2 - i,
        }
        for i, rank in enumerate(("best", "median", "worst")[:examples])
    ]
    return {
        "format": 1,
        "kind": kind,
        "run": f"runs/finetune_{kind}",
        "step": 1500,
        "clips": 100,
        "crops": 600,
        "command": f"python -m finetune evaluate runs/finetune_{kind}",
        "machine": "2 cores of a test",
        "date": "2026-01-02",
        "metrics": metrics,
        "rows": rows,
        "differences": differences,
        "notes": ["A note."],
        "examples": shown,
    }


def write_evaluation(run, content, vertices=40, seed=0):
    folder = run / "evaluation"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(content))
    random = np.random.default_rng(seed)
    meshes = {
        name: random.normal([0, 0, 3], [0.3, 0.8, 0.2], (3, vertices, 3)).astype(np.float32)
        for name in ("predicted", "true")
    }
    faces = random.integers(0, vertices, (60, 3)).astype(np.int32)
    np.savez(folder / "meshes.npz", **meshes, faces=faces, names=np.array(["a", "b", "c"]))
    np.savez(
        folder / "per_crop.npz", **{"model/iou": np.array([0.1, 0.6521, 0.9]), "clip": np.arange(3)}
    )
    for example in content["examples"]:
        Image.new("RGB", (40, 20), "navy").save(folder / example["sheet"])
    return {**meshes, "faces": faces}


def write_run(folder, name, command, log, config=""):
    run = folder / name
    run.mkdir()
    (run / "config.yaml").write_text(f"command: {command}\nsteps: 40\n{config}")
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return run


def write_pretraining(folder, name="pretrain_body", images=8):
    log = [
        {
            "step": s,
            "loss/cross_view": 1 / s,
            "loss/cross_pose": 2 / s,
            "val/cross_view": 3 / s,
        }
        for s in (10, 20, 40)
    ]
    run = write_run(folder, name, "pretrain train", log, "objective:\n  target: image\n")
    (run / "images").mkdir()
    for i in range(images):
        Image.new("RGB", (30, 60), (20 * i, 0, 0)).save(
            run / "images" / f"step-{10 * (i + 1):08d}.png"
        )
    return run


def write_finetuning(folder, name, better=0.0):
    log = [
        {
            "step": s,
            "loss/total": 4 / s,
            "loss/vertices": 1 / s,
            "val/mpjpe": 900 / s - better,
            "val/pa_mpjpe": 700 / s - better,
        }
        for s in (10, 20, 40)
    ]
    return write_run(folder, name, "finetune train", log)


@pytest.fixture
def demo(tmp_path):
    folder = tmp_path / "demo"
    (folder / "people_body").mkdir(parents=True)
    write_shards(folder / "people_body", [make_clip(i) for i in range(6)], 3)
    (folder / "people_body" / "made.yaml").write_text("seed: 0\n")
    write_pretraining(folder)
    write_evaluation(write_finetuning(folder, "finetune_body", better=2), evaluation())
    write_finetuning(folder, "finetune_body_scratch")
    lines = [
        {"stage": "synthetic humans", "command": "python -m data make x out=y", "seconds": 118.25},
        {"stage": "training", "command": "python -m pretrain train z", "seconds": 571.0},
    ]
    (folder / "times.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def shown(folder):
    return Page(render_page(read_folder(folder), 1, 0))


def test_the_page_is_one_file_that_loads_nothing(demo, capsys):
    assert main([str(demo)]) == 0
    text = (demo / "report.html").read_text(encoding="utf-8")
    assert "report.html" in capsys.readouterr().out and not list(demo.glob("*.writing*"))
    found = Page(text)
    for tag, attributes in found.elements:
        for name in LOADING & set(attributes):
            assert attributes[name].startswith(("data:", "#")), (tag, name, attributes[name][:80])
        assert not any(name.startswith("on") for name in attributes), tag
    assert not found.all("iframe") and "default-src 'none'" in text
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|import|importScripts|WebSocket)\s*\(", "".join(found.scripts)
    )
    names = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(names) == len(set(names))
    links = {attributes["href"][1:] for attributes in found.all("a")}
    assert (
        links <= set(names)
        and {"pairs", "completions", "curves", "tables", "meshes", "times", "notes"} <= links
    )


def test_images_are_whole(demo):
    (demo / "treadmill").mkdir()
    write_shards(demo / "treadmill", [make_clip(7)], 3)
    found = shown(demo)
    images = [image for image in found.all("img") if "src" in image]
    assert (
        len(images) == 2 + MOST_STEPS + 3
    )  # two contact sheets, steps, examples; the enlarged image has no source yet
    for image in images:
        data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"), validate=True)
        assert data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9"
        assert image["alt"] and int(image["width"]) > 0 and int(image["height"]) > 0
    assert re.search("Synthetic humans.*people_body.*Real takes.*treadmill", found.text)


def test_numbers_of_the_evaluation_stand_in_the_page(demo):
    text = shown(demo).text
    for words in (
        "91.3 [82.2, 100.5]",
        "61.3 [55.1, 67.4]",
        "0.413 [0.371, 0.454]",
        "0.703 [0.633, 0.773]",
        "70.0 [63.0, 77.0]",
        "118.2 [106.4, 130.0]",
        "this run",
        "without pre-training",
        "mean pose",
        "MPJPE (mm) ↓",
        "F@5 mm ↑",
    ):
        assert words in text, words
    for words in (
        "−8.6 [−12.0, −4.0] wins",
        "+3.0 [+1.5, +4.5] loses",
        "+0.057 [−0.010, +0.100] not significant",
        "+0.052 [+0.020, +0.080] wins",
    ):
        assert words in text, words
    head = text[text.index("From synthetic humans") : text.index("What pre-training reads")]
    assert (
        "61.3 mm PA-MPJPE" in head
        and "118.2 mm the mean pose's (−48 %)" in head
        and "0.65 median IoU" in head
    )
    assert "600 validation images of 100 clips" in head and "2 cores of a test" in head
    for name, pa, error, overlap in (
        ("best-1", "30.0", "40.1", "0.812"),
        ("worst-1", "32.0", "42.1", "0.562"),
    ):
        assert f"{name} PA-MPJPE {pa} mm, MPJPE {error} mm, IoU {overlap}" in text
    assert "A note." in text and "python -m finetune evaluate runs/finetune_body" in text


def test_best_numbers_and_marks_follow_the_direction_of_a_metric(demo):
    table = numbers.make_table(read_evaluation(demo / "finetune_body" / "evaluation"))
    assert [[cell["best"] for cell in row["cells"]] for row in table["rows"]] == [
        [True] * 4,
        [False] * 4,
        [False] * 4,
    ]
    cell = table["rows"][0]["cells"][0]
    top = 180.06 * 1.1
    np.testing.assert_allclose(
        [cell["dot"], cell["left"], cell["width"]],
        [100 * 91.34 / top, 90 * 91.34 / top, 20 * 91.34 / top],
        atol=0.01,
    )
    np.testing.assert_allclose(table["rows"][0]["cells"][3]["dot"], 70.31)


def test_an_interval_that_is_not_defined_is_said_so(demo):
    content = evaluation()
    for values in [row["values"] for row in content["rows"]] + [content["differences"]]:
        for value in values.values():
            value["low"] = value["high"] = None
    write_evaluation(demo / "finetune_body", content)
    text = shown(demo).text
    assert (
        "91.3 99.9" not in text
        and "91.3 [" not in text
        and "−8.6 no interval not significant" in text
    )


def decoded(packed):
    codes = np.frombuffer(base64.b64decode(packed["data"]), "<u2").reshape(-1, 3)
    return np.array(packed["origin"]) + np.array(packed["step"]) * codes


def test_meshes_decode_to_within_the_step_of_their_grid(demo):
    truth = write_evaluation(demo / "finetune_body", evaluation())
    found = shown(demo)
    data = next(json.loads(text) for text in found.scripts if text.lstrip().startswith("{"))
    faces = data["meshes"]["faces"]
    assert faces["bits"] == 16
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(faces["data"]), "<u2").reshape(-1, 3), truth["faces"]
    )
    for row, example in zip(
        (2, 1, 0), data["meshes"]["examples"], strict=True
    ):  # evaluation() lists them backwards
        for name in ("predicted", "true"):
            exact = truth[name][row].astype(np.float64)
            step = np.ptp(exact, axis=0) / 65535
            np.testing.assert_allclose(example[name]["step"], step, rtol=1e-12)
            assert (np.abs(decoded(example[name]) - exact) <= 0.5001 * step).all()
            assert step.max() < 1e-4  # metres
    assert data["facts"][0] == {"pa": "30.0 mm", "error": "40.1 mm", "overlap": "0.812"}


def test_flat_and_large_meshes_are_packed():
    flat = np.array([[1.0, 2.0, 3.0], [1.5, 2.0, 3.0]], np.float32)
    np.testing.assert_allclose(decoded(pack_vertices(flat)), flat, atol=1e-12)
    faces = np.array([[0, 1, 70000]])
    packed = pack_faces(faces, 70001)
    assert packed["bits"] == 32
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(packed["data"]), "<u4"), faces[0])
    assert pack_faces(faces[:, :2], 65536)["bits"] == 16


HOSTILE = "x<img src=x onerror=alert(1)><!--&amp;'\"{{ 7 * 7 }}_body"
BREAKOUT = "</script></style></code><script>alert(2)</script><b>"


def test_what_is_not_known_of_the_weights_stands_above_the_numbers(demo):
    content = evaluation()
    assert "Warning" not in shown(demo).text and "leakage" not in shown(demo).text
    content["warnings"] = ["What it saw is unknown."]
    content["rows"][0]["name"] += f" ({LEAK})"
    write_evaluation(demo / "finetune_body", content)
    text = shown(demo).text
    assert f"PA-MPJPE ({LEAK})" in text and f"this run ({LEAK})" in text
    assert text.index("Warning: What it saw is unknown.") < text.index(f"this run ({LEAK})")
    table = tables.table(content).splitlines()
    assert table[0] == "**Warning: What it saw is unknown.**" and f"this run ({LEAK})" in "\n".join(
        table
    )
    del content["warnings"]
    assert tables.table(content).startswith("|")  # of an evaluation of before there were any


def test_hostile_names_stay_text(demo):
    plain = shown(demo)
    content = evaluation()
    for part in ("command", "machine", "date", "run"):
        content[part] = BREAKOUT
    content["notes"] = content["warnings"] = [BREAKOUT]
    content["rows"][1]["name"] = content["metrics"][2]["name"] = content["metrics"][2]["unit"] = (
        BREAKOUT
    )
    for example in content["examples"]:
        example["name"] = BREAKOUT
    (demo / "finetune_body").rename(demo / HOSTILE)
    (demo / "finetune_body_scratch").rename(demo / f"{HOSTILE}_scratch")
    (demo / "pretrain_body").rename(demo / f"pretrain{HOSTILE}")
    (demo / "people_body").rename(demo / f"people{HOSTILE}")
    write_evaluation(demo / HOSTILE, content)
    (demo / "times.jsonl").write_text(
        json.dumps({"stage": BREAKOUT, "command": BREAKOUT, "seconds": 1}) + "\n"
    )
    found = shown(demo)
    assert len(found.all("script")) == len(plain.all("script")) and len(found.all("img")) == len(
        plain.all("img")
    )
    assert all("onerror" not in attributes for _, attributes in found.elements)
    assert found.text.count(BREAKOUT) > 10 and HOSTILE in found.text and "{{ 7 * 7 }}" in found.text
    assert json.loads(next(text for text in found.scripts if text.lstrip().startswith("{")))[
        "facts"
    ]


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda c: "{", "evaluation.json: not JSON"),
        (lambda c: "[]", "the whole is .*, not an object"),
        (lambda c: {**c, "format": 2}, "has format 2, this version reads up to 1"),
        (lambda c: {k: v for k, v in c.items() if k != "rows"}, "'rows' is missing"),
        (lambda c: {**c, "clips": "many"}, "'clips' is \"many\", not a whole number"),
        (lambda c: {**c, "clips": True}, "'clips' is true, not a whole number"),
        (lambda c: {**c, "kind": "foot"}, "'kind' is 'foot', not body or hand"),
        (lambda c: {**c, "notes": "text"}, "'notes' is \"text\", not a list"),
        (lambda c: {**c, "warnings": [7]}, r"'warnings\[0\]' is 7, not text"),
        (lambda c: {**c, "rows": c["rows"][:2]}, "no 'pa_mpjpe' of a row 'mean'"),
        (lambda c: {**c, "metrics": c["metrics"][:1]}, "no 'pa_mpjpe' of a row 'model'"),
        (
            lambda c: {
                **c,
                "rows": [{**c["rows"][0], "values": {"iou": {"mean": None, "low": 0, "high": 1}}}],
            },
            r"'rows\[0\].values.iou.mean' is null, not a number",
        ),
        (
            lambda c: {**c, "differences": {"iou": {"mean": 1.0, "low": 0}}},
            "'differences.iou.high' is missing",
        ),
        (
            lambda c: {**c, "examples": [{**c["examples"][0], "mesh": 1.5}]},
            r"'examples\[0\].mesh' is 1.5, not a whole number",
        ),
    ],
)
def test_a_broken_evaluation_is_named(demo, change, words):
    changed = change(evaluation())
    path = demo / "finetune_body" / "evaluation" / "evaluation.json"
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(UserError, match=words) as error:
        main([str(demo)])
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not (demo / "report.html").exists()


@pytest.mark.parametrize(
    "spoil,words",
    [
        (lambda f: (f / "meshes.npz").write_bytes(b"text"), "meshes.npz is not the archive"),
        (
            lambda f: np.savez(f / "meshes.npz", predicted=np.zeros((1, 4, 3))),
            "meshes.npz is not the archive",
        ),
        (
            lambda f: np.savez(
                f / "meshes.npz",
                predicted=np.zeros((1, 4, 3)),
                true=np.zeros((1, 5, 3)),
                faces=np.zeros((1, 3)),
            ),
            r"'predicted' is \(1, 4, 3\) and 'true' \(1, 5, 3\)",
        ),
        (
            lambda f: np.savez(
                f / "meshes.npz",
                predicted=np.zeros((3, 4, 3)),
                true=np.zeros((3, 4, 3)),
                faces=np.full((1, 3), 4),
            ),
            r"'faces' \(1, 3\) must be \(F, 3\) numbers of 4 vertices",
        ),
        (
            lambda f: np.savez(
                f / "meshes.npz",
                predicted=np.zeros((1, 4, 3)),
                true=np.zeros((1, 4, 3)),
                faces=np.zeros((1, 3), int),
            ),
            "holds 1 meshes, but evaluation.json's best-1 names row 2",
        ),
        (
            lambda f: np.savez(
                f / "meshes.npz",
                predicted=np.full((3, 4, 3), np.nan),
                true=np.zeros((3, 4, 3)),
                faces=np.zeros((1, 3), int),
            ),
            "row 2 .* not finite",
        ),
        (
            lambda f: np.savez(f / "per_crop.npz", clip=np.zeros(3)),
            "per_crop.npz is not the archive",
        ),
        (
            lambda f: (f / "images" / "best-1.png").write_bytes(b"text"),
            "best-1.png is not an image",
        ),
        (
            lambda f: (f.parent / "log.jsonl").write_text('{"step": 1}\n{"step"\n{"step": 3}\n'),
            "log.jsonl, line 2: not JSON",
        ),
        (
            lambda f: (f.parent / "log.jsonl").write_text('{"loss/total": 1}\n'),
            "log.jsonl, line 1: 'step' is missing",
        ),
        (
            lambda f: (f.parent / "config.yaml").write_text("command: [\n"),
            "config.yaml is not a YAML config",
        ),
        (
            lambda f: (f.parent.parent / "times.jsonl").write_text(
                '{"stage": "a", "command": "b", "seconds": "c"}\n'
            ),
            "times.jsonl, line 1: 'seconds' is \"c\", not a number",
        ),
    ],
)
def test_broken_files_are_named(demo, spoil, words):
    spoil(demo / "finetune_body" / "evaluation")
    with pytest.raises(UserError, match=words) as error:
        render_page(read_folder(demo), 1, 0)
    assert str(demo) in str(error.value)


def test_what_is_missing_is_said_with_its_command(tmp_path):
    (tmp_path / "times.jsonl").write_text('{"stage": "a", "command": "b", "seconds": 2}\n')
    text = shown(tmp_path).text
    for words in (
        f"python -m data make people_body_easy out={tmp_path}/people_body",
        f"python -m pretrain train demo_hand run={tmp_path}/pretrain_hand "
        f"data.shards={tmp_path}/people_hand",
        f"run={tmp_path}/finetune_body init={tmp_path}/pretrain_body",
        f"python -m finetune evaluate {tmp_path}/finetune_hand",
        "No evaluation yet",
    ):
        assert words in text, words
    write_finetuning(tmp_path, "finetune_hand")
    (tmp_path / "times.jsonl").unlink()
    text = shown(tmp_path).text
    assert (
        "make demo" in text
        and "No fine-tuning on hands." not in text
        and "No fine-tuning on bodies." in text
    )
    assert f"run={tmp_path}/finetune_hand_scratch init=" in text


def test_parts_of_an_evaluation_may_be_missing(demo):
    content = evaluation()
    del content["differences"], content["rows"][1]
    write_evaluation(demo / "finetune_body", content)
    for name in ("meshes.npz", "per_crop.npz", "images/median-1.png"):
        (demo / "finetune_body" / "evaluation" / name).unlink()
    found = shown(demo)
    assert (
        "Images that are missing: images/median-1.png." in found.text
        and "Its meshes.npz is missing" in found.text
    )
    assert (
        "0.70 mean IoU" in found.text
        and "minus without pre-training" not in found.text
        and not found.all("canvas")
    )
    content["examples"] = []
    write_evaluation(demo / "finetune_body", content)
    assert not shown(demo).all("canvas")


def test_the_command_refuses_what_it_cannot_do(demo, tmp_path):
    for arguments, words in (
        ([str(tmp_path / "no")], "no does not exist"),
        ([str(demo / "times.jsonl")], "is no folder"),
        ([str(demo), str(tmp_path)], "takes one folder, not"),
        ([], "name at least one path"),
        ([str(demo), "out=page.png"], "does not end in .html"),
        ([str(demo), "rows=0"], "below 1"),
        ([str(demo), f"out={tmp_path}/no/page.html"], "cannot be written: no such file"),
    ):
        with pytest.raises(UserError, match=words):
            main(arguments)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nothing to report"):
        main([str(tmp_path / "empty")])


def test_a_log_that_a_kill_cut_is_read_to_its_last_whole_line(tmp_path):
    run = write_finetuning(tmp_path, "finetune_body")
    with open(run / "log.jsonl", "a") as file:
        file.write('{"step": 50, "loss/to')
    assert [line["step"] for line in read_folder(tmp_path).runs[0].log] == [10, 20, 40]


def test_steps_shown_are_spread_and_hold_first_and_last(tmp_path):
    run = write_pretraining(tmp_path, images=40)
    (run / "images" / "step-latest.png").write_bytes(b"no step")
    chosen = choose_steps(read_folder(tmp_path).runs[0].images)
    steps = [step["step"] for step in chosen]
    assert len(steps) == MOST_STEPS and steps[0] == 10 and steps[-1] == 400
    assert (
        max(np.diff(steps)) - min(np.diff(steps)) <= 10
    )  # of 40 images 10 steps apart: even to one image
    assert [step["key"] for step in chosen] == [True, False, False, True, False, True]
    (run / "images" / "step-latest.png").unlink()
    for path in sorted((run / "images").iterdir())[1:]:
        path.unlink()
    assert [
        (step["step"], step["key"]) for step in choose_steps(read_folder(tmp_path).runs[0].images)
    ] == [(10, True)]


def drawn(svg):
    """Pixel coordinates of every curve of a chart, told by its colour."""
    tree = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    found = {}
    for path in tree.iter("path"):
        colour = re.search(r"stroke: (#\w+)", path.get("style", ""))
        if colour and path.get("clip-path"):
            found.setdefault(colour[1], []).append(
                np.array(re.findall(r"[-\d.]+", path.get("d")), float).reshape(-1, 2)
            )
    return found


def test_curves_lie_where_the_log_says(tmp_path):
    for name, better in (("finetune_body", 20.0), ("finetune_body_scratch", 0.0)):
        write_finetuning(tmp_path, name, better)
    runs = read_folder(tmp_path).runs
    chart = curves.draw_validation(runs, "val/pa_mpjpe", "PA-MPJPE")
    assert [line.words for line in chart.lines] == ["with pre-training", "without pre-training"]
    steps, pixels, values = np.array([10, 20, 40.0]), [], []
    for colour, better in ((curves.WITH, 20.0), (curves.WITHOUT, 0.0)):
        curve = next(c for c in drawn(chart.svg)[colour] if len(c) == 3)
        np.testing.assert_allclose(
            np.diff(curve[:, 0]) / np.diff(steps), (curve[2, 0] - curve[0, 0]) / 30, rtol=1e-4
        )
        pixels, values = [*pixels, *curve[:, 1]], [*values, *(700 / steps - better)]
    scale, offset = np.polyfit(values, pixels, 1)  # one linear axis for both curves
    assert scale < 0
    np.testing.assert_allclose(np.polyval([scale, offset], values), pixels, atol=1e-3)
    assert [
        line.words for line in curves.draw_validation(runs[:1], "val/mpjpe", "MPJPE").lines
    ] == ["finetune_body"]
    assert curves.draw_validation(runs, "val/absent", "MPJPE") is None


def test_curves_leave_out_what_is_no_number_and_logarithms_what_is_not_positive(tmp_path):
    log = [
        {"step": 1, "loss/total": 2.0},
        {"step": 2, "loss/total": float("nan")},
        {"step": 3, "loss/total": 0.0},
    ]
    write_run(tmp_path, "finetune_body", "finetune train", log)
    run = read_folder(tmp_path).runs[0]
    assert curves.points(run, "loss/total") == [(1, 2.0), (3, 0.0)]
    lines = drawn(curves.draw_losses(run).svg)[curves.INK]
    assert any(len(line) == 2 and np.isfinite(line).all() for line in lines)


def test_equal_folders_give_equal_pages(demo):
    one, same, other = (render_page(read_folder(demo), 1, seed) for seed in (0, 0, 1))
    assert one == same != other


def test_times_add_up(demo):
    text = shown(demo).text
    assert (
        "synthetic humans 1 min 58 s 118.2 s" in text
        and "training 9 min 31 s 571.0 s" in text
        and "11 min 29 s 689.2 s" in text
    )
    assert [numbers.format_duration(s) for s in (0.04, 9.99, 59.4, 59.6, 3599.6, 7512)] == [
        "0.0 s",
        "10.0 s",
        "59 s",
        "1 min 00 s",
        "1 h 00 min",
        "2 h 05 min",
    ]
