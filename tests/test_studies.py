"""The study of transfer: what it plans, what its intervals hold, and a small one that is killed and
resumes."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from runs import ROOT

from engine import paired_stats as stats
from engine.config.parser import parse
from engine.errors import UserError
from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from studies import claims, plan, plots, rows, runner, seconds, tables, take
from studies.config import StudyConfig
from studies.row_table import RECORDS, RowTable

STUDIES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "studies").glob("*.yaml"))


def study(*words, path="studies/pilot.yaml"):
    return parse(StudyConfig, [path, *words], "studies")


@pytest.mark.parametrize("path", STUDIES)
def test_every_study_that_ships_is_complete(path, tmp_path):
    config = study(f"work={tmp_path}", path=path)
    if config.reads_real:
        config.real.shards = f"{tmp_path}/a,{tmp_path}/b"
    plan.train_folder(config).mkdir()
    for number in range(100):
        (plan.train_folder(config) / f"shard-{number:06d}.tar").touch()
    for row in plan.list_rows(config):
        words = plan.pretrain_words(config, row)
        if words:
            parse(PretrainConfig, words[2:], "pretrain train")
        if config.finetune:
            parse(
                FinetuneConfig,
                [*plan.finetune_words(config, row)[2:], "data.shards=x"],
                "finetune train",
            )
    assert plan.list_sets(config)
    plan.check_arms(config)


def test_arms_differ_in_what_they_say_alone():
    config = study()
    runs = {
        name: parse(
            PretrainConfig,
            plan.pretrain_words(config, plan.Row(name, 3, 0.01))[2:],
            "pretrain train",
        )
        for name, arm in config.arms.items()
        if not arm.scratch
    }
    for name, run in runs.items():
        assert (run.seed, run.samples, run.peak_lr) == (
            3,
            runs["both"].samples,
            runs["both"].peak_lr,
        ), name
        assert run.model.encoder == runs["both"].model.encoder, name
    assert runs["view"].data.kinds.shares() == [0.5, 0] and runs["pose"].data.kinds.shares() == [
        0,
        0.5,
    ]
    assert not runs["mae"].model.decoder.cross and runs["mae"].steps == runs["both"].steps
    assert runs["far"].data.pairs.angle_min_deg == 60
    few = study(
        "arms.few.pretrain=data.shards=TRAIN/shard-00000?.tar", "train.clips=70", "work=there"
    )
    assert "data.shards=there/body_train_70/shard-00000?.tar" in plan.pretrain_words(
        few, plan.Row("few", 0, 0.1)
    )
    # As many operations, to a step.
    for name in ("mae_compute", "both_k4"):
        own, other = (
            plan.count_operations(plan.pretrain_words_of(config, arm)) for arm in (name, "both")
        )
        assert (
            own[0] * own[1] == pytest.approx(other[0] * other[1], abs=own[0])
            and own[1] > 1.2 * other[1]
        )


def test_seeds_have_labels_of_their_own_and_arms_share_them(tmp_path):
    config = study(f"work={tmp_path}")
    folder = plan.train_folder(config)
    folder.mkdir()
    for number in range(100):
        (folder / f"shard-{number:06d}.tar").touch()
    found = {
        (arm, seed, share): plan.list_labelled_shards(config, plan.Row(arm, seed, share))
        for arm in ("both", "none")
        for seed in range(5)
        for share in (0.01, 0.1, 1.0)
    }
    assert [len(found["both", 0, share]) for share in (0.01, 0.1, 1.0)] == [1, 10, 100]
    for (arm, seed, share), shards in found.items():
        assert shards == found["both", seed, share] and len(set(shards)) == len(shards), arm
    for share in (0.01, 0.1):
        assert (
            len({one for seed in range(5) for one in found["both", seed, share]}) == 5 * 100 * share
        )


def test_the_table_keeps_every_line_and_its_order(tmp_path):
    """The tables that ship are what writing them again gives, to the byte; rows may come in any
    order, and one of the same keys takes the other's place."""
    for path in sorted((ROOT / "studies" / "rows").glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [one for record in RECORDS for one in RowTable(path).read(record)]
        assert [json.dumps(one, separators=(",", ":")) for one in found] == lines, path
    few = RowTable(ROOT / "studies/rows/hand.jsonl").read("errors")
    copy = RowTable(tmp_path / "hand.jsonl")
    for one in reversed(few):
        copy.add("errors", one)
    assert copy.read("errors") == few and copy.read("take") == []
    copy.add("errors", {**few[3], "labelled_clips": 1})
    assert [one["labelled_clips"] for one in copy.read("errors")] == [50, 50, 50, 1, *[50] * 4]
    assert copy.find("errors", arm="mae", seed=1)["seed"] == 1
    assert copy.find("errors", arm="nobody") is None


def test_rows_of_several_processes_all_arrive(tmp_path):
    code = (
        "import sys; from studies.row_table import RowTable\n"
        "for seed in range(20): RowTable(sys.argv[1]).add('errors', "
        "{'arm': sys.argv[2], 'seed': seed, 'share': 0.1})"
    )
    path = tmp_path / "rows" / "x.jsonl"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), arm], cwd=ROOT) for arm in "abc"
    ]
    assert [one.wait(60) for one in running] == [0, 0, 0]
    assert len(RowTable(path).read("errors")) == 60


