"""The running average of the weights: its numbers beside a plain loop in float64, in every layout,
over kills, skipped updates and returns; and who gets it."""

import json

import numpy as np
import pytest
import torch
import toy
import toy_trainer
from clips import make_clip, write_shards
from runs import ROOT, finetune_words, outcome, words
from safetensors import safe_open
from safetensors.numpy import load_file
from torch import nn

from engine.config.parser import parse
from engine.distributed import process_group
from engine.training.average import Average
from engine.training.spike_guard import LAG

EMA = 0.6  # reached after 13 updates of the ramp


def average_plainly(weights, average, ema=EMA, t=0):
    """The average in float64 after arrays of weights, one an update."""
    average = average.astype(np.float64)
    for weight in weights:
        kept = min(ema, (1 + t) / (10 + t))
        average, t = kept * average + (1 - kept) * weight.astype(np.float64), t + 1
    return average


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_average_is_that_of_a_plain_loop_in_float64(dtype):
    """Skipped updates do not move it by a bit; of bf16 weights it is in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(37, 5), nn.Linear(5, 1)).to(dtype)
    names = {weight: name for name, weight in model.named_parameters()}
    average = Average(EMA, names)
    begun = {name: weight.detach().double().numpy() for weight, name in names.items()}
    seen = {name: [] for name in begun}
    for step in range(30):
        bad = torch.tensor(step in (4, 5))
        before = [value.clone() for value in average.tensors.values()]
        with torch.no_grad():
            for weight, name in names.items():
                weight.add_(torch.randn(weight.shape).to(dtype))
                if not bad:
                    seen[name].append(weight.double().numpy())
        average.update(bad)
        moved = [
            not torch.equal(a, b) for a, b in zip(before, average.tensors.values(), strict=True)
        ]
        assert all(moved) if not bad else not any(moved)
    assert average.describe() == {"ema": EMA, "updates": 28}
    for weight, name in names.items():
        plain, found = average_plainly(seen[name], begun[name]), average.tensors[weight]
        assert found.dtype == torch.float32
        assert np.abs(found.numpy() - plain).max() < 2e-6
        assert np.abs(weight.detach().double().numpy() - plain).max() > 0.1


def test_an_update_of_it_asks_the_device_for_nothing_and_is_one_operation_over_all_weights():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Ops(TorchDispatchMode):
        def __torch_dispatch__(self, op, kinds, args=(), kwargs=None):
            seen.append(op.overloadpacket.__name__)
            return op(*args, **(kwargs or {}))

    seen, counts = [], []
    for layers in (1, 20):
        model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(layers)])
        average = Average(EMA, {weight: name for name, weight in model.named_parameters()})
        seen.clear()
        with Ops():
            average.update(torch.tensor(False))
        counts.append(len([name for name in seen if name != "detach"]))
        assert "_fused_sgd_" in seen and "_local_scalar_dense" not in seen
    assert counts[0] == counts[1]


def test_shown_weights_are_the_average_and_then_the_old_bits_whatever_happens():
    model = nn.Linear(3, 2)
    average = Average(EMA, {weight: name for name, weight in model.named_parameters()})
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(torch.pi)
    before = [weight.detach().clone() for weight in model.parameters()]
    with pytest.raises(ZeroDivisionError), average.shown():
        assert all(torch.equal(weight, mean) for weight, mean in average.tensors.items())
        raise ZeroDivisionError
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# Whole runs of the toy.


def recorded(monkeypatch, run, faults, *more):
    """Train the toy in this process: {step: its weight after the update}, and before the first."""
    seen = {}
    update = toy_trainer.Toy.update

    def record(self, step, arrays):
        seen.setdefault(-1, self.model.weight.detach().numpy().copy())
        update(self, step, arrays)
        seen[step] = self.model.weight.detach().numpy().copy()

    with monkeypatch.context() as patch:
        patch.setattr(toy_trainer.Toy, "update", record)
        assert toy_trainer.train(faults, [f"run={run}", *more]) == 0
    return seen


def checkpoint(run, step=24):
    """(weights, optimizer's tensors, header, state, format) of a checkpoint."""
    folder = run / f"checkpoints/step-{step:08d}"
    with safe_open(folder / "model.safetensors", "np") as file:
        header = file.metadata() or {}
    weights, moments = (
        load_file(folder / f"{name}.safetensors") for name in ("model", "optimizer")
    )
    state, marker = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("state", "complete")
    )
    return weights, moments, header, state, marker["format"]


