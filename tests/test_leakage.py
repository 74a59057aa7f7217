"""Nobody is tested on what was seen in training, wherever the weights went in between."""

import json
import random
import shutil

import pytest
import torch
from clips import make_clip, write_shards
from runs import FINETUNE, ROOT, finetune_words, words

from data.format.index import read_index
from data.format.shards import find_shards
from data.sampling.seen import Seen, unpack
from engine.checkpoint import checkpoints
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from engine.run.run_folder import RunFolder
from finetune.config import FinetuneConfig
from finetune.evaluation.evaluate import main as evaluate_main
from finetune.page.folder import read_folder
from finetune.report import render_page
from finetune.train import make_trainer as make_finetuner
from pretrain import files, header, probe, weights
from pretrain.config import PretrainConfig
from pretrain.train import make_trainer

ONE = Processes(0, 1, torch.device("cpu"))
NETWORK = [
    word for word in FINETUNE if word.startswith("model.")
]  # the encoder that fine-tuning takes


def test_a_record_is_small_exact_and_told_apart_when_damaged():
    chance = random.Random(1)
    clips = {f"{chance.getrandbits(64):016x}": chance.randrange(1, 5000) for _ in range(20_000)}
    who, listed = (
        frozenset(chance.getrandbits(64) for _ in range(1000)),
        frozenset(sorted(clips)[::3]),
    )
    seen = Seen(
        clips,
        who,
        listed,
        frozenset({"synthetic", "real"}),
        ("x.pth does not say what it was trained on",),
    )
    text = seen.pack()
    assert (
        unpack(text, "x") == seen
        and text == Seen(dict(sorted(clips.items())), who, listed, seen.kinds, seen.unknown).pack()
    )
    assert len(text) < 16 * len(clips)
    for harm in (
        text[:-1],
        text.replace("20000", "19999"),
        text.replace('"digests": "', '"digests": "AAAA'),
        "{}",
        "[]",
        "7",
    ):
        with pytest.raises(
            UserError, match=r"x\.safetensors: its record of what training saw is damaged"
        ):
            unpack(harm, "x.safetensors")
    with pytest.raises(UserError, match="format 9; this software reads up to 1"):
        unpack(text.replace('"format": 1', '"format": 9'), "x")
    zero, one = "0" * 16, "1" * 16
    more = (
        Seen({zero: 3})
        .union(Seen({zero: 5, one: 1}, unknown=("a",)))
        .union(Seen({zero: 2}, unknown=("a",)))
    )
    assert more == Seen({zero: 5, one: 1}, unknown=("a",)) and unpack(Seen().pack(), "x") == Seen()


def pretrainer(run, shards, *more):
    file, *rest = words(run, shards, "data.workers=0", *NETWORK, *more)
    return make_trainer(
        parse(PretrainConfig, [str(ROOT / file.replace("body", "hand")), *rest], "pretrain train"),
        ONE,
    )


