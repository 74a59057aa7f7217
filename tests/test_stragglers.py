"""Who is slow, in the log and on the page; and ranks near their GPUs."""

import json
import os
import socket
import types

import pytest
import torch
import toy

from engine.distributed import hardware, process_group, stragglers
from engine.distributed.stragglers import OwnTime, compare
from engine.logging import report


def test_the_slowest_is_named_with_what_it_takes_over_the_median():
    assert compare([1.0, 1.5, 1.0, 0.5], ["a", "a", "b", "b"]) == {
        "speed/slowest_rank": 1,
        "speed/slowest_share": 0.5,
        "speed/slowest_host": "a",
    }
    assert compare([0.0, 0.0], ["a", "b"]) == {}


def test_own_time_is_that_of_its_blocks_alone(monkeypatch):
    now = iter([0.0, 2.0, 10.0, 11.0, 20.0, 20.5])
    monkeypatch.setattr(stragglers.time, "perf_counter", lambda: next(now))
    own = OwnTime(torch.device("cpu"))
    for _ in range(2):
        with own.running():
            pass
    assert own.take() == 3.0 and own.take() == 0.0
    with own.running():
        pass
    assert own.take() == 0.5


def test_on_a_gpu_events_are_read_when_they_are_over_and_nothing_waits(monkeypatch):
    """With a device that is behind by so many events; only the line of the log waits for it."""
    behind, made, waits = 50, [], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = len(made)
            made.append(self)

        def query(self):
            return bool(waits) or self.at < len(made) - behind

        def synchronize(self):
            waits.append(self)

        def elapsed_time(self, later):
            assert self.query() and later.query()
            return 1000.0 * (later.at - self.at)  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    own = OwnTime(torch.device("cuda", 0))
    for _ in range(1000):
        with own.running():
            pass
        assert len(own._events) <= stragglers.MOST_EVENTS + 1 and not waits
    assert own.take() == 1000.0 and len(waits) == 1 and own.take() == 0.0


def test_a_slow_rank_is_named_in_the_log_and_on_the_page(tmp_path):
    run = tmp_path / "run"
    toy.finish(toy.start(run, {"on": 1, "slow": 0.2}, "steps=10", world=2))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    named = [
        line
        for line in lines
        if line["speed/slowest_rank"] == 1 and 0.5 < line["speed/slowest_share"] <= 1
    ]
    assert (
        len(lines) == 5
        and len(named) >= 4
        and {line["speed/slowest_host"] for line in lines} == {socket.gethostname()}
    )
    page = report.page([report.read_run(run, "run", "#000000")])
    last = lines[-1]
    assert (
        f"slowest lately: rank {last['speed/slowest_rank']} on {socket.gethostname()}, "
        f"{last['speed/slowest_share']:.0%} over the median" in page
    )
    assert "own time of the slowest rank" in page


def test_one_process_has_no_slowest(tmp_path):
    toy.finish(toy.start(tmp_path / "run", {}, "steps=2"))
    assert "slowest" not in (tmp_path / "run" / "log.jsonl").read_text()
    assert "slowest" not in report.page([report.read_run(tmp_path / "run", "run", "#000000")])


@pytest.fixture
def system(tmp_path):
    """A made /sys of 16 CPUs on two memory nodes, with a GPU on each."""
    (tmp_path / "devices/system/cpu").mkdir(parents=True)
    (tmp_path / "devices/system/cpu/online").write_text("0-15\n")
    for address, cpus in (
        ("0000:1b:00.0", "0-3,8-11\n"),
        ("0001:c3:00.0", "4-7,12-15\n"),
        ("0000:ff:00.0", "0-15\n"),
    ):
        (tmp_path / "bus/pci/devices" / address).mkdir(parents=True)
        (tmp_path / "bus/pci/devices" / address / "local_cpulist").write_text(cpus)
    return tmp_path


def test_cpus_near_a_device_are_read(system):
    assert hardware.pci_address(1, 0xC3, 0) == "0001:c3:00.0"
    assert hardware.near_cpus("0000:1b:00.0", system) == {0, 1, 2, 3, 8, 9, 10, 11}
    assert hardware.near_cpus("0000:00:00.0", system) == set()
    (system / "bus/pci/devices/0000:1b:00.0/local_cpulist").write_text("\n")
    assert hardware.near_cpus("0000:1b:00.0", system) == set()
    (system / "bus/pci/devices/0000:1b:00.0/local_cpulist").write_text("none")
    assert hardware.near_cpus("0000:1b:00.0", system) == set()


