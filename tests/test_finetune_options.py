"""How the encoder is trained when a network is fine-tuned: frozen, released later, or slower from
layer to layer."""

import re

import pytest
import timm
import torch
from runs import ROOT, apart, finetune_words, finish, start
from safetensors.numpy import load_file

from engine.checkpoint import restore
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from engine.training.schedule import warmup_again
from finetune.config import FinetuneConfig
from finetune.layers import count_layers_after
from finetune.train import make_trainer

STEPS = ["steps=8", "checkpoint.every=1", "checkpoint.keep=9", "data.workers=0", "log.val_every=0"]
FIRST = ["head_first_steps=3", "optim.ema=0.9", "optim.warmup=2"]


def config_of(run, shards, *more):
    file, *rest = finetune_words(run, "body", shards, *STEPS, *more)
    return parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")


def trainer_of(config):
    return make_trainer(config, Processes(0, 1, torch.device("cpu")))


def take_steps(trainer, first, last):
    for step, arrays in trainer.loader.batches(first, last):
        trainer.update(step, arrays)


def tensors_of(trainer):
    """{name: array} of weights, their average and the optimizer's state."""
    found = {
        **trainer.model.state_dict(),
        **restore.list_optimizer_tensors(trainer.optimizer, trainer.names),
    }
    if trainer.average:
        means = trainer.average.tensors.items()
        found |= {f"average/{trainer.names[weight]}": mean for weight, mean in means}
    return {name: value.detach().numpy().copy() for name, value in found.items()}


def test_layers_are_counted_as_timm_counts_them():
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    checked = 0
    for group in param_groups_layer_decay(model, layer_decay=0.5):
        for parameter in group["params"]:
            name = names[parameter]
            if not name.startswith("head."):
                # timm puts the norm to the last block; BEiT and MAE to the head, as is done here.
                after = count_layers_after(f"encoder.{name}", 3) + name.startswith("norm.")
                assert group["lr_scale"] == 0.5**after, name
                checked += 1
    assert checked == len(names) - 2
    assert count_layers_after("head.proj.weight", 3) == 0


def test_learning_rates_fall_from_layer_to_layer(tmp_path, people):
    keys = ["encoder_lr_mult=0.5", "optim.layer_decay=0.75", "model.encoder.depth=3"]
    trainer = trainer_of(config_of(tmp_path, people["body"], *keys))
    take_steps(trainer, 0, 1)
    rates = {}
    for group in trainer.optimizer.param_groups:
        rates |= {trainer.names[weight]: group["lr"] for weight in group["params"]}
    head = next(rate for name, rate in rates.items() if name.startswith("head."))
    assert rates["encoder.norm.weight"] == pytest.approx(0.5 * head)
    assert rates["encoder.blocks.2.mlp.fc1.weight"] == pytest.approx(0.5 * 0.75 * head)
    assert rates["encoder.blocks.0.norm1.bias"] == pytest.approx(0.5 * 0.75**3 * head)
    assert rates["encoder.patch_embed.proj.weight"] == pytest.approx(0.5 * 0.75**4 * head)


def test_a_frozen_encoder_has_no_gradient_no_state_and_no_average(tmp_path, people):
    trainer = trainer_of(config_of(tmp_path, people["body"], "encoder_lr_mult=0", "optim.ema=0.9"))
    before = {name: value.clone() for name, value in trainer.model.encoder.state_dict().items()}
    seen = []
    trainer.model.encoder.register_forward_hook(lambda module, given, out: seen.append(out))
    take_steps(trainer, 0, 3)
    assert len(seen) == 3 and not any(out.requires_grad for out in seen)
    found = tensors_of(trainer)
    assert not [name for name in found if re.search("(exp_avg|average)/encoder", name)]
    assert any(name.startswith("exp_avg/head.") for name in found)
    for name, value in before.items():
        assert torch.equal(value, trainer.model.encoder.state_dict()[name])


