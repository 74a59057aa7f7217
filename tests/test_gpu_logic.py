"""What is done on a GPU alone, in its order: on a made-up GPU that writes down what is asked of
it."""

import contextlib
import types

import numpy as np
import pytest
import torch
import torch.distributed as dist
import warp
from clips import make_clip, write_shards
from torch import nn

from data.config import DataConfig
from data.loading.build import open_loader, open_order
from data.loading.device import ToDevice
from data.people.make import choose_device
from data.people.render import Renderer
from engine.checkpoint import checkpoints
from engine.checkpoint.saver import Saver
from engine.config.train_config import CheckpointConfig, GuardConfig
from engine.distributed import hardware, process_group
from engine.distributed.parallel import Spread
from engine.errors import UserError
from engine.training.spike_guard import Guard

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture
def said(monkeypatch):
    """The list that the GPU writes to; events are numbered as they are made."""
    said, made = [], iter(range(1000))

    class Event:
        def __init__(self):
            self.number = next(made)

        def record(self):
            said.append(f"event {self.number}")

        def synchronize(self):
            said.append(f"wait for {self.number}")

    class Stream:
        def __init__(self, name):
            self.name = name

        def record_event(self):
            event = Event()
            event.record()
            return event

        def wait_event(self, event):
            said.append(f"{self.name} waits for {event.number}")

    @contextlib.contextmanager
    def stream(chosen):
        said.append(chosen.name)
        yield
        said.append("main")

    runtime = types.SimpleNamespace(
        cudaHostRegister=lambda address, size, flags: said.append("lock") or 0,
        cudaHostUnregister=lambda address: said.append("unlock"),
        cudaError=types.SimpleNamespace(success=0),
    )
    replaced = {
        "Event": Event,
        "Stream": lambda device: Stream("side"),
        "current_stream": lambda device: Stream("main"),
        "stream": stream,
        "cudart": lambda: runtime,
        "synchronize": lambda device: said.append("wait for all"),
        "set_device": lambda device: said.append(str(device)),
        "is_available": lambda: True,
        "device_count": lambda: 4,
        "max_memory_reserved": lambda device: 3 * 2**30,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: said.append(f"kept for {stream.name}")
    )
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [make_clip(i, size=16) for i in range(30)], 10)
    return folder


def loader_of(folder):
    config = DataConfig(shards=str(folder))
    return open_loader(open_order(config, 4, 3), config, 9, 0, 1, 0)


def test_a_batch_is_copied_beside_the_step_before_and_not_overwritten_meanwhile(folder, said):
    loader = loader_of(folder)
    to_device = ToDevice(loader, GPU)
    to_device.device = CPU  # the made-up one has no memory
    for step, arrays in loader.batches(0, 3):
        said.append(f"batch {step}")
        tensors = to_device(arrays)
        assert all(np.array_equal(tensors[name].numpy(), values) for name, values in arrays.items())
    to_device({"validation": np.zeros(3)})  # none of the ring's: no word of a stream
    loader.close()
    copy = ["side", "event {0}", "main", "main waits for {0}", "kept for main"]
    expected = ["lock"]
    for step in range(3):
        # The ring has one place here: it is filled anew once the copy out of it is done.
        expected += (
            [f"wait for {step - 1}"] * (step > 0)
            + [f"batch {step}"]
            + [word.format(step) for word in copy]
        )
    assert said == [*expected, "wait for all", "unlock"]


def test_memory_that_cannot_be_locked_is_told_with_its_key(folder, said, monkeypatch):
    monkeypatch.setattr(torch.cuda.cudart(), "cudaHostRegister", lambda *words: 2)
    with pytest.raises(UserError, match=r"cannot be page-locked \(2\); lower data.prefetch"):
        ToDevice(loader_of(folder), GPU)


class OnGpu(torch.Tensor):
    """A tensor that says it lies on the GPU."""

    @property
    def device(self):
        return GPU


@pytest.mark.parametrize("background", [True, False])
def test_a_checkpoint_is_written_once_its_copy_has_arrived(tmp_path, said, monkeypatch, background):
    pinned, empty = [], torch.empty
    monkeypatch.setattr(
        torch,
        "empty",
        lambda size, dtype, pin_memory: pinned.append(pin_memory) or empty(size, dtype=dtype),
    )
    monkeypatch.setattr(checkpoints, "save", lambda *words: said.append("write"))
    folder = types.SimpleNamespace(folder=tmp_path, lease=types.SimpleNamespace(check=None))
    saver = Saver(CheckpointConfig(background=background), True)
    for step in (1, 2):
        saver.begin(
            folder, step, {"w": torch.ones(5).as_subclass(OnGpu)}, {}, {"step/w": torch.ones(1)}, {}
        )
        saver.settle()
    assert said == ["event 0", "wait for 0", "write", "event 1", "wait for 1", "write"]
    assert pinned == [True]  # one block for all saves


