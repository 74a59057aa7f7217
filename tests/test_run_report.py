"""The page of ``python -m engine report``: it shows what the folders hold, needs no other
file, and names what is broken."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from engine.errors import UserError
from engine.logging import report
from engine.logging.metric_registry import (
    ENGINE_METRICS,
    Companion,
    Group,
    Metric,
    MetricBook,
    read_metrics,
    write_metrics,
)
from engine.logging.page.curves import MOST_POINTS, thinned
from engine.run.run_folder import RunFolder

LOADING = {"src", "href", "xlink:href", "srcset", "poster", "action", "data", "background"}


class Page(HTMLParser):
    """A page's words and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.words, self.loads, self.open = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.loads += [value for name, value in attributes if name in LOADING]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)


BOOK = ENGINE_METRICS.extend(
    MetricBook(
        (
            Group(
                "reference_gain",
                "Reference gain",
                companions=(Companion("_person", "person patches", "solid"),),
                label="all patches",
                look="dashed",
            ),
            Group(
                "probe",
                "3D probe",
                companions=(Companion("_constant", "mean pose", colour="#9aa3b0"),),
            ),
        ),
        (Metric("pa_mpjpe", "PA-MPJPE", "mm", lower_is_better=True),),
    )
)


def write_run(folder, lines, **config):
    folder.mkdir(parents=True)
    write_metrics(folder, BOOK)
    tree = {"command": "pretrain train", "steps": 40, "optim.lr": 0.1} | config
    (folder / "config.yaml").write_text(
        "".join(f"{name}: {value}\n" for name, value in tree.items() if "." not in name)
        + f"optim: {{lr: {tree['optim.lr']}}}\n"
    )
    (folder / "environment.json").write_text(
        json.dumps({"git": "abc1234", "versions": {"torch": "2.15.0"}})
    )
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def lines_of(factor):
    return [
        {
            "step": step,
            "time": 1.8e9,
            "loss/cross_view": factor / step,
            "val/cross_view": 2 * factor / step,
            "reference_gain/cross_view": 0.0,
            "reference_gain/cross_view_person": 0.125,
            "probe/pa_mpjpe": 90.0 - step,
            "probe/pa_mpjpe_constant": 92.0,
            "new_group/thing": 7,
            "pairs": 64 * step,
        }
        for step in (10, 20, 30)
    ]


@pytest.fixture
def runs(tmp_path):
    first = write_run(tmp_path / "x" / "run", lines_of(1.0))
    second = write_run(tmp_path / "y" / "run", lines_of(3.0), seed="<b>5</b>", **{"optim.lr": 0.25})
    (first / "bad_samples.jsonl").write_text('{"slot": 1}\n{"slot": 2}\n')
    (first / "captures").mkdir()
    (first / "captures" / "step-00000003.json").write_text("{}")
    (first / "images").mkdir()
    for name in ("step-00000010", "step-00000030", "attention-00000030"):
        Image.new("RGB", (60, 40), "red" if name.endswith("30") else "blue").save(
            first / "images" / f"{name}.png"
        )
    return [str(first), str(second)]


