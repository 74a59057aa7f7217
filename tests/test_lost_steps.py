"""Steps behind a run are never lost: reads that fail, folders that are purged or damaged, what is
in a save's way.
"""

import errno
import json
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
import toy
import toy_trainer
from PIL import Image
from safetensors.torch import save_file

from data.config import AugmentConfig  # any dataclass of keys
from engine.checkpoint import checkpoints, history
from engine.config.train_config import GuardConfig
from engine.distributed.replicas import Replica, Replicas, explain_difference
from engine.errors import EnvironmentFault, Failure, UserError
from engine.logging.images import save_image
from engine.logging.metrics import Log, read
from engine.run import locks, patience, run_lock
from engine.run.folder import Run
from engine.run.run_folder import RunFolder
from engine.run.run_lock import Lease
from engine.training.spike_guard import Guard, last_good


def write(run, step, keep=9, **more):
    return checkpoints.save(
        run,
        step,
        lambda p: save_file({"w": torch.full((3,), float(step))}, p),
        {"step/w": torch.ones(1)},
        {"step": step},
        keep=keep,
        **more,
    )


def open_run(folder):
    """What a start does before the first step: (the run's newest checkpoint or None, the log)."""
    run = Run(folder, AugmentConfig(), "test")
    step = int(run.newest.name[5:]) if run.newest else 0
    log = Log(folder, step, "off", "x", {})
    log.close()
    run.close()
    return run.newest


@pytest.fixture
def run(tmp_path):
    """A run's folder with checkpoints of steps 6, 12 and 18 and a log up to step 22."""
    folder = tmp_path / "run"
    assert open_run(folder) is None
    for step in (6, 12, 18):
        write(folder, step)
    log = Log(folder, 0, "off", "x", {})
    for step in range(2, 23, 2):
        log.write(step, {"a": step})
    log.close()
    return folder


