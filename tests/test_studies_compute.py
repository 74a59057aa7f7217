"""Arms of a study at equal compute: operations against counts by hand."""

import math

import pytest
from test_studies import rows_of, study

from engine.config.parser import parse
from engine.errors import UserError
from finetune.config import FinetuneConfig
from finetune.flops import count_crop_flops
from pretrain.config import PretrainConfig
from studies import operations, plan, rows, tables

EQUAL = ("arms.equal.scratch=true", "arms.equal.equal_compute=both")


def multiply_vit(tokens, width, depth, pixels):
    """Operations of a ViT's forward pass, written out: a product of (n, k) and (k, m) has 2nkm."""
    qkv, attention, out = tokens * width * 3 * width, 2 * tokens * tokens * width, tokens * width**2
    mlp = 2 * tokens * width * 4 * width
    return 2 * (depth * (qkv + attention + out + mlp) + tokens * pixels * width)


def of_pair(masked, seen, targets):
    """Operations of a pair's training step of transfer_body.yaml: 64 patches of 8 px, widths 96
    and 64, depths 4 and 2; written out layer by layer."""
    narrow, tokens, pixels = 64, 64, 3 * 8**2
    encoder = multiply_vit(tokens - masked, 96, 4, pixels)
    reference = multiply_vit(seen, 96, 4, pixels) if seen else 0
    embedded = 2 * 96 * narrow * (tokens - masked)
    reference += 2 * 96 * narrow * seen
    # Each token: self-attention, cross-attention (its queries and output), two layers of the MLP.
    own = 2 * (4 * tokens * narrow**2 + 2 * tokens**2 * narrow)
    cross = 2 * tokens * (2 * narrow**2 + 2 * seen * narrow) if seen else 0
    mlp = 2 * 2 * tokens * narrow * 4 * narrow
    keys = 2 * 2 * seen * narrow**2
    # In the last block the visible ones are looked at and do not look.
    visible = tokens - masked
    idle = 2 * (2 * tokens * narrow + narrow**2) * visible
    idle += (cross + mlp) / tokens * visible
    decoder = 2 * (own + cross + mlp) - idle + 2 * masked * narrow * pixels
    return 3 * (encoder + embedded + decoder + (reference + 2 * keys) / targets)


def test_operations_are_those_of_the_layers_written_out():
    """Of targets that share a reference, of parts of it, of a masked autoencoder."""
    config = study(
        "arms.part.pretrain=masking.reference_ratio=0.75 targets_per_reference=4 batch=16",
        "arms.part.compute=true",
    )
    steps = {}
    for arm, found in (
        ("both", of_pair(48, 64, 1)),
        ("mae_compute", of_pair(48, 0, 1)),
        ("both_k4", of_pair(48, 64, 4)),
        ("part", of_pair(48, 16, 4)),
    ):
        of_step, steps[arm] = plan.count_operations(plan.pretrain_words_of(config, arm))
        assert of_step == pytest.approx(64 * found, rel=1e-9), arm  # 16 rows of 4, 64 of 1
    whole = 800 * of_pair(48, 64, 1)
    assert steps == {
        "both": 800,
        "mae_compute": math.ceil(whole / of_pair(48, 0, 1)),
        "both_k4": math.ceil(whole / of_pair(48, 64, 4)),
        "part": math.ceil(whole / of_pair(48, 16, 4)),
    }


def test_the_teachers_features_are_counted(tmp_path):
    """A student's step has the teacher's forward pass beside it; without its weights it cannot
    be said, and the study says so before anything runs."""
    student = "objective.name=teacher model.decoder.cross=false model.decoder.latents=64"
    taught = (f"arms.pupil.pretrain={student}", "arms.pupil.teacher=both")
    assert plan.count_training(study(*taught, f"work={tmp_path}"), "pupil") is None
    with pytest.raises(UserError, match=r"arms.mae_compute.compute=true, and reference=pupil has"):
        study(*taught, "reference=pupil")


