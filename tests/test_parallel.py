"""Copies in shares: who says what to whom, what comes of it, and that nobody can ask for what does
not divide."""

import os
import socket
import subprocess
import sys

import pytest
import shares
import torch
import toy
from clips import make_clip, write_shards
from runs import ROOT, apart, finish, outcome, start, words
from torch import nn

from engine.config.train_config import TrainConfig
from engine.errors import UserError


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """[what each of four processes saw] in two copies of two shares."""
    out = tmp_path_factory.mktemp("seen")
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    env = {
        **os.environ,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    toy.finish(
        [
            subprocess.Popen(
                [sys.executable, shares.__file__, str(rank), str(out)],
                cwd=ROOT,
                env=env,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for rank in range(4)
        ]
    )
    return [torch.load(out / f"{rank}.pt") for rank in range(4)]


def test_copies_in_shares_learn_what_one_process_learns(seen):
    torch.manual_seed(0)
    model = shares.Net()
    step_module, optimizer, norms = shares.Step(model), shares.optimizer_of(model), []
    for step in range(shares.STEPS):
        step_module(shares.rows(step)).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), shares.LIMIT))
        optimizer.step()
        optimizer.zero_grad()
    assert max(norms) > shares.LIMIT  # some were clipped
    for rank in seen:
        assert torch.allclose(rank["norms"], torch.stack(norms), rtol=1e-5)
        assert all(
            torch.allclose(rank["whole"][name], p, atol=1e-6)
            for name, p in model.named_parameters()
        )
        assert torch.allclose(rank["called"], model(shares.rows(99)), atol=1e-5)


def test_each_share_is_summed_once_a_step_within_its_copy_and_then_over_the_copies(seen):
    for rank in seen:
        assert set(rank["unsynced"]) == {("gather", 2)}
        # The root's weights and two blocks.
        assert sorted(set(rank["synced"])) == [("gather", 2), ("scatter", 2), ("sum", 2)]
        assert rank["synced"].count(("scatter", 2)) == rank["synced"].count(("sum", 2)) == 3
        # What a checkpoint holds is gathered within a copy; what comes from one is cut by each for
        # itself.
        assert rank["gathered"] == [("gather", 2)] * len(rank["whole"])
        assert rank["cutting"] == []