def test_rows_come_seed_by_seed():
    rows = plan.list_rows(study("seeds=2", "arm=both,none", "shares=0.01,0.1"))
    assert [row.name for row in rows] == [
        f"{arm}-{share}-seed{seed}"
        for seed in (0, 1)
        for arm in ("both", "none")
        for share in ("0.01", "0.1")
    ]
    assert [len(group) for group in runner.group_rows(study(), rows)] == [2] * 4


def test_students_wait_for_their_teachers(tmp_path, monkeypatch):
    student = "objective.name=teacher model.decoder.cross=false model.decoder.latents=64"
    config = study(
        f"work={tmp_path / 'work'}",
        f"rows={tmp_path}",
        f"arms.pupil.pretrain={student}",
        "arms.pupil.teacher=both",
        "arm=pupil,both,mae",
        "seeds=2",
        "lanes=3",
    )
    words = plan.pretrain_words(config, plan.Row("pupil", 1, 0.1))
    assert f"objective.teacher={tmp_path}/work/pilot/pretrain-both-seed1" in words
    plan.check_arms(config)
    monkeypatch.setattr(plan, "list_sets", lambda config: {})
    monkeypatch.setattr(plan, "finetune_words", lambda config, row: None)
    monkeypatch.setattr(runner.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(runner, "WAIT_S", 0.01)
    began, ended, study_runner = {}, {}, None

    def command(words):
        name = re.search(r"pretrain-(\w+)-seed(\d)", " ".join(words)).groups()
        began[name] = time.monotonic()
        time.sleep(0.1)
        ended[name] = time.monotonic()
        return True

    rows = sorted(plan.list_rows(config), key=lambda row: row.arm != "pupil")  # pupils first
    study_runner = runner.Runner(config, rows, lambda row: [])
    study_runner.command = command
    monkeypatch.setattr(study_runner, "_refuse_other_people", lambda: None)
    assert study_runner.run() == 0 and len(ended) == 6
    for seed in "01":
        assert began["pupil", seed] > ended["both", seed]
    for words, said in (
        (["arms.pupil.teacher=none"], "teacher=none wants an arm with a pre-training"),
        (["arms.pupil.teacher=both", "arms.both.seeds=1"], "has 5 seeds and its teacher"),
        (["arms.pupil.teacher=both", "arms.pupil.compute=true"], "set its steps"),
    ):
        with pytest.raises(UserError, match=said):
            study(f"arms.pupil.pretrain={student}", *words)


def test_what_references_give_is_the_masked_autoencoders_loss_less_theirs():
    config = study("arms.both.mae=mae", "arm=both,mae")
    keys = [f"val/{kind}{end}" for end in ("", "_person") for kind in ("cross_view", "cross_pose")]
    there = {
        plan.Row(arm, seed, 0.1): {"pretrain": dict(zip(keys, values, strict=True))}
        for arm, seed, values in (
            ("both", 0, (0.50, 0.40, 0.30, 0.20)),
            ("both", 1, (0.52, 0.42, 0.32, 0.22)),
            ("mae", 0, (0.55, 0.50, 0.40, 0.40)),
            ("mae", 1, (0.57, 0.52, 0.42, 0.42)),
            ("mae", 2, (9.0, 9.0, 9.0, 9.0)),
        )
    }
    line = tables._given(config, there).splitlines()[-1]
    assert (
        line == "| both kinds of pairs | 2 | 0.050 (8.9%) | 0.100 (19.6%) | 0.100 (24.4%) | "
        "0.200 (48.8%) |"
    )
    assert tables._given(study(), there) is None


def test_what_goes_wrong_in_one_lane_stops_the_study_and_is_told(tmp_path, monkeypatch):
    config = study(
        f"work={tmp_path / 'work'}",
        f"rows={tmp_path}",
        "arm=none",
        "seeds=4",
        "lanes=2",
        "device=cpu",
    )
    monkeypatch.setattr(plan, "list_sets", lambda config: {})
    monkeypatch.setattr(
        runner.signal, "signal", lambda number, handler: None
    )  # the tests keep their own
    with pytest.raises(UserError, match="has no shards"):
        runner.Runner(config, plan.list_rows(config), lambda row: []).run()
    monkeypatch.setattr(
        plan,
        "finetune_words",
        lambda config, row: ["finetune", "train", f"run={tmp_path / 'work/pilot/x'}"],
    )
    (tmp_path / "work").touch()
    with pytest.raises(UserError, match="cannot be written.*work= names another folder"):
        runner.Runner(config, plan.list_rows(config), lambda row: []).run()


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Differences with effects of seeds and of clips: 95 % of intervals hold the mean, or more."""
    rng = np.random.default_rng(0)
    for of_seed, of_clips, rest in ((1, 1, 3), (1, 0, 3), (0, 1, 3), (0, 0, 1)):
        held = 0
        for _ in range(400):
            d = 2 + of_seed * rng.normal(size=(5, 1)) + 10 * of_clips * rng.normal(size=(1, 100))
            d = d + rest * rng.normal(size=(5, 100))
            found = stats.compare_paired(d, np.zeros_like(d))
            held += found.low <= 2 <= found.high
        assert held >= 0.93 * 400, (of_seed, of_clips)


@pytest.mark.parametrize(
    ("seeds", "apart", "least"), [(2, 1, 0.94), (3, 1, 0.94), (2, 2, 0.9), (3, 2, 0.9)]
)
def test_intervals_of_few_seeds_hold_the_truth_too(seeds, apart, least):
    """Also where the seeds of one of the two arms lie ``apart`` times as far apart as those of all
    others."""
    rng, held, level = (
        np.random.default_rng(seeds),
        0,
        1.5 * np.array([apart, 1, 1, 1, 1, 1])[:, None],
    )
    for _ in range(600):
        means = 80 + level * rng.normal(size=(6, seeds)) + rng.normal(size=(1, seeds))
        one = means[0][:, None] + rng.normal(size=(1, 100)) + 8 * rng.normal(size=(seeds, 100))
        means[0] = one.mean(1)
        known = stats.pool_seeds({arm: dict(enumerate(values)) for arm, values in enumerate(means)})
        found = stats.compare_paired(one, np.repeat(means[1][:, None], 100, 1), known)
        held += found.low <= 0 <= found.high
    assert held >= least * 600


def test_seeds_of_all_arms_tell_how_far_seeds_lie_apart():
    rng = np.random.default_rng(3)
    arms = {
        arm: {seed: 10 * arm + 3 * seed + 0.5 * rng.normal() for seed in range(3 + arm % 2)}
        for arm in range(60)
    }
    found = stats.pool_seeds(arms)
    assert found.freedom == 30 * 3 + 30 * 4 - 60 - 4 + 1
    assert found.variance == pytest.approx(0.25, rel=0.25)
    assert stats.pool_seeds({"one": {0: 1.0, 1: 2.0}}).freedom == 0
    # One run that went wrong says nothing of the others.
    with_odd = stats.pool_seeds({**arms, "odd": {0: 5.0, 1: 15.0}})
    assert with_odd == stats.Seeds(found.variance, found.freedom, frozenset({"odd"}))


def test_one_seed_has_no_interval():
    found = stats.compare_paired(np.ones((1, 9)), np.zeros((1, 9)))
    assert found.mean == 1 and np.isnan(found.low) and not found.significant
    assert stats.detectable_difference(1.0, 1, 9) == float("inf")


@pytest.mark.parametrize(("arms", "seeds"), [(2, 5), (8, 2)])
def test_what_can_be_seen_is_seen_in_most_studies(arms, seeds):
    rng, spread = np.random.default_rng(1), 0.7
    true, seen = stats.detectable_difference(spread, seeds, (arms - 1) * (seeds - 1)), []
    for _ in range(1000):
        means = spread / 2**0.5 * rng.normal(size=(arms, seeds))
        known = stats.pool_seeds({arm: dict(enumerate(values)) for arm, values in enumerate(means)})
        one, other = (np.repeat(values[:, None], 50, 1) for values in (means[0] + true, means[1]))
        seen.append(stats.compare_paired(one, other, known).significant)
    assert 0.64 < np.mean(seen) < 0.86


def test_a_power_law_is_found_again():
    x = np.array([40, 400, 4000, 40000])
    a, b, c = stats.fit_power_law(x, 120 * x**-0.3 + 40)
    assert (a, b, c) == (
        pytest.approx(120, rel=0.1),
        pytest.approx(0.3, abs=0.02),
        pytest.approx(40, abs=2),
    )
    at, low, high = stats.predict_power_law(x, 120 * x**-0.3 + 40, np.full(4, 0.5), 400_000)
    assert (
        low < at < high
        and at == pytest.approx(120 * 400_000**-0.3 + 40, abs=0.5)
        and 0.5 < high - low < 20
    )


def rows_of(config, errors):
    """Add rows whose every error is what ``errors`` (arm, seed) gives, and a little more for
    each clip."""
    for row in plan.list_rows(config):
        values = (errors(row.arm, row.seed) + np.arange(20) / 10).tolist()
        tests = {
            test: {
                "finetuned": dict.fromkeys(("px", "mpjpe", "pa_mpjpe"), values),
                "frozen": dict.fromkeys(("mpjpe", "pa_mpjpe"), values),
            }
            for test in config.tests
        }
        steps = re.search(r"\bsteps=(\d+)", config.arms[row.arm].pretrain)
        steps = int(steps[1]) if steps else 8
        run = (
            {}
            if config.arms[row.arm].scratch
            else {"steps": steps, "pairs": 8 * steps, "seconds": 1.0}
        )
        words = [
            plan.pretrain_words(config, row),
            plan.finetune_words_of(config, row, "x") if config.finetune else None,
        ]
        commands = ["python -m " + shlex.join(one) for one in words if one]
        found = {
            **row.keys,
            "pretrain": run,
            "labelled_clips": 40,
            "commands": commands,
            "finetune": {"seconds": 1.0},
            "tests": tests,
        }
        plan.open_table(config).add("errors", found)


def test_tables_tell_what_is_certain_from_what_is_not(tmp_path):
    config = study(f"rows={tmp_path}", "arm=both,none,mae", "seeds=3")
    noise = np.random.default_rng(2).normal(size=(9, 3))
    rows_of(
        config,
        lambda arm, seed: (
            {"both": 50, "none": 60, "mae": 50.1}[arm] + 0.5 * noise[ord(arm[0]) % 9, seed]
        ),
    )
    there = rows.read_rows(config)
    text = "\n".join(tables.make_tables(config, there))
    against = text[text.index("Difference from *both kinds") :]
    none, mae = (
        next(line for line in against.splitlines() if f"| {config.arms[arm].title} |" in line)
        for arm in ("none", "mae")
    )
    assert none.count("**+") == 5 and "**" not in mae
    assert (
        rows.estimate_seed_variance(there, config.shares[0], "studio", "finetuned", "px").freedom
        == 4
    )
    # Two arms of one frozen encoder are one arm of how far seeds lie apart, and odd together.
    twice = {
        **there,
        **{
            plan.Row("view", row.seed, row.share): one
            for row, one in there.items()
            if row.arm == "mae"
        },
    }
    once, again = (
        rows.estimate_seed_variance(found, 0.1, "studio", "frozen", "mpjpe")
        for found in (there, twice)
    )
    assert once == again
    drawn = plots.draw_figures(config, there, tmp_path)
    assert [path.name for path in drawn] == ["transfer_pilot_differences.png"] and drawn[
        0
    ].stat().st_size > 10_000
    config.arms["none"].against, config.arms["mae"].against = "mae", "both"
    table = "\n".join(tables.make_tables(config, there)).split("Differences of pairs of arms")[1]
    config.arms["both"].against = "view"  # of which there are no rows
    assert (
        "40 | both kinds of pairs |"
        not in "\n".join(tables.make_tables(config, there)).split("Differences of pairs of arms")[1]
    )
    line = next(
        line
        for line in table.splitlines()
        if "| no pre-training | MAE, sample-matched | 3 |" in line
    )
    assert float(line.split("**")[1].split()[0]) == pytest.approx(9.9, abs=2)
    with pytest.raises(UserError, match="'no' is none of the arms"):
        study("arms.none.against=no")


def test_error_against_pairs_is_a_curve_of_arms(tmp_path, monkeypatch):
    arms = [
        word
        for steps in (10, 20, 40)
        for word in (f"arms.s{steps}.pretrain=steps={steps}", f"arms.s{steps}.curve=both")
    ]
    keys = (f"rows={tmp_path}", "arm=s10,s20,s40,none", "seeds=2", "pretrain_keys=optim.warmup=1")
    config = study(*keys, *arms)
    rows_of(
        config,
        lambda arm, seed: 90 if arm == "none" else 20 + 100 * (8 * int(arm[1:])) ** -0.5 + seed,
    )
    there = rows.read_rows(config)
    curves = rows.trace_pairs(config, there, "studio", "finetuned", "pa_mpjpe")
    assert list(curves) == ["both"] and [x for x, _ in curves["both"]] == [80, 160, 320]
    # 0.95 of the clips and 0.5 of the seeds on top.
    assert [y.mean() for _, y in curves["both"]] == pytest.approx(
        [21.45 + 100 * x**-0.5 for x in (80, 160, 320)]
    )
    law = next(text for text in tables.make_tables(config, there) if "against pairs n" in text)
    assert (
        float(law.split("n^-")[1].split()[0]) == pytest.approx(0.5, abs=0.05) and "at 3200" in law
    )
    assert float(law.split("points), ")[1].split()[0]) == pytest.approx(
        21.45 + 100 * 3200**-0.5, abs=0.5
    )
    drawn = plots.draw_figures(config, there, tmp_path)
    assert [path.name for path in drawn] == [
        "transfer_pilot_pairs.png"
    ]  # the reference arm has no rows to differ from
    assert drawn[0].stat().st_size > 10_000


def test_arms_may_share_a_pre_training(tmp_path):
    config = study(
        "arms.long.weights=both",
        "arms.long.finetune=steps=2400",
        "seeds=2",
        "arm=both,long,none",
        f"work={tmp_path}",
    )
    plan.check_arms(config)
    long, both = plan.Row("long", 1, 0.1), plan.Row("both", 1, 0.1)
    assert plan.pretrain_words(config, long) == plan.pretrain_words(config, both)
    assert plan.finetune_folder(config, long) != plan.finetune_folder(config, both)
    words = plan.finetune_words_of(config, long, "x")
    assert f"init={plan.pretrain_folder(config, both)}" in words and "steps=2400" in words
    groups = runner.group_rows(config, plan.list_rows(config))  # never two lanes in one folder
    assert (
        sorted(sorted({row.arm for row in group}) for group in groups)
        == [["both", "long"]] * 2 + [["none"]] * 2
    )
    for keys in (
        ["arms.long.weights=none"],
        ["arms.long.weights=long"],
        ["arms.long.weights=both", "arms.long.compute=true"],
    ):
        with pytest.raises(UserError, match="arms.long.weights="):
            study(*keys)


def test_rows_of_another_recipe_are_refused(tmp_path):
    config = study(f"rows={tmp_path}", "arm=both,none", "seeds=1")
    rows_of(config, lambda arm, seed: 50)
    assert len(rows.read_rows(config)) == 2
    with pytest.raises(
        UserError,
        match="both-0.1-seed0 .* no masking.ratio of pretrain, .* masking.ratio=0.5; delete",
    ):
        rows.read_rows(study(f"rows={tmp_path}", "pretrain_keys=masking.ratio=0.5"))
    with pytest.raises(
        UserError, match="data.shards=body_train_4000 of pretrain, .* data.shards=body_train_70;"
    ):
        rows.read_rows(study(f"rows={tmp_path}", "train.clips=70"))
    with pytest.raises(UserError, match="no steps of finetune, .* steps=9"):
        rows.read_rows(study(f"rows={tmp_path}", "finetune_keys=steps=9"))
    with pytest.raises(UserError, match="'third'"):
        rows.read_rows(study(f"rows={tmp_path}", "tests.third.make=configs/data/people_body.yaml"))
    for keys, said in (
        (["arm=,"], "none of these arms"),
        (["shares=0.1,0.1"], "names a share twice"),
    ):
        with pytest.raises(UserError, match=said):
            study(*keys)


def test_rows_of_other_people_are_not_compared(tmp_path, people, monkeypatch):
    """The generator of people has changed since the shipped rows were made; theirs are known by
    their seeds alone."""
    config = study(
        f"rows={tmp_path / 'rows'}", f"work={tmp_path / 'work'}", "arm=both,none", "seeds=1"
    )
    rows_of(config, lambda arm, seed: 50)
    assert len(rows.read_rows(config)) == 2
    assert plan.people_of_row(config, {}) == {
        "train": "made-0",
        "studio": "made-1000000",
        "out-of-domain": "made-2000000",
    }
    for folder in (
        plan.train_folder(config),
        *(plan.test_folder(config, name) for name in config.tests),
    ):
        folder.parent.mkdir(exist_ok=True)
        folder.symlink_to(people["body"])
    (who,) = set(plan.find_people(config).values())
    assert re.fullmatch("made-[0-9a-f]{16}-5", who)
    monkeypatch.setattr(plan, "list_sets", lambda config: {})
    monkeypatch.setattr(runner.signal, "signal", lambda number, handler: None)
    with pytest.raises(
        UserError,
        match=rf"-seed0 is of other people \(made-0-...\) in the set 'train' than .*work "
        rf"\({who}-...\): .* delete its line",
    ):
        runner.Runner(config, plan.list_rows(config), lambda row: []).run()
    table = plan.open_table(config)
    found = table.find("errors", arm="none")
    table.add("errors", {**found, "people": plan.find_people(config)})
    with pytest.raises(
        UserError,
        match=r"none-0.1-seed0 is of other people .* than .*both-0.1-seed0 \(made-0-",
    ):
        rows.read_rows(config)


def test_the_lead_is_by_the_rows():
    """The table that the results begin with, and what the README says of it, against the rows."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    start = page.index("**Does pre-training pay")
    lead = page[start : page.index("**Why not?")]
    config = study(path="studies/pairs_pay.yaml")
    there = rows.read_rows(config)
    read_outs = (
        ("studio", "frozen", "mpjpe"),
        ("studio", "two_views", "mpjpe"),
        ("studio", "finetuned", "pa_mpjpe"),
        ("out-of-domain", "finetuned", "pa_mpjpe"),
    )
    for arm, line in (("mae", "| best MAE"), ("pairs", "| best pairs"), ("none", "| no pre-")):
        means = []
        for where in read_outs:
            values = rows.stack_values(there, arm, 0.1, {0, 1, 2}, *where)
            means.append(f"{np.mean(values):.1f}")
        (row,) = [text for text in lead.splitlines() if text.startswith(line)]
        assert row.endswith(f"| {' | '.join(means)} |")
    found = claims.judge_claims(config, there)
    shown = {
        one.claim.name: f"{one.difference.mean:+.1f} [{one.difference.low:+.1f}, "
        f"{one.difference.high:+.1f}]"
        for one in found
    }
    pairs = [shown[name] for name in ("frozen", "two_views", "finetuned", "elsewhere")]
    assert f"| pairs minus MAE | {' | '.join(pairs)} |" in lead
    assert f"| {shown['pretraining']} |" in lead
    assert not any(one.significant for one in found) and "none is below .05" in lead
    *of_pairs, of_none = (f"{one.corrected:.3f}".lstrip("0") for one in found)
    assert f"{', '.join(of_pairs)} for pairs minus MAE" in lead
    assert f"{of_none} for MAE minus none" in lead
    of = {one.claim.name: one.difference for one in found}
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    gain, cost = of["pretraining"], of["finetuned"]
    assert (
        f"takes {-gain.mean:.1f} mm (95 % interval {-gain.high:.1f} to {-gain.low:.1f}, three "
        "seeds)"
    ) in readme
    assert (
        f"{cost.mean:.1f} mm behind that autoencoder ({cost.low:.1f} to {cost.high:.1f})" in readme
    )


def test_the_summary_of_the_first_studies_is_by_their_rows():
    """What it says of the two arms by patch and of pre-training."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    start = page.index("*Summary of these studies, of 26 November 2026")
    summary = " ".join(page[start:].partition("\n\n")[0].split())
    found = {}
    for name, one, base in (
        ("reference", "mae", "both"),
        ("pilot", "mae_patch", "patch"),
        ("pilot", "none", "both"),
    ):
        config = study(path=f"studies/{name}.yaml")
        there = rows.read_rows(config)
        found[name, one] = rows.compare_arms(
            there, one, base, rows.find_usual_share(there), "studio", "finetuned", "pa_mpjpe"
        )
    texts = {key: f"{d.low:.1f} to {d.high:.1f}" for key, d in found.items()}
    assert (
        f"by patch {found['reference', 'mae'].mean:.1f}, {texts['reference', 'mae']} among the "
        f"reference study's arms, "
        f"{texts['pilot', 'mae_patch']} among the pilot's)"
    ) in summary
    none = found["pilot", "none"]
    assert f"{none.mean:.1f} mm (95 % interval {texts['pilot', 'none']}, five seeds)" in summary
    # At equal compute, before anything is said in favour of pre-training.
    assert summary.index("1,888 fine-tuning steps from scratch") < summary.index(
        f"{none.mean:.1f} mm (95 %"
    )
    assert page.count(tables.POOLED) == 10  # beside the intervals of each study


def test_seconds_are_of_steps_side_by_side(tmp_path, people, monkeypatch):
    keys = [
        f"rows={tmp_path}",
        f"work={tmp_path / 'work'}",
        "arm=both,mae,none",
        "pretrain_keys=batch=8",
    ]
    with pytest.raises(UserError, match="body_train_4000 is not made"):
        seconds.measure_seconds(study(*keys))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "body_train_4000").symlink_to(people["body"])
    for name, value in (("STEPS", 6), ("EVERY", 2), ("ROUNDS", 1)):
        monkeypatch.setattr(seconds, name, value)
    seconds.measure_seconds(study(*keys))
    found = plan.open_table(study(*keys)).find("seconds")
    assert set(found["seconds"]) == set(found["operations"]) == {"both", "mae"} and min(
        found["seconds"].values()
    ) > [0]
    assert found["operations"]["both"] / found["operations"]["mae"] == pytest.approx(3.41, abs=0.01)
    found["seconds"] = {"both": [0.3, 0.1, 0.2], "mae": [0.05, 0.2, 0.1]}
    plan.open_table(study(*keys)).add("seconds", found)
    assert "| MAE, sample-matched | 100 | 0.50 | 0.29 |" in seconds.make_table(study(*keys))


def test_a_take_is_compared_by_blocks_of_frames(tmp_path):
    config = study(f"rows={tmp_path}", "arm=both,none", "seeds=3")
    rng = np.random.default_rng(4)
    for row in plan.list_rows(config):
        level = {"both": 0.4, "none": 0.3}[row.arm] + 0.001 * row.seed
        frames = level + np.repeat(0.01 * rng.normal(size=4), take.BLOCK)[:35]
        found = {
            **row.keys,
            "frames": list(range(35)),
            "cameras": ["a", "b"],
            "iou": dict.fromkeys(take.SHOWN, [*frames[:-1].tolist(), None]),
        }
        plan.open_table(config).add("take", found)
    text = take.make_table(config)
    both, none = (
        next(line for line in text.splitlines() if line.startswith(f"| {config.arms[arm].title} |"))
        for arm in ("both", "none")
    )
    assert "| 3 | 40." in both and "**-" in none
    with pytest.raises(UserError, match="take.videos is not set"):
        take.measure_take(config)


def test_what_is_mistyped_is_told(tmp_path):
    with pytest.raises(UserError, match="'bth' is none of the arms both"):
        study("arm=bth")
    with pytest.raises(UserError, match="arm 'mae' .*model.position=cosine .*model.position=rope"):
        plan.check_arms(study("arms.mae.pretrain=model.position=cosine"))
    with pytest.raises(UserError, match="finetune=nowhere.yaml is no file"):
        study("finetune=nowhere.yaml")
    with pytest.raises(UserError, match="reference=none has scratch=true"):
        study("reference=none")
    for keys in ("pretrain_keys=stepz=3", "finetune_keys=stepz=3"):
        with pytest.raises(UserError, match="'stepz'"):
            plan.check_arms(study(keys))
    with pytest.raises(UserError, match="has no rows"):
        tables.write_page(study(f"rows={tmp_path}"))
    (tmp_path / "pilot.jsonl").write_text('{"record":"errors"}\n')
    with pytest.raises(UserError, match="pilot.jsonl: a line is no row of this study"):
        tables.write_page(study(f"rows={tmp_path}"))
    (tmp_path / "pilot.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="pilot.jsonl, line 1 is no record of errors, angles"):
        tables.write_page(study(f"rows={tmp_path}"))


SMALL = [
    "train.clips=24",
    "train.keys=clips_per_shard=12",
    "tests.studio.clips=12",
    "tests.out-of-domain.clips=12",
    "seeds=1",
    "arm=both,none",
    "shares=0.5",
    "lanes=2",
    "finetune_keys=steps=6 optim.warmup=1 batch=8",
    "pretrain_keys=steps=60 checkpoint.every=20 optim.warmup=1 batch=8 log.val_every=20 "
    "log.every=1",
]


@pytest.mark.long
def test_a_study_that_is_killed_goes_on(tmp_path):
    words = [
        sys.executable,
        "-m",
        "studies",
        "run",
        "studies/pilot.yaml",
        f"rows={tmp_path / 'rows'}",
        f"work={tmp_path / 'work'}",
        *SMALL,
    ]
    first = subprocess.Popen(words, cwd=ROOT)
    log = tmp_path / "work/pilot/pretrain-both-seed0/log.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    assert first.wait(120) == 75
    steps = len(log.read_text().splitlines())
    assert 0 < steps < 60
    subprocess.run(words, cwd=ROOT, check=True)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, 61))
    found = RowTable(tmp_path / "rows/pilot.jsonl").read("errors")
    rows = {f"{row['arm']}-{row['share']}-seed{row['seed']}": row for row in found}
    assert set(rows) == {"both-0.5-seed0", "none-0.5-seed0"}
    for row in rows.values():
        assert row["labelled_clips"] == 12 and row["code"]
        for test in row["tests"].values():
            for how in ("finetuned", "frozen"):
                assert len(test[how]["pa_mpjpe"]) == 12 and np.isfinite(test[how]["pa_mpjpe"]).all()
            read = ["relative_rotation", "two_views"]
            read += [f"{name}_decoder" for name in read if row["arm"] == "both"]
            read.append("relative_rotation_products")
            assert sorted(test) == sorted(["finetuned", "frozen", "mean_pose", *read])
            assert len(test["relative_rotation"]["degrees"]) == 12
    # Nothing is left to do, and nothing is done.
    shutil.rmtree(tmp_path / "work")
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "0 to do" in done.stderr and not (tmp_path / "work").exists()
