"""What a study claims: named beforehand, corrected together, by the two arms of each alone."""

import math

import numpy as np
import pytest
from test_studies import rows_of, study

from engine import paired_stats as stats
from engine.errors import UserError
from studies import claims, plan, protocol, rows, tables

CLAIMS = (
    "claims.scratch.arm=none",
    "claims.mae.arm=mae",
    "claims.probe.arm=mae",
    "claims.probe.minus=none",
    "claims.probe.how=frozen",
    "claims.probe.metric=mpjpe",
    "claims.probe.test=out-of-domain",
)


def find_tail(t, freedom):
    """Two-sided p of Student's t by Simpson's rule over its density, without scipy."""
    x = np.linspace(0, abs(t), 20_001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    density = scale / math.sqrt(freedom * math.pi) * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    weights = np.ones(len(x))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return 1 - 2 * (x[1] - x[0]) / 3 * float(weights @ density)


def noisy(arm, seed):
    """Errors of which *none* is clearly and *mae* hardly worse than *both*."""
    own = {"both": (0, 0.3, -0.2), "none": (0.5, -0.1, 0.2), "mae": (-0.4, 0.5, 0.1)}[arm][seed]
    return {"both": 50, "none": 60, "mae": 50.5}[arm] + own


def judged(config):
    return {one.claim.name: one for one in claims.judge_claims(config, rows.read_rows(config))}


def test_p_values_of_all_claims_are_corrected_together(tmp_path):
    config = study(f"rows={tmp_path}", "arm=both,none,mae", "seeds=3", *CLAIMS)
    assert [
        (one.minus, one.test, one.how, one.metric, one.share) for one in config.list_claims()
    ] == [
        ("both", "studio", "finetuned", "pa_mpjpe", 0.1),
        ("both", "studio", "finetuned", "pa_mpjpe", 0.1),
        ("none", "out-of-domain", "frozen", "mpjpe", 0.1),
    ]
    rows_of(config, noisy)
    found = judged(config)
    # Clips differ alike in all arms here, so that the seeds alone tell: 3 of them, 2 degrees.
    for name, arms in (("scratch", ("none", "both")), ("mae", ("mae", "both"))):
        d = np.array([noisy(arms[0], seed) - noisy(arms[1], seed) for seed in range(3)])
        error = d.std(ddof=1) / 3**0.5
        got = found[name].difference
        assert got.mean == pytest.approx(d.mean()) and (got.seeds, got.clips) == (3, 20)
        assert got.p == pytest.approx(find_tail(d.mean() / error, 2), abs=1e-6)
        assert got.high - got.mean == pytest.approx(got.mean - got.low)
        assert find_tail((got.high - got.mean) / error, 2) == pytest.approx(0.05, abs=1e-6)
    # Holm by hand: the least p times 3, the next times 2, the last as it is; never falling.
    least, middle, most = sorted(found.values(), key=lambda one: one.difference.p)
    assert most.claim.name == "mae" and most.difference.p > 0.05
    assert least.corrected == pytest.approx(3 * least.difference.p)
    assert middle.corrected == pytest.approx(max(3 * least.difference.p, 2 * middle.difference.p))
    assert most.corrected == pytest.approx(max(middle.corrected, most.difference.p))
    assert [one.significant for one in (least, middle, most)] == [
        one.corrected < 0.05 for one in (least, middle, most)
    ]


def find_t(p, freedom):
    """The t of a two-sided p, by bisection of find_tail."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if find_tail(middle, freedom) > p else (low, middle)
    return low


def test_intervals_of_two_arms_alone_are_by_howe():
    rng = np.random.default_rng(5)
    d = 1 + rng.normal(size=(4, 1)) + rng.normal(size=(1, 12)) + rng.normal(size=(4, 12))
    found = stats.compare_alone(d, np.zeros_like(d))
    parts = d.mean(1).var(ddof=1) / 4, d.mean(0).var(ddof=1) / 12

    def reach(p):
        return (find_t(p, 3) ** 2 * parts[0] + find_t(p, 11) ** 2 * parts[1]) ** 0.5

    assert found.high - found.mean == pytest.approx(reach(0.05), abs=1e-5)
    assert found.mean - found.low == pytest.approx(reach(0.05), abs=1e-5)
    assert reach(found.p) == pytest.approx(abs(found.mean), abs=1e-5)
    assert stats.compare_alone(np.ones((2, 3)), np.zeros((2, 3))).p == 0
    with pytest.raises(ValueError, match="1 seeds and 3 clips"):
        stats.compare_alone(np.ones((1, 3)), np.ones((1, 3)))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("apart", [(1, 0, 3), (0.2, 10, 3)])
def test_claims_without_a_difference_are_seldom_significant(seeds, apart):
    """Also after the correction: p falls below .05 / 3 as seldom as it says, however few the seeds,
    whether seeds or clips are what differs."""
    rng, found = np.random.default_rng(seeds), []
    for _ in range(300):
        parts = [(seeds, 1), (1, 50), (seeds, 50)]
        d = sum(scale * rng.normal(size=shape) for scale, shape in zip(apart, parts, strict=True))
        found.append(stats.compare_alone(d, np.zeros_like(d)).p)
    for level in (0.05, 0.05 / 3):
        # Three standard errors of so many studies above it.
        assert np.mean(np.array(found) < level) < level + 3 * (level / 300) ** 0.5
    assert np.median(found) > 0.4


def test_bold_is_what_holds_after_the_correction(tmp_path):
    """One claim of p = .04 is significant alone, and is not as one of two."""

    def errors(arm, seed):
        return 50 + (0 if arm == "both" else (0.7, 1.15, 1.45)[seed])

    alone = study(f"rows={tmp_path}", "arm=both,none,mae", "seeds=3", "claims.scratch.arm=none")
    rows_of(alone, errors)
    line = claims.make_table(alone, rows.read_rows(alone)).splitlines()[-1]
    p = judged(alone)["scratch"].difference.p
    assert 0.025 < p < 0.05 and "| **+1.1 [" in line and line.count(f"| {p:.3f} ") == 2
    both = study(f"rows={tmp_path}", "arm=both,none,mae", "seeds=3", *CLAIMS[:2])
    lines = claims.make_table(both, rows.read_rows(both)).splitlines()
    assert "**" not in lines[-2] and f"| {p:.3f} | {2 * p:.3f} |" in lines[-2]
    # A claim that is not measured yet makes none of the others look better.
    waiting = study(
        f"rows={tmp_path}", "arm=both,none,mae", "seeds=3", "claims.scratch.arm=none",
        "claims.later.arm=far",
    )  # fmt: skip
    table = claims.make_table(waiting, rows.read_rows(waiting))
    assert "all 2 claims, of which 1 not measured yet" in table
    assert f"| {p:.3f} | {2 * p:.3f} |" in table and "| 0 | not measured yet | | |" in " ".join(
        table.split()
    )


def test_intervals_of_claims_do_not_depend_on_other_arms(tmp_path):
    words = ("arm=both,none,mae", "seeds=3", "claims.scratch.arm=none")
    calm, wild = (study(f"rows={tmp_path / name}", *words) for name in ("calm", "wild"))
    rows_of(calm, noisy)
    rows_of(wild, lambda arm, seed: noisy(arm, seed) + (3 * seed if arm == "mae" else 0))
    ours, theirs = (judged(one)["scratch"].difference for one in (calm, wild))
    assert ours == theirs
    pooled = [
        rows.compare_arms(rows.read_rows(one), "none", "both", 0.1, "studio", "frozen", "mpjpe")
        for one in (calm, wild)
    ]
    assert pooled[0] != pooled[1]  # those outside the claims do


def test_one_seed_is_over_clips_alone(tmp_path):
    config = study(f"rows={tmp_path}", "arm=both,none", "seeds=1", "claims.scratch.arm=none")
    rows_of(config, lambda arm, seed: 50)
    table, clips = plan.open_table(config), np.arange(20)
    found = table.find("errors", arm="none")
    own = 50 + clips / 10 + 2 + np.where(clips % 2, 1.0, -1.0)
    found["tests"]["studio"]["finetuned"]["pa_mpjpe"] = own.tolist()
    table.add("errors", found)
    d = judged(config)["scratch"].difference
    error = (20 / 19) ** 0.5 / 20**0.5  # of +-1, by Bessel's correction
    assert (d.seeds, d.clips) == (1, 20) and d.mean == pytest.approx(2)
    assert find_tail((d.high - 2) / error, 19) == pytest.approx(0.05, abs=1e-6)
    line = claims.make_table(config, rows.read_rows(config)).splitlines()[-1]
    assert f"({claims.ONE_SEED})" in line


def test_claims_that_were_named_afterwards_are_told(tmp_path):
    """Each row says which claims there were when it was measured."""
    words = (f"rows={tmp_path}", "arm=both,none,mae", "seeds=3")
    before = study(*words, "claims.first.arm=none", "claims.other.arm=mae")
    rows_of(before, noisy)
    assert [(one.after, one.rows) for one in judged(before).values()] == [(6, 6), (6, 6)]
    table = plan.open_table(before)
    for found in table.read("errors"):
        if (found["arm"], found["seed"]) != ("mae", 2):  # that was there already
            table.add("errors", {**found, "claims": claims.list_records(before)})
    named = [one.split(" | ")[:2] for one in claims.make_table(before, rows.read_rows(before))
             .splitlines()[-2:]]  # fmt: skip
    assert named == [["| first", "before"], ["| other", "after 1 of 6 rows"]]
    # Another name is the same claim, another metric is not.
    later = study(*words, "claims.x.arm=none", "claims.y.arm=none", "claims.y.metric=px")
    assert [one.after for one in judged(later).values()] == [0, 6]


def test_all_else_is_exploratory_and_never_bold(tmp_path):
    words = (f"rows={tmp_path}", "arm=both,none,mae", "seeds=3")
    plain, claiming = study(*words), study(*words, "claims.scratch.arm=none")
    rows_of(plain, noisy)
    old, new = (tables.make_tables(one, rows.read_rows(one)) for one in (plain, claiming))
    # The protocol stands first, then the claims.
    assert old[0] == protocol.describe_protocol(plain) and protocol.UNCORRECTED in old[0]
    assert new[0] == protocol.describe_protocol(claiming)
    assert new[1] == claims.make_table(claiming, rows.read_rows(claiming))
    ours, theirs = (next(text for text in one if "<details>" in text) for one in (old, new))
    assert "**+" in ours and protocol.UNCORRECTED in ours
    assert "**" not in theirs and tables.EXPLORATORY in theirs
    # A claim's own difference is told once, with its own interval.
    lines = [line for line in theirs.splitlines() if "| no pre-training | 3 |" in line]
    assert [line.count("a claim") for line in lines] == [1, 0]


def test_the_protocol_is_what_the_config_says():
    words = [
        *CLAIMS,
        "tests.dev.make=configs/data/people_body_studio.yaml",
        "tests.dev.clips=50",
        "tests.dev.keys=seed=3000000",
        "choose=dev",
        "expect.spread=0.7",
    ]
    config = study(*words)
    text = protocol.describe_protocol(config)
    assert "5 of each arm; 3 of mae_compute, patch, mae_patch; 2 of view" in text
    assert "dev (50 clips, to choose arms by)" in text and "0.7 mm" in text
    assert "claims, 3, corrected together" in text
    assert "probe: *MAE, sample-matched* minus *no pre-training*, frozen MPJPE, mm" in text
    plan.check_arms(study("arm=both", *words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["claims.x.arm=nobody"], "claims.x.arm=nobody is none of the arms both"),
        (["claims.x.arm=mae", "claims.x.minus=no"], "claims.x.minus=no is none of the arms"),
        (["claims.x.arm=both"], "claims.x compares both with itself"),
        (["claims.x.arm=mae", "claims.x.share=0.5"], "share=0.5, and arms.mae has .* 0.1"),
        (["claims.x.arm=mae", "claims.x.test=street"], "test=street is none of the tests studio"),
        (
            ["claims.x.arm=mae", "claims.x.test=studio", "choose=studio"],
            "claims.x.test=studio, and choose=studio: what arms are chosen by supports no claim",
        ),
        (["choose=street"], "choose=street is none of the tests studio"),
        (
            ["claims.x.arm=mae", "claims.x.how=frozen", "claims.x.metric=px"],
            "claims.x.metric=px, and claims.x.how=frozen has mpjpe, pa_mpjpe",
        ),
        (
            ["claims.x.arm=mae", "claims.x.how=finetuned", "finetune="],
            "claims.x.how=finetuned, and finetune= names no config",
        ),
        (
            ["claims.x.arm=mae", "claims.y.arm=both", "claims.y.minus=mae"],
            "claims.y and claims.x are the same difference",
        ),
    ],
)
def test_claims_that_cannot_be_made_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        study(*words)


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_outlook_is_what_claims_can_show(seeds):
    """A difference of that size is the first of three to be significant in most studies."""
    true = stats.detectable_difference(0.7, seeds, seeds - 1, 3)
    assert true > 1.2 * stats.detectable_difference(0.7, seeds, seeds - 1)
    rng, seen = np.random.default_rng(seeds), 0
    for _ in range(300):
        d = np.repeat(true + 0.7 * rng.normal(size=(seeds, 1)), 20, 1)
        p = stats.compare_alone(d, np.zeros_like(d)).p
        seen += stats.adjust_by_holm([p, 0.9, 0.8])[0] < 0.05
    assert 0.6 < seen / 300 < 0.9


def test_arms_are_chosen_by_other_people():
    same = "tests.dev.make=configs/data/people_body_studio.yaml"
    for keys, other in (("seed=1000000", "tests.studio"), ("seed=0", "train")):
        with pytest.raises(UserError, match=f"choose=dev, and tests.dev and {other} both have"):
            plan.check_arms(study(same, f"tests.dev.keys={keys}", "choose=dev"))