def test_a_share_is_cut_from_the_whole_as_it_was_made(seen):
    for number, rank in enumerate(seen):
        assert rank["alike"]
        for name, share in rank["own"].items():
            assert torch.equal(rank["cut"][name], share) and torch.equal(
                rank["spread"][name], share
            )
            assert torch.equal(share, seen[(number + 2) % 4]["own"][name])  # its copy's
            pair = [seen[number // 2 * 2 + place]["own"][name] for place in (0, 1)]
            assert torch.equal(torch.cat(pair), rank["whole"][name])


def test_copies_that_add_up_otherwise_still_take_one_norm_and_stay_copies(seen):
    norms, gradients = zip(*(rank["disagreed"] for rank in seen), strict=True)
    assert len({float(norm) for norm in norms}) == 1
    assert torch.equal(gradients[0], gradients[2]) and torch.equal(gradients[1], gradients[3])


def test_all_cut_the_world_as_the_first_says_and_wait_as_long(seen):
    """Two processes on a node, and one each on two others."""
    assert [rank["node"] for rank in seen] == [2] * 4
    assert [rank["timeouts"] for rank in seen] == [[77, 77]] * 4


def test_in_bf16_blocks_are_gathered_in_bf16_and_are_as_near_to_float32_as_copies(seen):
    """Two copies of two shares beside four copies, two parts of a batch each."""
    for rank in seen:
        found = rank["completed"]
        for bf16 in (False, True):
            copies, shares = found[bf16, 1], found[bf16, 2]
            assert copies["block"] == copies["root"] == shares["root"] == torch.float32
            assert shares["block"] == (torch.bfloat16 if bf16 else torch.float32)
            assert copies["tokens"] == shares["tokens"] == torch.float32
            assert copies["mean"] == shares["mean"] == 0  # a buffer is the first process's on all
            assert all(gradient.dtype == torch.float32 for gradient in shares["gradients"].values())
        exact = found[False, 1]
        assert torch.allclose(found[False, 2]["losses"], exact["losses"], rtol=1e-6)
        assert off(found[False, 2], exact) < 1e-6
        # What is lost by bf16 is the same however it is spread, and is there to be seen.
        copies, shares = off(found[True, 1], exact), off(found[True, 2], exact)
        assert 1e-3 < copies < 0.02 and shares < 1.3 * copies
        assert torch.allclose(found[True, 2]["losses"], exact["losses"], rtol=5e-3)


def off(one, other):
    """Distance of all gradients as one vector, over the length of the other's."""
    names = other["gradients"]
    ours, theirs = (
        torch.cat([side["gradients"][name].flatten() for name in names]) for side in (one, other)
    )
    return float((ours - theirs).norm() / theirs.norm())


def test_bad_updates_are_skipped_and_undone_by_all_copies(tmp_path):
    """The loss of the last process is NaN or Inf; three in a row send all back to a checkpoint."""
    bad, words = {"nan": [3, 13, 14, 15], "on": 3}, ["guard.skips=3"]
    alone = toy.start(tmp_path / "one", bad | {"on": 0}, *words)
    four = toy.start(tmp_path / "four", bad, *words, "parallel=hsdp", "shard_over=2", world=4)
    toy.finish(alone)
    assert "back to the checkpoint of step 12" in toy.finish(four)[0]
    (name, one, _, here), (other, two, _, there) = (
        outcome(tmp_path / run) for run in ("one", "four")
    )
    assert name == other and [line.keys() for line in here] == [line.keys() for line in there]
    assert here[-1]["guard/skipped"] == 4 and here[-1]["guard/rollbacks"] == 1
    assert all(
        a[k] == pytest.approx(b[k], rel=1e-4, abs=1e-6)
        for a, b in zip(here, there, strict=True)
        for k in a
    )
    assert (
        apart(
            *(
                {
                    key: torch.frombuffer(bytearray(data), dtype=torch.float32).numpy()
                    for key, data in weights.items()
                }
                for weights in (one, two)
            )
        )
        < 2e-5
    )


@pytest.mark.parametrize(
    "kind,over,world,node,holders",
    [
        ("ddp", None, 8, 4, 1),
        ("fsdp", None, 8, 4, 8),
        ("hsdp", None, 8, 4, 4),
        ("hsdp", 2, 8, 4, 2),
        ("hsdp", 8, 16, 4, 8),
        ("hsdp", None, 4, 4, 4),
        ("fsdp", None, 1, 1, 1),
        ("hsdp", None, 1, 1, 1),
        ("hsdp", 8, 1, 1, 1),
    ],
)
def test_so_many_processes_hold_a_copy(kind, over, world, node, holders):
    config = TrainConfig(run="x", parallel=kind, shard_over=over)
    config.check()
    config.check_processes(world, node)
    assert config.holders(world, node) == holders


@pytest.mark.parametrize(
    "over,world,node,said",
    [
        (3, 4, 4, "parallel=hsdp: 4 processes do not divide by shard_over=3"),
        (8, 4, 4, "parallel=hsdp: 4 processes do not divide by shard_over=8"),
        (None, 8, 3, "parallel=hsdp: 8 processes do not divide by the 3 processes of a node"),
        (None, 8, 1, "parallel=hsdp: a node has 1 process of 8"),
    ],
)
def test_a_world_that_does_not_divide_is_refused_with_both_numbers(over, world, node, said):
    with pytest.raises(UserError, match=said):
        TrainConfig(run="x", parallel="hsdp", shard_over=over).check_processes(world, node)


def test_a_key_that_nothing_would_read_is_refused():
    with pytest.raises(UserError, match="shard_over=4 is for parallel=hsdp, and parallel=fsdp"):
        TrainConfig(run="x", parallel="fsdp", shard_over=4).check()


@pytest.mark.long
def test_compiled_blocks_in_shares_that_compute_twice_learn_the_same(tmp_path):
    """Minutes of compiling on two cores, in which no line is written; it is no hang."""
    (tmp_path / "shards").mkdir()
    write_shards(tmp_path / "shards", [make_clip(i, size=56) for i in range(40)], 20)
    keys = ["steps=4", "data.workers=0"]
    finish(start(words(tmp_path / "one", tmp_path / "shards", *keys)))
    keys += ["parallel=fsdp", "activation_checkpointing=true", "compile=on"]
    said = finish(start(words(tmp_path / "two", tmp_path / "shards", *keys), 2))
    assert said.count("the first step compiles the network's blocks") == 1
    (_, one, _, here), (_, two, _, there) = (outcome(tmp_path / run) for run in ("one", "two"))
    assert all(
        a[k] == pytest.approx(b[k], rel=1e-4, abs=1e-6)
        for a, b in zip(here, there, strict=True)
        for k in a
    )
    assert (
        apart(
            *(
                {
                    key: torch.frombuffer(bytearray(data), dtype=torch.float32).numpy()
                    for key, data in weights.items()
                }
                for weights in (one, two)
            )
        )
        < 2e-5
    )