def lines_of(run):
    return outcome(run)[3]


def test_a_run_averages_its_weights_and_trains_as_without(tmp_path, monkeypatch):
    """Two updates are bad. Checkpoints and validation have the average, the rest is untouched."""
    plain, run, bad = tmp_path / "plain", tmp_path / "run", {"nan": [5, 16]}
    seen = recorded(monkeypatch, plain, bad)
    other = recorded(monkeypatch, run, bad, f"optim.ema={EMA}")
    assert all(np.array_equal(other[step], weight) for step, weight in seen.items())
    good = [seen[step] for step in range(24) if step not in bad["nan"]]
    for step, count in ((12, 11), (24, 22)):
        weights, moments, header, state, number = checkpoint(run, step)
        found = average_plainly(good[:count], seen[-1])
        assert np.abs(weights["weight"] - found).max() < 1e-6
        assert number == 2 and state["average"] == {"ema": EMA, "updates": count}
        assert json.loads(header["average"]) == state["average"]
        # Without the key: as before there was one.
        theirs = checkpoint(plain, step)
        assert theirs[2] == {} and theirs[4] == 1 and "average" not in theirs[3]
        assert set(theirs[1]) == {
            f"{part}/{name}"
            for part in ("step", "exp_avg", "exp_avg_sq")
            for name in ("weight", "bias")
        }
        assert set(moments) - set(theirs[1]) == {"trained/weight", "trained/bias"}
        assert all(np.array_equal(moments[name], value) for name, value in theirs[1].items())
        assert all(
            np.array_equal(moments[f"trained/{name}"], value) for name, value in theirs[0].items()
        )
    for mine, its in zip(lines_of(run), lines_of(plain), strict=True):
        assert {k: v for k, v in mine.items() if k != "val/toy"} == {
            k: v for k, v in its.items() if k != "val/toy"
        }
    # Of three equal numbers each time, from 0 to 11.
    said = float(66 * weights["weight"].sum() + 12 * weights["bias"][0])
    assert lines_of(run)[-1]["val/toy"] == pytest.approx(said, rel=1e-5)
    assert lines_of(plain)[-1]["val/toy"] != pytest.approx(said, rel=1e-3)


def test_a_return_to_a_checkpoint_takes_its_average(tmp_path, monkeypatch):
    bad = {"nan": [13, 14, 15]}
    seen = recorded(monkeypatch, tmp_path, bad, "guard.skips=3", f"optim.ema={EMA}")
    steps = [*range(12), *range(15 + LAG + 1, 24)]
    weights, _, _, state, _ = checkpoint(tmp_path)
    assert state["guard"]["ledger"] == [[12, 18]] and state["average"]["updates"] == len(steps)
    plain = average_plainly([seen[step] for step in steps], seen[-1])
    assert np.abs(weights["weight"] - plain).max() < 1e-6


def train_until_a_crash(run, step, *keys):
    with pytest.raises(ValueError, match="a fault of the program"):
        toy_trainer.train({"crash": step}, [f"run={run}", *keys])


def test_ended_and_resumed_it_is_the_same_average_to_the_byte(tmp_path, monkeypatch):
    key = f"optim.ema={EMA}"
    recorded(monkeypatch, tmp_path / "peaceful", {}, key)
    for step in (9, 20):
        train_until_a_crash(tmp_path / "run", step, key)
    recorded(monkeypatch, tmp_path / "run", {}, key)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "peaceful")


def test_the_key_may_come_and_go_when_a_run_resumes(tmp_path, monkeypatch):
    """Without it the run goes on from what was trained; with it again an average begins there."""
    key, run = f"optim.ema={EMA}", tmp_path / "run"
    peaceful = recorded(monkeypatch, tmp_path / "peaceful", {}, key)
    train_until_a_crash(run, 9, key)
    train_until_a_crash(run, 15)
    weights, moments, header, _, number = checkpoint(run, 12)
    assert np.array_equal(weights["weight"], peaceful[11])
    assert number == 1 and header == {} and "trained/weight" not in moments
    seen = recorded(monkeypatch, run, {}, key)
    found = average_plainly([seen[step] for step in range(12, 24)], peaceful[11])
    assert np.abs(checkpoint(run)[0]["weight"] - found).max() < 1e-6