def test_the_guard_waits_for_the_step_before_alone(said):
    guard = Guard(GuardConfig(), 1, CPU)
    guard.device = GPU
    guard._copy()
    for step, norm in enumerate([1.0, float("nan"), float("nan"), 1.0]):
        guard.judge(step, torch.tensor(norm), torch.zeros(1, dtype=torch.float64))
        said.append(f"row {guard.row()}")
    # What is waited for was recorded a step ago, before the device was given this one.
    assert said == [
        "event 0",
        "wait for 0",
        "event 1",
        "row 0",
        "wait for 1",
        "event 2",
        "row 0",
        "wait for 2",
        "event 3",
        "row 1",
        "wait for 3",
        "event 4",
        "row 2",
    ]


def test_each_process_takes_the_gpu_of_its_place_on_the_node(said, monkeypatch):
    for name, value in {
        "RANK": 5,
        "WORLD_SIZE": 8,
        "LOCAL_RANK": 1,
        "MASTER_ADDR": "node",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(
        dist,
        "init_process_group",
        lambda kind, timeout, device_id, rank, world_size, store: said.append(
            f"{kind}, {timeout.seconds} s, {device_id}, {rank} of {world_size}"
        ),
    )
    processes = process_group.start("auto", 50, dist.HashStore())
    assert said == ["cuda:1", "nccl, 50 s, cuda:1, 5 of 8"]
    assert processes == process_group.Processes(5, 8, torch.device("cuda", 1), 50)
    monkeypatch.setattr(
        nn.parallel, "DistributedDataParallel", lambda *words, **more: said.append((words[1], more))
    )
    monkeypatch.setattr(
        dist, "broadcast", lambda buffer, first: said.append((buffer.tolist(), first))
    )
    model = nn.Linear(1, 1)
    model.register_buffer("mean", torch.tensor([3.0]), persistent=False)
    Spread(1, processes, model, nn.Linear(1, 1))
    ids, more = said[-2]
    # Buffers are sent once, and by DDP at no step.
    assert (
        ids == [1]
        and more.pop("gradient_as_bucket_view")
        and list(more.values()) == [False]
        and said[-1] == ([3.0], 0)
    )
    assert set(more) < {"forward_sync_buffers", "broadcast_buffers"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="device=cuda: local rank 1 finds 1 GPUs"):
        process_group.start("cuda")


def test_memory_of_the_gpu_is_told(said):
    assert hardware.memory_gib(GPU)["memory/device_gib"] == 3
    assert "memory/device_gib" not in hardware.memory_gib(CPU)


@pytest.mark.parametrize(
    "torchs, warps, chosen", [(True, True, "cuda"), (True, False, None), (False, True, None)]
)
def test_people_are_made_on_a_gpu_that_torch_and_warp_both_have(torchs, warps, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torchs)
    monkeypatch.setattr(warp, "is_cuda_available", lambda: warps)
    monkeypatch.setattr(hardware, "visible_gpus", lambda: 0)
    assert choose_device("cpu") == "cpu" and choose_device("auto") == (chosen or "cpu")
    if chosen:
        assert choose_device("cuda") == chosen
        return
    with pytest.raises(
        UserError,
        match="device=cuda, but this machine has no CUDA device that torch and Warp can use",
    ):
        choose_device("cuda")


def test_warp_takes_vertices_once_torch_has_made_them(said, monkeypatch):
    """Without the wait, Warp's own stream would draw vertices that are not there yet."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("wait for all"))
    monkeypatch.setattr(
        warp, "from_torch", lambda tensor, dtype: said.append((tensor.is_contiguous(), dtype))
    )
    vertices = torch.arange(24.0).reshape(3, 8).T
    Renderer._vertices(types.SimpleNamespace(device="cuda"), vertices)
    assert said == ["wait for all", (True, warp.vec3)]


def test_figures_name_the_gpu(said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert ", NVIDIA H200, Python" in hardware.describe()