def finetuner(run, shards, *more):
    file, *rest = finetune_words(run, "hand", shards, "data.workers=0", "data.val_clips=2", *more)
    return make_finetuner(parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train"), ONE)


def keep(trainer, step):
    """A checkpoint of the trainer, after an update, in its run's folder, as the loop writes it."""
    for number, arrays in trainer.loader.batches(step - 1, step):
        trainer.update(number, arrays)
    run, error = trainer.open_run()
    assert error is None
    trainer.save(run, step, True)
    run.close()
    trainer.close()
    return RunFolder(trainer.config.run).checkpoint(step)


def counted(paths, val_arrays):
    """{digest: clips trained on} of one source, counted by hand: the last clips are for
    validation."""
    clips, out = {path: len(read_index(path)) for path in paths}, {}
    left = min(val_arrays, sum(clips.values()) // 10)
    for path in reversed(paths):
        gone = min(left, clips[path])
        left -= gone
        if clips[path] > gone:
            out[read_index(path).digest] = clips[path] - gone
    return out


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, people):
    """(checkpoint's folder, {digest: clips seen}) of a pre-training on the last two of three shards
    of hands."""
    folder = tmp_path_factory.mktemp("pretrained")
    paths = find_shards(str(people["hand"]))[1:]
    shards = ",".join(map(str, paths))
    return keep(pretrainer(folder / "pre", shards, "data.val_clips=1"), 2), counted(paths, 1)


def test_what_was_seen_is_found_wherever_the_weights_are(pretrained, tmp_path, monkeypatch):
    at, expected = pretrained
    run = at.parents[1]
    shutil.copytree(run, tmp_path / "moved")
    (tmp_path / "moved" / "manifest.json").unlink()
    shutil.copytree(at, tmp_path / "alone")
    shutil.copy(at / "model.safetensors", tmp_path / "file.safetensors")
    weights.export(run, tmp_path / "encoder.safetensors")
    weights.export(run, tmp_path / "croco.pth", layout="croco")
    weights.export(tmp_path / "croco.pth", tmp_path / "again.safetensors")
    monkeypatch.chdir(tmp_path)
    places = [
        run,
        at,
        "moved",
        "moved/checkpoints/step-00000002",
        "alone",
        "file.safetensors",
        "encoder.safetensors",
        "croco.pth",
        "again.safetensors",
    ]
    for place in places:
        seen = header.read_seen(place)
        assert seen.clips == expected and not seen.unknown and seen.kinds == {"synthetic"}, place
    card = (tmp_path / "encoder.md").read_text()
    assert f"{sum(expected.values())} clips in 2 shards, people: synthetic" in card


def test_it_goes_on_through_every_beginning_and_every_restart(
    pretrained, people, tmp_path, monkeypatch, capsys
):
    at, expected = pretrained
    weights.export(at, tmp_path / "encoder.safetensors")
    monkeypatch.chdir(tmp_path)
    first = find_shards(str(people["hand"]))[0]
    own = counted([first], 2)
    both = {**expected, **own}
    tuned = keep(finetuner("tuned", first, "init=encoder.safetensors"), 2)
    assert header.read_seen(tuned).clips == both
    # Resumed after a restart, in another folder, without what it began from.
    (tmp_path / "encoder.safetensors").unlink()
    (tmp_path / "elsewhere").mkdir()
    shutil.move("tuned", "elsewhere/moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    trainer = finetuner("moved", first, "init=encoder.safetensors")
    trainer.load(checkpoints.newest("moved"))
    assert header.read_seen(keep(trainer, 4)).clips == both
    # A pre-training from a pre-training.
    (tmp_path / "other").mkdir()
    others = write_shards(tmp_path / "other", [make_clip(i, size=56) for i in range(12)], 12)
    trainer = pretrainer(
        tmp_path / "second",
        tmp_path / "other",
        "data.val_clips=1",
        "data.pairs.crops=any",
        f"init={at}",
    )
    second = header.read_seen(keep(trainer, 2))
    assert second.clips == {**expected, **counted(others, 1)} and second.kinds == {
        "synthetic",
        "real",
    }
    with pytest.raises(
        UserError,
        match=r"probe.shards: .*shard-000001.tar is a shard of which .* was trained on 8 clips",
    ):
        pretrainer(
            tmp_path / "third",
            first,
            f"init={at}",
            "log.probe_every=2",
            "probe.clips=12",
            f"probe.shards={','.join(find_shards(str(people['hand']))[1:])}",
        )
    assert "does not say" not in capsys.readouterr().err
    probed = ["crops=hand", "clips=12", "device=cpu", f"shards={people['hand']}"]
    for source in (
        tmp_path / "second",
        tmp_path / "second/checkpoints/step-00000002/model.safetensors",
    ):
        with pytest.raises(
            UserError, match=r"is a shard of which .*second.* was trained on 8 clips"
        ):
            probe.main([str(source), *probed])


def evaluated(run, people, capsys):
    """(evaluation.json, what was printed) of a run on all shards of hands."""
    capsys.readouterr()
    assert (
        evaluate_main(
            [str(run), f"data.shards={people['hand']}", "device=cpu", "examples=1", "clips=24"]
        )
        == 0
    )
    folder = run if (run / "config.yaml").exists() else run.parents[1]
    found = sorted(folder.glob("evaluation*/evaluation.json"))
    return json.loads(found[-1].read_text()), capsys.readouterr().out


def test_an_evaluation_leaves_out_what_pre_training_saw_or_says_that_it_cannot(
    pretrained, people, tmp_path, monkeypatch, capsys
):
    at, expected = pretrained
    weights.export(at, tmp_path / "encoder.safetensors")
    monkeypatch.chdir(tmp_path)
    first = find_shards(str(people["hand"]))[0]
    keep(finetuner(tmp_path / "finetune_hand", first, "init=encoder.safetensors"), 2)
    monkeypatch.chdir(ROOT)
    found, said = evaluated(tmp_path / "finetune_hand", people, capsys)
    # Of 24 clips those that neither was trained on.
    assert found["clips"] == 24 - sum(expected.values()) - sum(counted([first], 2).values()) == 1
    assert found["warnings"] == [] and "leakage" not in said
    # The same encoder in a file that does not say what it saw.
    tensors = weights.read(tmp_path / "encoder.safetensors").tensors
    config = json.loads((tmp_path / "encoder.json").read_text())["model"]
    weights.write_safetensors(
        tensors, tmp_path / "encoder.safetensors", {"format": "pt", "model": json.dumps(config)}
    )
    shutil.rmtree(tmp_path / "finetune_hand")
    keep(
        finetuner(tmp_path / "finetune_hand", first, f"init={tmp_path / 'encoder.safetensors'}"), 2
    )
    found, said = evaluated(tmp_path / "finetune_hand", people, capsys)
    assert found["clips"] == 24 - sum(counted([first], 2).values())
    words = "what pre-training saw is unknown: leakage cannot be excluded"
    assert words in found["warnings"][0] and "encoder.safetensors" in found["warnings"][0]
    assert said.index(words) < said.index("MPJPE") and "this run (leakage not excluded)" in said
    html = render_page(read_folder(str(tmp_path)), 1, 0)
    assert html.count(words) == 1 and "leakage not excluded" in html


def test_a_run_of_before_the_record_is_known_by_its_manifest(pretrained, people, tmp_path):
    """What its folder says counts; what it began from is followed as far as it is there, and else
    is unknown."""
    at, expected = pretrained

    def as_of_old(path):
        tensors = files.read_content(path).tensors
        weights.write_safetensors(tensors, path, {"format": "pt"})

    pre, run = tmp_path / "pre", tmp_path / "tuned"
    shutil.copytree(at.parents[1], pre)
    first = find_shards(str(people["hand"]))[0]
    began = pre / "checkpoints" / at.name
    tuned = keep(finetuner(run, first, f"init={began}"), 2)
    both = {**expected, **counted([first], 2)}
    for path in (began, tuned):
        as_of_old(path / "model.safetensors")
    seen = header.read_seen(tuned)
    assert seen.clips == both and len(seen.unknown) == 0
    shutil.move(pre, tmp_path / "away")
    seen = header.read_seen(tuned)
    assert seen.clips == counted([first], 2) and seen.unknown == (
        f"init={at.name}, which tuned began from, is not found",
    )
    shutil.copy(tuned / "model.safetensors", tmp_path / "file.safetensors")
    seen = header.read_seen(tmp_path / "file.safetensors")
    assert not seen.clips and "does not say what it was trained on" in seen.unknown[0]
