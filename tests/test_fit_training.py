"""Fits while a network trains: which are kept, what is learnt from them, and how a run resumes."""

import re

import numpy as np
import pytest
import torch
from runs import ROOT, finetune_words, outcome
from test_mixed_labels import keypoints_of, label_anew

from data.format.clip import decode_meta
from data.format.labels import Labels
from data.format.samples import read_samples
from data.format.shards import shard_name
from data.loading.crop_labels import find_label_kind
from data.loading.crops import TAGS
from engine.config.parser import parse
from engine.distributed.process_group import Processes
from engine.errors import UserError
from engine.pose_metrics import mpjpe
from engine.training.shares import Shares
from finetune.config import FinetuneConfig
from finetune.fit import training
from finetune.fit.labels import Shown, label_clip
from finetune.fit.observed import Stretch, View
from finetune.fit.prior import sample_people
from finetune.fit.table import Fit, FitTable, read_fits, write_fits
from finetune.train import make_trainer, train

CPU = Processes(0, 1, torch.device("cpu"))
FITS = [
    "data.rules.labels=any",
    "data.val_clips=0",
    "data.workers=0",
    "fit_every=3",
    "fit.steps=9",
    "fit.max_error=0.1",
]
DEFAULTS = ["fit.steps=120", "fit.max_error=0.05"]


def only_keypoints(old, crops):
    """Labels as a finder's: nothing in 3D, and nobody knows how much of the person is seen."""
    return Labels(np.arange(len(crops)), keypoints_of(old, crops))


@pytest.fixture(scope="module")
def hidden(tmp_path_factory, people):
    """Eight synthetic humans with their keypoints alone."""
    folder = label_anew(people["body"], tmp_path_factory.mktemp("hidden") / "all", only_keypoints)
    return folder / shard_name(0)


@pytest.fixture(scope="module")
def beginning(tmp_path_factory, people):
    """A network that has seen one batch with labels, and knows their mean body."""
    run = tmp_path_factory.mktemp("beginning") / "run"
    words = "steps=2", "data.workers=0", "data.val_clips=0"
    assert train(config_of(run, people["body"], *words)) == 0
    return run


@pytest.fixture(scope="module", autouse=True)
def small_prior(bodies):
    sample = sample_people(bodies["anny"], 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "sample_body", lambda body: sample)
        yield


def config_of(run, shards, *more):
    file, *rest = finetune_words(run, "body", shards, *more)
    return parse(FinetuneConfig, [str(ROOT / file), *rest], "finetune train")


def task_of(run, shards, *more):
    return make_trainer(config_of(run, shards, *FITS, *more), CPU).task


def make_fit(person, energy, kept=(True, True), value=0.0):
    count = len(kept)
    labels = {"pose": np.full((count, 3), value, np.float32)}
    return Fit(person, energy, np.full(count, 0.01, np.float32), np.array(kept), labels)


def make_table():
    """Two people, each seen by one camera at two instants, each a clip of its own."""
    stretches = []
    for name in "ab":
        views = [
            View("cam", t, np.eye(3), np.eye(3, 4), None, None, 1.0, [("x.tar", name, n)])
            for n, t in enumerate((0.5, 0.7))
        ]
        stretches.append(Stretch(name, "body", "coco17", views))
    return FitTable(stretches, {("x.tar", "a"): (0, 0, 4), ("x.tar", "b"): (0, 0, 7)})


def tag(index, crop):
    row = np.zeros(len(TAGS), np.int64)
    row[TAGS.index("index")], row[TAGS.index("crop")] = index, crop
    return row