ONE, OTHER = "0000:1b:00.0", "0001:c3:00.0"


def test_a_rank_stays_near_its_gpu_unless_somebody_chose_its_cpus(system, monkeypatch):
    allowed, bound = set(range(16)), []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: allowed)
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda process, cpus: bound.append((process, cpus))
    )
    assert hardware.stay_near([ONE, OTHER], 1, system) == {4, 5, 6, 7, 12, 13, 14, 15}
    assert hardware.stay_near([ONE, ONE, OTHER, OTHER], 1, system) == {0, 1, 2, 3, 8, 9, 10, 11}
    assert bound == [(0, {4, 5, 6, 7, 12, 13, 14, 15}), (0, {0, 1, 2, 3, 8, 9, 10, 11})]
    assert hardware.stay_near([OTHER], 0, system) is None  # alone on the machine it uses all of it
    assert (
        hardware.stay_near([ONE, ONE], 0, system) is None
    )  # both would crowd where the GPUs hang, the other half idle
    assert hardware.stay_near(["0000:ff:00.0"] * 2, 0, system) is None  # all are near
    assert hardware.stay_near(["0000:00:00.0"] * 2, 0, system) is None  # the system does not tell
    allowed = {4, 5, 12, 13}  # srun gave it these
    assert hardware.stay_near([ONE, OTHER], 1, system) is None
    allowed = set(range(8))  # a container
    assert hardware.stay_near([ONE, OTHER], 0, system) is None
    assert len(bound) == 2

    def refuse(process, cpus):
        raise PermissionError

    allowed = set(range(16))
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert hardware.stay_near([ONE, OTHER], 1, system) is None


def test_threads_and_workers_are_those_of_a_share_also_after_binding(system, monkeypatch):
    """4 ranks of 16 CPUs have 4 each: not 2, the 8 near their GPU divided by all ranks."""
    allowed = set(range(16))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: allowed)

    def bind(process, cpus):
        nonlocal allowed
        allowed = cpus

    monkeypatch.setattr(os, "sched_setaffinity", bind)
    monkeypatch.setattr(process_group, "_cores", None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = [
        types.SimpleNamespace(
            pci_domain_id=number // 2, pci_bus_id=(0x1B, 0xC3)[number // 2], pci_device_id=0
        )
        for number in range(4)
    ]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: found[number])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    near = hardware.stay_near
    monkeypatch.setattr(
        hardware, "stay_near", lambda addresses, local: near(addresses, local, system)
    )
    for unknown in ({"local_world": 8, "local": 3}, {"local_world": 1, "local": 1}):
        process_group._stay_near(types.SimpleNamespace(**unknown))
        assert len(allowed) == 16
    monkeypatch.setattr(process_group, "_cores", None)
    process_group._stay_near(types.SimpleNamespace(local_world=4, local=3))
    assert allowed == {4, 5, 6, 7, 12, 13, 14, 15}
    assert (
        process_group.share_cores() == process_group.threads() == 4
        and process_group.loader_workers(None) == 3
    )


def test_nccl_is_told_its_device_and_gloo_none(monkeypatch):
    made = []
    for name, value in (
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "node"),
        ("MASTER_PORT", "1"),
    ):
        monkeypatch.setenv(name, value)
    store = torch.distributed.HashStore()
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend, **words: made.append((backend, words)),
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append(device))
    monkeypatch.setattr(process_group, "_stay_near", lambda place: made.append(place.local))
    assert process_group.start("cuda", 77, store).device == torch.device("cuda", 1)
    assert process_group.start("cpu", 77, store).device == torch.device("cpu")
    device, local, (gpu, words), (cpu, others) = made
    assert (device, local, gpu, cpu) == (torch.device("cuda", 1), 1, "nccl", "gloo")
    assert (words["device_id"], others["device_id"]) == (device, None)
    assert (words["rank"], words["world_size"], words["timeout"].seconds) == (1, 2, 77)
    monkeypatch.setenv("LOCAL_RANK", "")
    with pytest.raises(process_group.UserError, match="without LOCAL_RANK, and there are 2 GPUs"):
        process_group.start("cuda", 77, store)