def test_the_page_shows_what_lies_in_the_folders(runs, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert report.main([*runs, f"out={out}"]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    text = out.read_text()
    page = Page(text)
    assert all(value.startswith(("data:", "#")) for value in page.loads) and "://" not in text
    # Runs of one name differ by their folders.
    for words in (
        "x/run",
        "y/run",
        "step 30 of 40",
        "bad samples: 2",
        "captures: 1",
        "code abc1234",
        "torch 2.15.0",
    ):
        assert words in page.text, words
    assert "seed not set <b>5</b>" in page.text and "optim.lr 0.1 0.25" in page.text
    assert "Reference gain" in page.text and "New group" in page.text
    assert "loss/cross_view 0.03333 at 30 0.1 at 30" in page.text
    assert "x/run, step 30" in page.text and "Attention" in page.text
    assert text.count('<img src="data:image/jpeg') == 2  # the newest of each kind


def test_curves_hold_every_logged_number(runs):
    named = zip(runs, report.names(runs), strict=True)
    seen = [report.read_run(path, name, f"#00000{i}") for i, (path, name) in enumerate(named)]
    chart = report.chart_of(seen, "loss/cross_view")
    assert [(line.words, line.look) for line in chart.lines] == [
        ("x/run, training", "faint"),
        ("x/run, validation", "solid"),
        ("y/run, training", "faint"),
        ("y/run, validation", "solid"),
    ]
    assert (
        chart.lines[2].points == [(10, 0.3), (20, 0.15), (30, 0.1)]
        and chart.lines[2].colour == "#000001"
    )
    assert chart.lines[1].points == [(10, 0.2), (20, 0.1), (30, pytest.approx(1 / 15))]
    probe = report.chart_of(seen[:1], "probe/pa_mpjpe")
    assert [(line.words, line.points[-1]) for line in probe.lines] == [
        ("x/run", (30, 60.0)),
        ("mean pose", (30, 92.0)),
    ]
    gain = report.chart_of(seen[:1], "reference_gain/cross_view")
    assert [(line.words, line.points[0][1]) for line in gain.lines] == [
        ("all patches", 0.0),
        ("person patches", 0.125),
    ]
    assert (probe.title, probe.unit) == ("PA-MPJPE", "mm")
    keys = sorted(name for name in lines_of(1)[0] if "/" in name)
    charts = [chart for group in report._groups(seen, keys) for chart in group["charts"]]
    assert len(charts) == 4  # what is drawn beside another has no chart of its own


def test_a_long_curve_keeps_its_spikes():
    random = np.random.default_rng(0)
    long = [(step, float(value)) for step, value in enumerate(random.normal(size=20_000))]
    long[12_345] = (12_345, 1e6)
    short = thinned(long)
    assert (
        len(short) <= MOST_POINTS
        and (12_345, 1e6) in short
        and min(long, key=lambda p: p[1]) in short
    )
    assert short == sorted(short) and set(short) <= set(long) and thinned(long[:50]) == long[:50]


def test_what_is_broken_or_mistyped_is_named(runs, tmp_path):
    first = tmp_path / "x" / "run"
    for arguments, said in (
        ([str(tmp_path)], "not a run's folder: it has no config.yaml"),
        ([runs[0], runs[0]], "named twice"),
        ([runs[0], "out=page.pdf"], "does not end in .html"),
        ([], "name at least one path"),
        ([runs[0], f"out={tmp_path}/no/page.html"], "cannot be written"),
        ([runs[0], "oout=page.html"], "did you mean 'out'"),
    ):
        with pytest.raises(UserError, match=said):
            report.main(arguments)
    (first / "images" / "step-00000030.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="step-00000030.png is not an image"):
        report.main([runs[0]])
    (first / "environment.json").write_text("{")
    with pytest.raises(UserError, match="environment.json is not JSON"):
        report.main([runs[0]])
    (first / "log.jsonl").unlink()
    with pytest.raises(UserError, match="has no log.jsonl"):
        report.main([runs[0]])


def test_a_run_that_has_not_logged_yet_has_a_page(tmp_path):
    run = write_run(tmp_path / "young", [])
    assert report.main([str(run)]) == 0
    assert "Nothing is logged yet" in Page((run / "report.html").read_text()).text


def test_a_run_that_does_not_say_what_its_numbers_are_is_drawn_too(runs):
    for run in runs:
        RunFolder(run).metrics.unlink()
    assert report.main(runs) == 0
    seen = report.read_run(runs[0], "old", "#000000")
    chart = report.chart_of([seen], "probe/pa_mpjpe_constant")
    assert (chart.title, chart.unit) == ("pa mpjpe constant", "")


def test_what_a_book_says_comes_back_from_the_folder(tmp_path):
    write_metrics(tmp_path, BOOK)
    assert read_metrics(tmp_path) == BOOK
    RunFolder(tmp_path).metrics.write_text('{"format": 2}')
    with pytest.raises(UserError, match="has format 2; this software reads up to 1"):
        read_metrics(tmp_path)
    RunFolder(tmp_path).metrics.write_text(
        '{"format": 1, "groups": [], "metrics": [{"name": "x"}]}'
    )
    with pytest.raises(UserError, match="does not describe metrics"):
        read_metrics(tmp_path)