def go_through(tmp_path, stages):
    """Run the toy through [(processes, parallel and what it takes, step of its crash or None)]."""
    for world, kind, crash in stages:
        faults = {} if crash is None else {"crash": crash}
        keys = [f"optim.ema={EMA}", *f"parallel={kind}".split()]
        toy.finish(
            toy.start(tmp_path / "run", faults, *keys, world=world), 0 if crash is None else 1
        )


def near(run, peaceful):
    mine, its = checkpoint(run), checkpoint(peaceful)
    assert mine[3]["average"] == its[3]["average"]
    for one, other in ((mine[0], its[0]), (mine[1], its[1])):
        assert one.keys() == other.keys()
        assert all(np.allclose(one[name], other[name], atol=1e-5) for name in one)
    same = {"step", "val/toy"}
    for a, b in zip(lines_of(run), lines_of(peaceful), strict=True):
        assert all(a[k] == pytest.approx(b[k], rel=1e-4) for k in same & a.keys())


def test_it_goes_on_in_shares_and_in_one_process(tmp_path, monkeypatch):
    """Of the toy's one row of weights the second process has no share."""
    recorded(monkeypatch, tmp_path / "peaceful", {}, f"optim.ema={EMA}")
    go_through(tmp_path, [(2, "fsdp", 15)])
    recorded(monkeypatch, tmp_path / "run", {}, f"optim.ema={EMA}")
    near(tmp_path / "run", tmp_path / "peaceful")


@pytest.mark.long
def test_it_goes_on_in_copies_and_in_copies_of_shares(tmp_path, monkeypatch):
    recorded(monkeypatch, tmp_path / "peaceful", {}, f"optim.ema={EMA}")
    go_through(
        tmp_path,
        [(2, "ddp", 9), (4, "hsdp shard_over=2", 15), (2, "fsdp", 20), (2, "ddp", None)],
    )
    near(tmp_path / "run", tmp_path / "peaceful")


# Who gets it.


def test_who_loads_a_checkpoint_or_begins_from_it_has_the_average(tmp_path, monkeypatch):
    import pretrain
    from pretrain.config import PretrainConfig
    from pretrain.train import make_trainer, train

    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [make_clip(i, size=56) for i in range(20)], 20)
    run = tmp_path / "run"

    def configure(folder, *more):
        file, *rest = words(folder, tmp_path / "shards", "data.workers=0", "steps=3", *more)
        return parse(PretrainConfig, [str(ROOT / file), *rest], "pretrain train")

    assert train(configure(run, "optim.ema=0.9", "activation_checkpointing=true")) == 0
    weights, moments, header, _, _ = checkpoint(run, 3)
    assert json.loads(header["average"]) == {"ema": 0.9, "updates": 3}
    loaded = pretrain.load(run).state_dict()
    begun = make_trainer(
        configure(tmp_path / "next", f"init={run}"),
        process_group.Processes(0, 1, torch.device("cpu")),
    ).model.state_dict()
    apart = [
        not np.array_equal(weights[name.removeprefix("trained/")], value)
        for name, value in moments.items()
        if name.startswith("trained/")
    ]
    assert np.mean(apart) > 0.9
    for name, value in weights.items():
        assert np.array_equal(loaded[name].numpy(), value), name
        assert np.array_equal(begun[name].numpy(), value), name


def test_a_fine_tuned_network_predicts_with_the_average(tmp_path, people):
    from finetune.config import FinetuneConfig
    from finetune.inference.predictor import Predictor
    from finetune.train import train

    keys = ["data.workers=0", "steps=3", "optim.ema=0.9"]
    file, *rest = finetune_words(tmp_path / "run", "hand", people["hand"], *keys)
    assert train(parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")) == 0
    weights, moments, _, _, _ = checkpoint(tmp_path / "run", 3)
    found = Predictor(tmp_path / "run", device="cpu").model.state_dict()
    for name, value in weights.items():
        assert np.array_equal(found[name].numpy(), value), name
    trained, mean = moments["trained/head.queries"], weights["head.queries"]
    assert not np.array_equal(trained, mean)