def test_the_head_comes_first_and_a_run_resumes_at_any_step_to_the_bit(tmp_path, people):
    config = config_of(tmp_path / "run", people["body"], *FIRST)
    finish(
        start(
            finetune_words(config.run, "body", people["body"], *STEPS, *FIRST),
            command="finetune train",
        )
    )
    folders = sorted((tmp_path / "run/checkpoints").glob("step-*"))
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    states = [load_file(folder / "optimizer.safetensors") for folder in folders]
    name = "encoder.blocks.0.mlp.fc1.weight"
    # The checkpoint of step s has taken s updates; the fourth is the first that moves the encoder.
    for step in (1, 2, 3):
        assert (weights[step - 1][name] == weights[0][name]).all()
        assert f"exp_avg/{name}" not in states[step - 1]
        assert (states[step - 1][f"trained/{name}"] == weights[0][name]).all()
    assert (states[3][f"trained/{name}"] != weights[0][name]).any()
    assert states[3][f"step/{name}"] == 1 and states[-1][f"step/{name}"] == 5
    for step in (2, 3, 4):
        trainer = trainer_of(config)
        assert trainer.load(folders[step - 1]) == step
        take_steps(trainer, step, 8)
        found = tensors_of(trainer)
        for key, value in states[-1].items():
            mine = found[key.removeprefix("trained/")]
            assert (mine == value).all(), (step, key)
        for key, value in weights[-1].items():
            assert (found.get(f"average/{key}", found[key]) == value).all(), (step, key)


def test_a_released_encoder_warms_up_for_itself(tmp_path, people):
    assert [warmup_again(step, 4, 4) for step in (4, 5, 7, 9)] == [0.25, 0.5, 1, 1]
    assert warmup_again(0, 0, 10) == 1 and warmup_again(4, 4, 0) == 1
    trainer = trainer_of(config_of(tmp_path, people["body"], "head_first_steps=2"))
    take_steps(trainer, 0, 3)
    rates = {group["begins"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates[2] == pytest.approx(rates[0] / 2)
    # What a usual norm is was learnt of the head alone, and is learnt anew.
    assert int(trainer.guard.stats[2]) == 1


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_several_processes_release_it_as_one_does(tmp_path, people, kind):
    keys = [*STEPS, "head_first_steps=3", "optim.layer_decay=0.75"]
    alone, both = tmp_path / "alone", tmp_path / "both"
    runs = [
        start(finetune_words(alone, "body", people["body"], *keys), 1, "finetune train"),
        start(
            finetune_words(both, "body", people["body"], *keys, f"parallel={kind}"),
            2,
            "finetune train",
        ),
    ]
    for run in runs:
        finish(run)
    files = [run / "checkpoints/step-00000008/model.safetensors" for run in (alone, both)]
    assert apart(*map(load_file, files)) < 1e-5


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["encoder_lr_mult=0", "head_first_steps=2"], "head_first_steps=2"),
        (["encoder_lr_mult=0", "optim.layer_decay=0.5"], "optim.layer_decay=0.5"),
        (["head_first_steps=8"], "head_first_steps=8 is not below steps=8"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(tmp_path, keys, said):
    with pytest.raises(UserError, match=re.escape(said)):
        config_of(tmp_path, "none", *keys)


def test_a_share_of_crops_is_changed_against_the_network(tmp_path, people):
    """Their losses grow, the others' stay, and the step goes on from the changed images."""
    keys = ["robust.share=0.5", "robust.radius=8", "batch=24"]
    plain = trainer_of(config_of(tmp_path / "a", people["body"], "batch=24"))
    trainer = trainer_of(config_of(tmp_path / "b", people["body"], *keys))
    trainer.model.load_state_dict(plain.model.state_dict())
    (_, arrays), *_ = plain.loader.batches(0, 1)
    batch = plain.task.to_device(arrays)
    rows = trainer.task.step_module.attack.choose(batch["tags"])
    changed = torch.zeros(24, dtype=torch.bool)
    changed[rows] = True
    assert 3 < len(rows) < 21
    with torch.no_grad():
        before, after = plain.task.score_samples(batch), trainer.task.score_samples(batch)
    assert torch.equal(before[~changed], after[~changed])
    assert (after - before)[changed].mean() > 0
    assert not any(p.grad is not None for p in trainer.model.parameters())
    take_steps(trainer, 0, 1)
    assert torch.isfinite(trainer.sums).all()
    with pytest.raises(UserError, match="parallel=fsdp"):
        config_of(tmp_path / "c", "none", "robust.share=0.1", "parallel=fsdp")