def test_a_crop_costs_its_encoder_head_and_body(bodies):
    def count(*words):
        named = ["configs/finetune/transfer_body.yaml", "run=x", "data.shards=x", *words]
        return count_crop_flops(parse(FinetuneConfig, named, "finetune train"))

    whole, frozen = count(), count("encoder_lr_mult=0")
    encoder = multiply_vit(64, 96, 4, 3 * 8**2)
    # A frozen encoder has no backward pass, which is twice the forward one.
    assert whole - frozen == 2 * encoder
    assert 0 < frozen - encoder < encoder  # the head and 128 vertices
    deeper = count("model.encoder.depth=5")
    assert deeper - whole == 3 * (encoder - multiply_vit(64, 96, 3, 3 * 8**2))
    assert count("head_first_steps=10") is None and count("robust.share=0.5") is None


def test_scratch_gets_the_operations_of_pre_training(tmp_path, bodies):
    config = study(f"rows={tmp_path}", "arm=both,none,equal,view", "seeds=1", *EQUAL)
    row = plan.Row("equal", 0, 0.1)
    words = plan.finetune_words_of(config, row, "x")
    run = parse(FinetuneConfig, words[2:], "finetune train")
    usual = parse(FinetuneConfig, plan.finetune_words_of(config, row, "x")[2:-1], "finetune train")
    before = parse(PretrainConfig, plan.pretrain_words_of(config, "both"), "pretrain train")
    of_crop = count_crop_flops(usual)
    spent = before.steps * before.samples * of_pair(48, 64, 1) + usual.steps * 32 * of_crop
    assert usual.steps == 600 and run.steps == math.ceil(spent / (32 * of_crop))
    assert not [word for word in words if word.startswith("init=")]
    mine, theirs = (plan.count_training(config, arm) for arm in ("equal", "both"))
    assert mine[0] == 0 and 0 <= sum(mine) - sum(theirs) < 32 * of_crop
    # An arm's own keys count, and those of the pre-training that it shares.
    long = study(*EQUAL, "arms.long.weights=both", "arms.long.finetune=steps=1200")
    long.arms["equal"].equal_compute = "long"
    assert plan.match_steps(long, "equal", plan.finetune_words_of(long, row, "x")[2:]) == (
        math.ceil((spent + 600 * 32 * of_crop) / (32 * of_crop))
    )
    # The first table shows it.
    rows_of(config, lambda arm, seed: 50)
    lines = tables._trained(config, rows.read_rows(config)).splitlines()
    cells = {line.split(" | ")[0][2:]: line.split(" | ") for line in lines[4:]}
    total = f"{spent / 1e12:.1f}"
    assert cells["both kinds of pairs"][5] == f"{total} ({theirs[0] / 1e12:.1f})"
    assert float(cells["equal"][5]) == pytest.approx(float(total), abs=0.11)  # a step more
    assert cells["no pre-training"][5] == "4.7"
    assert cells["both kinds of pairs"][6] == "2 (1)" and cells["equal"][6] == "1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["arms.x.equal_compute=no", "arms.x.scratch=true"], "equal_compute=no is none of the"),
        (["arms.x.equal_compute=both"], "equal_compute=both is for an arm with scratch=true"),
        (["arms.x.equal_compute=none", "arms.x.scratch=true"], "arms.none has scratch=true"),
        (
            ["arms.x.equal_compute=both", "arms.x.scratch=true", "arms.x.finetune=steps=9"],
            "equal_compute=both sets the steps, and arms.x.finetune steps=9",
        ),
        (
            ["arms.x.equal_compute=both", "arms.x.scratch=true", "finetune="],
            "raises fine-tuning steps, and finetune= is not set",
        ),
    ],
)
def test_what_cannot_be_matched_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        study(*words)


def test_what_a_step_costs_must_be_known():
    config = study(*EQUAL, "finetune_keys=head_first_steps=10")
    with pytest.raises(UserError, match=r"equal_compute=both: how many operations arms.both takes"):
        plan.finetune_words_of(config, plan.Row("equal", 0, 0.1), "x")
    words = ["configs/finetune/transfer_body.yaml", "robust.share=0.5"]
    assert operations.count_finetuning(words) == (None, 600)
