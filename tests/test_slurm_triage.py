"""The checks of a node before ranks start: disks, network, GPUs that are made up."""

import os
import re
import socket
import sys
import time

import pytest
import torch

from slurm.supervisor import triage

TOKEN = "a1b2" * 8


@pytest.fixture
def sink():
    made = triage.Sink("127.0.0.1", TOKEN)
    yield made
    made.close()


def test_a_whole_node_passes_in_a_process_of_its_own(tmp_path, sink):
    """Without torch: nobody asked for GPUs."""
    order = {
        "gpus": 0,
        "disks": [str(tmp_path / "new"), str(tmp_path)],
        "sink": sink.place,
        "token": TOKEN,
    }
    words = [sys.executable, "-X", "importtime", "-m", "slurm.supervisor.triage"]
    check = triage.Check(words, order, tmp_path / "log")
    deadline = time.monotonic() + 60
    while (report := check.report()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert report["faults"] == report["user"] == [] and report["figures"]["network_mb_s"] > 0
    imported = (tmp_path / "log").read_text()
    assert "selectors" in imported and "torch" not in imported
    assert not list((tmp_path / "new").iterdir())  # nothing is left


def test_a_check_that_ends_without_a_report_or_never_is_a_fault(tmp_path):
    check = triage.Check(
        [sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(3)"], {}, tmp_path / "log"
    )
    while (report := check.report()) is None:
        time.sleep(0.02)
    assert report["faults"] == ["the check ended with exit code 3"]
    missing = triage.Check([str(tmp_path / "nowhere")], {}, tmp_path / "log")
    assert missing.report()["faults"] == ["the check cannot be started: no such file or directory"]
    hangs = triage.Check(
        [sys.executable, "-c", "import time; time.sleep(600)"], {}, tmp_path / "log"
    )
    assert hangs.report() is None and triage.find_failing({"n1": None}) == {
        "n1": "no answer within 180 s"
    }
    hangs.end()
    assert hangs.process.wait(20) == -9


def test_disks_that_fail_or_lie_are_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    faults = triage.check_disks([str(tmp_path / "file"), str(tmp_path)])
    assert faults == [f"{tmp_path / 'file'} cannot be used: file exists"]
    monkeypatch.setattr(triage, "DISK_S", -1)
    (slow,) = triage.check_disks([str(tmp_path)])
    assert re.fullmatch(rf"{tmp_path} takes \d+ s for 16 MiB", slow)
    monkeypatch.setattr(triage, "DISK_S", 30)
    real = triage.tempfile.TemporaryFile
    monkeypatch.setattr(triage.tempfile, "TemporaryFile", lambda dir: Lossy(real(dir=dir)))
    assert triage.check_disks([str(tmp_path)]) == [
        f"{tmp_path} gives other bytes than were written to it"
    ]


class Lossy:
    """A file whose last byte comes back changed."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *trouble):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def read(self):
        data = self.file.read()
        return data[:-1] + bytes([data[-1] ^ 1])


def test_a_folder_that_may_not_be_made_is_the_users(tmp_path):
    (tmp_path / "file").touch()
    assert triage.check_rights([str(tmp_path / "new"), str(tmp_path / "file" / "in")]) == [
        f"{tmp_path / 'file' / 'in'} cannot be used: not a directory"
    ]


def test_the_sink_takes_from_nodes_alone(sink):
    faults, figures = triage.check_network(sink.place, TOKEN)
    assert not faults and figures["network_mb_s"] > 0
    assert triage.check_network(sink.place, "x" * 32)[0][0].startswith(
        ("node 0 at 127.0.0.1", "cannot send to 127.0.0.1")
    )
    with socket.create_connection(tuple(sink.place)):  # one that says nothing keeps nobody waiting
        assert not triage.check_network(sink.place, TOKEN)[0]
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        nobody = ["127.0.0.1", deaf.getsockname()[1]]
    assert "connection refused" in triage.check_network(nobody, TOKEN)[0][0]


def report(speed, *faults):
    return {"faults": list(faults), "figures": {"network_mb_s": speed}, "user": []}


def test_a_network_is_slow_beside_the_others():
    reports = {
        "n1": report(800),
        "n2": report(2.0),
        "n3": report(700),
        "n4": report(900, "x is broken"),
    }
    assert triage.find_failing(reports) == {
        "n2": "sends 2.0 MB/s to node 0, the job's nodes 750 MB/s in the median",
        "n4": "x is broken",
    }
    assert triage.find_failing({"n1": report(3), "n2": report(2)}) == {}  # a slow network, of all
    assert triage.find_failing({"n1": report(90000), "n2": report(50)}) == {}


@pytest.fixture
def gpus(monkeypatch):
    """Four made-up GPUs; ``gpus`` is what they are like: {index: (seconds, right, free memory)}."""
    made = dict.fromkeys(range(4), (0.01, True, 79))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(made))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (made[index][2] << 30, 80 << 30))

    def multiply(index):
        if made[index][0] is None:
            raise RuntimeError("CUDA error: uncorrectable ECC error\nencountered")
        return made[index][:2]

    monkeypatch.setattr(triage, "time_products", multiply)
    monkeypatch.setattr(triage, "find_ecc_faults", lambda: [])
    return made


def test_gpus_that_are_whole_pass(gpus):
    assert triage.check_gpus(4) == []


@pytest.mark.parametrize(
    "like, said",
    [
        ((None, True, 79), "GPU 2: CUDA error: uncorrectable ECC error encountered"),
        ((0.01, False, 79), "GPU 2 multiplies"),
        ((0.05, True, 79), "GPU 2 takes 50 ms for what takes its neighbours 10 ms"),
        ((0.01, True, 12), "GPU 2 has 12 of 80 GiB free: another process holds it"),
    ],
)
def test_a_gpu_that_is_broken_wrong_slow_or_taken_is_told(gpus, like, said):
    gpus[2] = like
    faults = triage.check_gpus(4)
    assert len(faults) == 1 and faults[0].startswith(said), faults


def test_gpus_that_are_missing_are_told(gpus):
    del gpus[3]
    assert triage.check_gpus(4) == ["torch finds 3 GPUs, slurm.gpus_per_node=4"]


@pytest.mark.parametrize(
    "shown, faults",
    [
        ("0,1", ["GPU 1 had 3 memory errors that ECC could not correct"]),
        ("0", []),
        ("GPU-89", ["GPU 1 had 3 memory errors that ECC could not correct"]),
    ],
)
def test_memory_errors_are_those_that_nvidia_smi_tells_of_our_gpus(
    tmp_path, monkeypatch, shown, faults
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '0, 0\\n1, 3\\n2, [N/A]\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert triage.find_ecc_faults() == faults
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho NVIDIA-SMI has failed because it could not communicate with the "
        "driver\nexit 9\n"
    )
    assert triage.find_ecc_faults() == [
        "nvidia-smi: NVIDIA-SMI has failed because it could not communicate with the driver"
    ]