def test_the_better_fit_of_each_person_is_kept():
    table = make_table()
    assert len(table.offer([make_fit(0, 5.0, value=1), make_fit(1, 9.0, (True, False), 2)])) == 2
    worse, same, no_number = make_fit(0, 6.0, value=3), make_fit(0, 5.0), make_fit(1, np.nan)
    assert table.offer([worse, same, no_number]) == []
    tags = np.stack([tag(7, 1), tag(4, 1), tag(7, 0), tag(5, 0)])
    rows, found = table.find(tags)
    # The second instant of b does not fit, and nobody fitted clip 5.
    assert rows == [1, 2] and found["pose"][:, 0].tolist() == [1, 2]
    better = make_fit(1, 8.0, value=4)
    assert table.offer([better]) == [better]
    rows, found = table.find(tags)
    assert rows == [0, 1, 2] and found["pose"][:, 0].tolist() == [4, 1, 4]
    # One that the shards hold and that is better leaves the loader's labels as they are.
    of_shards = make_fit(1, 7.0)
    of_shards.labels = {}
    table.offer([of_shards])
    assert table.find(tags)[0] == [1]


def test_fits_are_written_and_read_back(tmp_path):
    fits = [make_fit(3, -1.5, (True,), 7), make_fit(1, 2.0, (False, True), 8)]
    path = tmp_path / "fits" / "step-00000003.npz"
    write_fits(path, fits)
    first = path.read_bytes()
    write_fits(path, fits)
    assert path.read_bytes() == first
    for one, other in zip(fits, read_fits(path), strict=True):
        assert (one.person, one.energy) == (other.person, other.energy)
        assert np.array_equal(one.kept, other.kept) and np.array_equal(one.error, other.error)
        assert np.array_equal(one.labels["pose"], other.labels["pose"])
    write_fits(path, [])
    assert read_fits(path) == []
    path.write_bytes(first[: len(first) // 2])
    with pytest.raises(UserError, match=re.escape(f"{path} is damaged")):
        read_fits(path)
    path.unlink()
    with pytest.raises(UserError, match=re.escape(f"{path} is missing: a run with fit_every")):
        read_fits(path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, hidden, beginning):
    """(Trainer whose people were fitted once, {name: finetune.fit.fitter.Fitted})."""
    run = tmp_path_factory.mktemp("fitted") / "run"
    run.mkdir()
    words = [*FITS, "fit.steps=20", "steps=60", "optim.lr=0.1"]
    words += ["init_head=true", f"init={beginning}"]
    trainer = make_trainer(config_of(run, hidden, *words), CPU)
    fits, made = trainer.task.fits, {}
    fits._fitter = fits._open(0)
    fit = fits._fitter.fit

    def keep(stretches, answers):
        found = fit(stretches, answers)
        made.update((one.stretch.name, one) for one in found)
        return found

    fits._fitter.fit = keep
    trainer.task.prepare_step(0, Shares(CPU))
    return trainer, made


def test_what_is_learnt_is_what_the_fit_would_write(fitted, bodies):
    trainer, made = fitted
    task = trainer.task
    assert len(made) == 8
    _, arrays = next(iter(task.loader.batches(0, 1)))
    batch = task.to_device(arrays)
    labelled = 0
    for row, tags in enumerate(arrays["tags"]):
        shard, index, crop = (int(tags[TAGS.index(name)]) for name in ("shard", "index", "crop"))
        path = task.order.sources[0].paths[shard]
        key, members = list(read_samples(path))[index]
        fitted = made[f"{path}:{key}"]
        clip = decode_meta(members["json"], key)
        views = enumerate(zip(fitted.stretch.views, fitted.instant, strict=True))
        shown = [Shown(view.places[0][2], view, fitted, int(at), 0, 0) for _, (view, at) in views]
        shown.sort(key=lambda one: one.number)
        written = label_clip(clip, members, shown, bodies["anny"])["labels.npz"]
        labels = find_label_kind("anny").read(written, len(shown), "")
        at = int(labels["instant"][crop])
        fits_here = fitted.find_instants(0.1)[at]
        assert batch["present"][row].tolist() == ([1, 0, 0] if fits_here else [0, 0, 1])
        labelled += int(fits_here)
        for name in ("pose", "root", "joints"):
            expected = labels[name][at] if fits_here else arrays[name][row]
            assert np.array_equal(batch[name][row].numpy(), expected), name
        if fits_here:
            assert np.array_equal(batch["shape"][row].numpy(), labels["shape"])
    assert labelled > 0
    # The loader's own memory is as it was.
    assert arrays["present"].tolist() == [[0, 0, 1]] * len(arrays["present"])


def test_a_network_moves_towards_truth_that_nobody_told_it(tmp_path, fitted, people):
    trainer = fitted[0]
    config = config_of(
        tmp_path / "true", people["body"] / shard_name(0), *FITS, "fit_every=0", *DEFAULTS
    )
    true = make_trainer(config, CPU).task
    # The same slots show the same crops, here with their labels.
    _, arrays = next(iter(true.loader.batches(0, 1)))
    truth = true.step_module.tell_truth(true.to_device(arrays))
    batch = next(iter(trainer.loader.batches(0, 1)))[1]
    assert np.array_equal(batch["pixels"], arrays["pixels"])
    before = measure(trainer.task, truth)
    for step in range(25):
        trainer.update(step, batch)
    after = measure(trainer.task, truth)
    assert after < 0.8 * before, (before, after)


@torch.no_grad()
def measure(task, truth):
    """MPJPE in mm of a task's network."""
    found = task.step_module.recover(truth.require_images(), truth.K, task.step_module.body)
    return float(mpjpe(found.keypoints, truth.mesh.keypoints, 0).mean())


def test_a_run_resumes_with_the_same_bytes(tmp_path, hidden, beginning):
    words = [
        *FITS,
        "fit.people=3",
        "init_head=true",
        f"init={beginning}",
        "steps=5",
        "fit_every=2",
        "checkpoint.every=2",
        "optim.lr=0.1",
        "log.val_every=0",
    ]
    peaceful, killed = tmp_path / "peaceful", tmp_path / "killed"
    assert train(config_of(peaceful, hidden, *words)) == 0

    class Killed(BaseException):
        pass

    write = training.write_fits
    with pytest.MonkeyPatch.context() as patch:

        def die(path, fits):
            # Once the fits before step 4 are written, and of step 4 nothing is.
            write(path, fits)
            if path.name == "step-00000004.npz":
                raise Killed

        patch.setattr(training, "write_fits", die)
        with pytest.raises(Killed):
            train(config_of(killed, hidden, *words))
    (killed / "checkpoints" / "step-00000004").rename(tmp_path / "lost")
    assert train(config_of(killed, hidden, *words)) == 0
    assert outcome(killed) == outcome(peaceful)
    for step in (0, 2, 4):
        name = f"fits/step-{step:08d}.npz"
        assert (killed / name).read_bytes() == (peaceful / name).read_bytes()


def test_it_is_refused_in_words_where_it_means_nothing(tmp_path, hidden, people):
    with pytest.raises(UserError, match="fit_every=3 and data.rules.labels=parameters"):
        config_of(tmp_path / "a", hidden, *FITS, "data.rules.labels=parameters")
    with pytest.raises(UserError, match="fit. keys are set and fit_every=0"):
        config_of(tmp_path / "a", hidden, *FITS, "fit_every=0")
    with pytest.raises(UserError, match="fit_every=3: no training clip can be fitted: all have"):
        task_of(tmp_path / "a", people["body"] / shard_name(0))
    with pytest.raises(UserError, match="head.name=model_free, which predicts no parameters"):
        task_of(
            tmp_path / "a",
            people["body"] / shard_name(0),
            "head.name=model_free",
            "coarse_vertices=256",
        )
    with pytest.raises(UserError, match="fit_every=3 is for parallel=ddp"):
        config_of(tmp_path / "a", hidden, *FITS, "parallel=fsdp")
    assert not (tmp_path / "a").exists()