def contents(folder):
    """{path: bytes} of all files, but those of the lease, which counts its holders."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and not path.name.startswith("lease.")
    }


def spoil(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.05)
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def failing(monkeypatch, impatient):
    """failing(part of a path, errno, times) makes the next reads of such a file fail; what it
    returns ends that.
    """

    def fail(part, number, times=10**9):
        left = [times]

        def broken(path, *words, **more):
            if part in str(path) and left[0] > 0:
                left[0] -= 1
                raise OSError(number, os.strerror(number), str(path))
            return opened(path, *words, **more)

        opened = open
        monkeypatch.setattr("builtins.open", broken)
        monkeypatch.setattr("io.open", broken)
        return lambda: left.__setitem__(0, 0)

    return fail


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "complete.json", "log.jsonl"])
@pytest.mark.parametrize(
    "number,kind",
    [
        (errno.EIO, EnvironmentFault),
        (errno.ESTALE, EnvironmentFault),
        (errno.EMFILE, EnvironmentFault),
        (errno.EACCES, UserError),
    ],
)
def test_what_cannot_be_read_stops_the_start_and_changes_nothing(run, failing, name, number, kind):
    before = contents(run)
    heal = failing(name if name == "log.jsonl" else f"step-00000018/{name}", number)
    with pytest.raises(
        Failure, match=f"{name} cannot be read: {os.strerror(number).lower()}; tried again"
    ) as error:
        open_run(run)
    assert type(error.value) is kind
    heal()
    assert contents(run) == before


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT, errno.EACCES]
)
def test_a_read_that_fails_for_a_moment_is_waited_out(run, failing, capsys, number):
    failing("step-00000018/model.safetensors", number, times=2)
    assert open_run(run).name == "step-00000018"
    assert "trying again" in capsys.readouterr().err
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        f"step-000000{s}" for s in ("06", "12", "18")
    ]


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(run, impatient, monkeypatch):
    listed = os.listdir

    def fail(path):
        if str(path).endswith("checkpoints"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return listed(path)

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(EnvironmentFault, match="checkpoints cannot be read: stale file handle"):
        open_run(run)


def test_a_file_that_nfs_remembers_as_missing_is_found_after_a_listing(run, monkeypatch):
    """The first read of it fails; once its folder was listed it is there."""
    listed, stat, seen = os.listdir, Path.stat, set()

    def look(path, **more):
        if path.name == "state.json" and str(path.parent) not in seen:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return stat(path, **more)

    monkeypatch.setattr(os, "listdir", lambda path: seen.add(str(path)) or listed(path))
    monkeypatch.setattr(Path, "stat", look)
    assert checkpoints.damage(RunFolder(run).checkpoint(18)) is None


def test_purged_checkpoints_never_start_a_run_at_step_0(run):
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    with pytest.raises(
        UserError,
        match="no checkpoint to resume from.*saved.json.*step 18 was complete.*new run=DIR",
    ):
        open_run(run)
    assert contents(run) == before
    # A run of an older version has no saved.json.
    (run / "saved.json").unlink()
    with pytest.raises(UserError, match=r"log.jsonl \(its last line is of step 22\)"):
        open_run(run)
    (run / "log.jsonl").rename(run / "mine")
    assert open_run(run) is None


@pytest.mark.parametrize(
    "trace",
    [
        "evaluations/step-00000012.json",
        "captures/step-00000007.json",
        "checkpoints/step-00000012.bak/complete.json",
        "checkpoints/step-00000012/model.safetensors",
        "checkpoints/damaged-step-00000012-ab12/complete.json",
    ],
)
def test_every_trace_of_steps_is_seen(tmp_path, trace):
    folder = tmp_path / "run"
    open_run(folder)
    (folder / "saved.json").unlink()
    (folder / trace).parent.mkdir(parents=True)
    (folder / trace).write_text("{}")
    with pytest.raises(
        UserError, match=f"steps were done: {'/'.join(trace.split('/')[:2]).removesuffix('/')[:8]}"
    ):
        open_run(folder)
    assert (folder / trace).read_text() == "{}"


def test_a_run_killed_before_its_first_checkpoint_starts_again_and_its_lines_are_kept(
    tmp_path, capsys
):
    folder = tmp_path / "run"
    open_run(folder)
    log = Log(folder, 0, "off", "x", {})
    for step in (2, 4):
        log.write(step, {"a": 1})
    log.close()
    lines = (folder / "log.jsonl").read_bytes()
    (folder / "checkpoints/.writing-ab-step-00000006").mkdir(
        parents=True
    )  # the kill struck in its first save
    assert open_run(folder) is None
    assert (folder / "log.jsonl").read_bytes() == b"" and (
        folder / "log.cut.jsonl"
    ).read_bytes() == lines
    assert "2 lines of log.jsonl after step 0 are now in" in capsys.readouterr().err


def test_a_damaged_checkpoint_moves_aside_with_all_its_bytes_and_counts_for_nothing(run, capsys):
    spoil(run / "checkpoints/step-00000018/model.safetensors")
    before, log = contents(run / "checkpoints/step-00000018"), (run / "log.jsonl").read_bytes()
    assert open_run(run).name == "step-00000012"
    assert (
        "step-00000018 is passed over: model.safetensors does not hold" in capsys.readouterr().err
    )
    (aside,) = (run / "checkpoints").glob("damaged-step-00000018-*")
    assert contents(aside) == before
    assert [line["step"] for line in read(run)] == list(range(2, 13, 2))
    assert (run / "log.jsonl").read_bytes() + (run / "log.cut.jsonl").read_bytes() == log
    for step in (18, 24):
        write(run, step, keep=2)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        aside.name,
        "step-00000018",
        "step-00000024",
    ]


def test_where_all_are_damaged_the_run_stops_and_nothing_moves(run):
    for step in (6, 12, 18):
        spoil(RunFolder(run).checkpoint(step) / "optimizer.safetensors")
    before = contents(run)
    with pytest.raises(
        UserError, match="step-00000018: optimizer.safetensors does not hold.*steps were done"
    ):
        open_run(run)
    assert contents(run) == before


def test_a_marker_that_was_purged_costs_no_bytes(run):
    (run / "checkpoints/step-00000018/complete.json").unlink()
    before = contents(run / "checkpoints/step-00000018")
    assert open_run(run).name == "step-00000012"
    (aside,) = (run / "checkpoints").glob("damaged-step-00000018-*")
    assert contents(aside) == before


def test_a_checkpoint_that_is_gone_is_told(run, capsys):
    shutil.rmtree(RunFolder(run).checkpoint(18))
    assert open_run(run).name == "step-00000012"
    assert (
        "saved.json says that a checkpoint of step 18 was complete; it is no longer there"
        in capsys.readouterr().err
    )
    assert history.read_saved(run) == 12


def test_a_save_never_deletes_later_checkpoints_nor_those_kept_for_ever(run):
    """As after a start that, for whatever reason, resumed from an earlier step."""
    write(run, 6, keep=1, keep_every=12)
    names = {p.name for p in (run / "checkpoints").iterdir()}
    assert {"step-00000006", "step-00000012", "step-00000018"} <= names
    (replaced,) = names - {"step-00000006", "step-00000012", "step-00000018"}
    assert (
        replaced.startswith("replaced-step-00000006-")
        and checkpoints.damage(RunFolder(run).checkpoint(6)) is None
    )


def test_a_leftover_that_cannot_be_removed_costs_a_warning_and_no_save(run, monkeypatch, capsys):
    """An open file on NFS (.nfs*), a folder of another owner."""
    left = run / "checkpoints/.writing-abcd-step-00000024"
    left.mkdir()
    (left / ".nfs0001").write_text("")
    remove = shutil.rmtree

    def busy(path, *words, **more):
        if ".writing-abcd" in str(path):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        remove(path, *words, **more)

    monkeypatch.setattr(shutil, "rmtree", busy)
    for step in (24, 30):
        write(run, step, keep=2)
    assert checkpoints.newest(run).name == "step-00000030"
    assert (
        capsys.readouterr().err.count(
            ".writing-abcd-step-00000024 cannot be removed: device or resource busy"
        )
        == 2
    )


def test_folders_with_strange_names_disturb_nobody(run):
    for name in ("step-00000010.bak", "step-10", "step-", "step-²", "step-0000000x"):
        shutil.copytree(RunFolder(run).checkpoint(18), run / "checkpoints" / name)
    (run / "checkpoints/step-notes.txt").write_text("")
    assert last_good(run, 18, 6).name == "step-00000012"
    assert checkpoints.newest(run).name == "step-00000018"
    assert history.list_complete(run) == [6, 12, 18]
    write(run, 24, keep=1)
    assert (run / "checkpoints/step-00000010.bak/complete.json").exists()
    assert sorted(step for step, _ in history.list_checkpoints(run)) == [24]


def test_a_broken_line_in_the_log_costs_no_later_line(tmp_path):
    lines = [
        b'{"step": 2}\n',
        b'{"step": 4\x00\xff\n',
        b"7\n",
        b'{"step": 6}\n',
        b'{"step": 8}\n',
        b'{"step": 1',
    ]
    (tmp_path / "log.jsonl").write_bytes(b"".join(lines))
    (tmp_path / "log.cut.jsonl").write_bytes(b"before\n")
    Log(tmp_path, 6, "off", "x", {}).close()
    assert (tmp_path / "log.jsonl").read_bytes() == lines[0] + lines[3]
    assert (tmp_path / "log.cut.jsonl").read_bytes() == b"before\n" + lines[1] + lines[2] + lines[
        4
    ] + lines[5] + b"\n"


# The lock.


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_enough(tmp_path, monkeypatch, capsys, number):
    def flock(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    monkeypatch.setattr(run_lock, "REREAD_S", 0.05)
    mine = Lease(tmp_path)
    assert "has no file locks" in capsys.readouterr().err
    with pytest.raises(EnvironmentFault, match=f"in use by process {os.getpid()}"):
        Lease(tmp_path)
    mine.release()
    # Another that saw the same free lease writes it a moment later: the later one has it.
    late = {
        **json.loads(mine.path.read_text()),
        "generation": 2,
        "token": "other",
        "host": "node7/x/y",
        "pid": 12,
    }
    monkeypatch.setattr(
        run_lock.time, "sleep", lambda seconds: mine.path.write_text(json.dumps(late))
    )
    with pytest.raises(
        EnvironmentFault, match="was taken by process 12 on node7 in the same moment"
    ):
        Lease(tmp_path)
    assert json.loads(mine.path.read_text()) == late


def test_without_git_a_run_starts_and_says_null(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    open_run(tmp_path / "run")
    assert json.loads((tmp_path / "run/environment.json").read_text())["git"] is None


def test_the_lock_is_held_until_the_background_save_has_ended(tmp_path, monkeypatch):
    """The run fails while its save of step 6 is being written."""
    events, begun, save, release = [], threading.Event(), checkpoints.save, Lease.release

    def slowly(*words, **more):
        begun.set()
        time.sleep(0.5)
        save(*words, **more)
        events.append("saved")

    def update(trainer, step, arrays):
        if step == 7:
            assert begun.wait(60)
            raise UserError("shard x cannot be read")
        toy_trainer.Trainer.update(trainer, step, arrays)

    monkeypatch.setattr(checkpoints, "save", slowly)
    monkeypatch.setattr(
        toy_trainer.Toy,
        "update",
        lambda self, step, arrays: setattr(self.task, "step", step) or update(self, step, arrays),
    )
    monkeypatch.setattr(Lease, "release", lambda self: events.append("released") or release(self))
    with pytest.raises(UserError, match="shard x"):
        toy_trainer.train({}, [f"run={tmp_path / 'run'}"])
    assert events == ["saved", "released"]


@pytest.mark.kill
def test_a_save_whose_copy_is_complete_outlasts_the_end_of_the_ranks(tmp_path):
    """Rank 1 fails while rank 0 writes; the process of rank 0 waits longer than it does for
    anything else.
    """
    run = tmp_path / "run"
    outputs = toy.finish(toy.start(run, {"slow_save": 2, "fail_in_save": 7, "on": 1}, world=2), 2)
    assert "rank 1" in outputs[0]
    assert checkpoints.newest(run).name == "step-00000006"
    assert json.loads((run / "lease.json").read_text())["released"]


# What a full disk may cost.


def test_captures_and_images_that_cannot_be_written_do_not_end_a_run(tmp_path, capsys):
    for name in ("captures", "images"):
        (tmp_path / name).write_text("")  # a file where the folder goes
    guard = Guard(GuardConfig(), 1, torch.device("cpu"))
    for step in (3, 4):
        guard.capture(tmp_path, step, 8, 1.0, 2.0, {})
    assert guard.uncaptured == 2
    assert not save_image(Image.new("RGB", (4, 4)), tmp_path / "images" / "step-00000003.png")
    said = capsys.readouterr().err
    assert "step-00000004.json cannot be written" in said and "2 captures lost" in said
    assert "step-00000003.png cannot be written" in said
    assert save_image(Image.new("RGB", (4, 4), "red"), tmp_path / "good" / "step-00000003.png")
    assert Image.open(tmp_path / "good" / "step-00000003.png").getpixel((0, 0)) == (255, 0, 0)
    assert [p.name for p in (tmp_path / "good").iterdir()] == ["step-00000003.png"]


# One rank reads a checkpoint through.


def test_building_the_network_hashes_nothing_and_opening_the_run_each_file_once(run, monkeypatch):
    from runs import ROOT, words

    from engine.config.parser import parse
    from pretrain.config import PretrainConfig
    from pretrain.task import build

    hashed, digest = [], checkpoints._digest
    monkeypatch.setattr(
        checkpoints, "_digest", lambda path: hashed.append(path.name) or digest(path)
    )
    file, *rest = words(run, "nowhere", "init=nothing.safetensors")
    build(parse(PretrainConfig, [str(ROOT / file), *rest], "pretrain train"))  # as all ranks do
    assert hashed == []
    open_run(run)
    assert sorted(hashed) == sorted(checkpoints.FILES)


# Silent corruption.


class Alone:
    """Processes of one rank, as far as a checksum needs them."""

    rank, world, first, device = 0, 2, True, torch.device("cpu")


def test_a_checksum_sees_every_bit_and_every_place(monkeypatch):
    monkeypatch.setattr("engine.distributed.replicas.CHUNK", 64)
    replicas, generator = Replicas(Alone, 1), torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool):
        tensor = torch.randn(200, generator=generator).to(dtype)
        before = replicas._checksum(tensor)
        assert before == replicas._checksum(tensor.clone())
        bits = tensor.view(torch.uint8)
        for place in torch.randint(len(bits), (40,), generator=generator).tolist():
            bit = 1 if dtype is torch.bool else 1 << place % 8
            bits[place] ^= bit
            assert before != replicas._checksum(tensor), (dtype, place)
            bits[place] ^= bit
    tensor = torch.arange(200.0)
    assert len({int(replicas._checksum(tensor.roll(by))) for by in range(200)}) == 200
    assert replicas._checksum(torch.zeros(0, 4)) == 0


def test_the_rank_that_differs_is_named_with_its_host():
    def of(sums, holders=1, processors=None):
        processors = processors or ["A"] * len(sums)
        return explain_difference(
            [
                Replica(rank, f"node{rank // 2}", processors[rank], {"w": 1, "v": value})
                for rank, value in enumerate(sums)
            ],
            holders,
        )

    assert of([5, 5, 5, 6]) == (
        "the weights of rank 3 on node1 differ from those of 3 other ranks (first in v): its "
        "memory or "
        "processor is at fault"
    )
    said = of([5, 6])
    assert "ranks 0 on node0, 1 on node0 should be equal and differ (first in v)" in said
    # Under HSDP ranks 0, 2, 4 hold one share and 1, 3, 5 another.
    assert of([5, 7, 5, 7, 5, 7], 2) is None
    assert "rank 4 on node2 differ from those of 2" in of([5, 7, 5, 7, 7, 7], 2)
    # Unlike processors round differently; among equal ones the one is found.
    assert of([5, 5, 6, 6], processors=["A", "A", "B", "B"]) is None
    assert "rank 4 on node2" in of([5, 5, 6, 6, 8, 6], processors=["A", "A", "B", "B", "B", "B"])


@pytest.mark.kill
@pytest.mark.parametrize(
    "world,on,words",
    [(2, 1, []), pytest.param(4, 2, ["parallel=hsdp", "shard_over=2"], marks=pytest.mark.long)],
)
def test_a_flipped_bit_on_one_rank_never_becomes_a_checkpoint(tmp_path, world, on, words):
    """Under HSDP ranks 0 and 2 hold the only row, ranks 1 and 3 nothing of it."""
    run = tmp_path / "run"
    outputs = toy.finish(toy.start(run, {"flip": 11, "on": on}, *words, world=world), 74)
    host = socket.gethostname()
    assert (
        f"step 12: the weights of ranks 0 on {host}, {on} on {host} should be equal" in outputs[0]
    )
    assert "(first in weight)" in outputs[0]
    assert checkpoints.newest(run).name == "step-00000006"
