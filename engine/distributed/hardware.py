"""What figures were measured on, what it could do at most, and how much memory is in use."""

import errno
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EnvironmentFault
from engine.logging.console import get_logger

if TYPE_CHECKING:
    import torch

log = get_logger(__name__)

GIB = 2**30
# Dense bf16 operations a second by the makers' data sheets, by words in the device's name; the
# first that fits counts.
PEAKS = (
    ("GH200", 989e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("H800", 989e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
    ("MI300X", 1307e12),
    ("MI250", 362e12),
)


def describe() -> str:
    """Return a line about the machine.

    It has the chip, how many cores of it this process may use, the GPU where there is one, Python
    and torch.
    """
    import torch

    name = _cpu("model name") or platform.processor() or platform.machine()
    words = [f"{name}, {len(os.sched_getaffinity(0))} cores"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(
        [*words, f"Python {platform.python_version()}", f"torch {torch.__version__.split('+')[0]}"]
    )


def processor(device: "torch.device") -> str:
    """Return what rounds this process's arithmetic.

    A GPU's name, or a CPU's and how many threads share its sums.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _cpu("model name") or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def visible_gpus() -> int:
    """NVIDIA GPUs that a process started here may use, found without torch or its driver's help.

    CUDA_VISIBLE_DEVICES has the say where it is set; SLURM's "NoDevFiles" and "-1" hide all.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return len([one for one in shown.split(",") if re.match(r"\d|GPU-|MIG-", one.strip())])
    return len(
        [
            path
            for path in Path("/dev").glob("nvidia*")
            if re.fullmatch(r"nvidia\d+", path.name) and _granted(path)
        ]
    )


def _granted(path: Path) -> bool:
    """Return whether a device may be opened.

    A job without GPUs sees those of its node, and is kept from them.
    """
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        return error.errno not in (
            errno.EPERM,
            errno.EACCES,
        )  # any other answer is that of a GPU, if a broken one
    return True


def refuse_broken_gpu(device: str) -> None:
    """Return where torch finds no GPU because there is none.

    Args:
        device: the key, "auto" or "cuda".
    Raises:
        EnvironmentFault: there is one, and its driver does not answer torch.
    """
    import torch

    count = visible_gpus()
    if count and torch.version.cuda is None:
        log.warning(
            "this machine has %d NVIDIA GPUs, but torch %s was built without CUDA",
            count,
            torch.__version__,
        )
    elif count:
        raise EnvironmentFault(
            f"device={device}: {platform.node()} has {count} GPUs by /dev or CUDA_VISIBLE_DEVICES, "
            f"and "
            f"torch can use none ({_driver_says()}); device=cpu runs without"
        )


def _driver_says():
    """What nvidia-smi says of the driver, in a line."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "nvidia-smi is not on PATH"
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return "nvidia-smi gives no answer"
    said = (done.stdout + done.stderr).strip().splitlines()
    return f"nvidia-smi: {said[-1] if said else f'exit code {done.returncode}'}"


def peak_flops(name: str) -> float | None:
    """Return dense bf16 operations a second of a GPU, or None where they are not known.

    Args:
        name: such as "NVIDIA H100 80GB HBM3".
    """
    return next((peak for words, peak in PEAKS if words.lower() in name.lower()), None)


def memory_gib(device: "torch.device") -> dict[str, float]:
    """Return the keys of the log about memory.

    {"memory/host_gib": this process's resident memory now, "memory/device_gib": the most that torch
    held on its GPU}.

    On a CPU the second is left out. ``device``: torch.device.
    """
    out = {}
    if os.path.exists("/proc/self/statm"):  # Linux alone has it
        with open("/proc/self/statm", encoding="utf-8") as file:
            out["memory/host_gib"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIB
    if device.type == "cuda":
        import torch

        out["memory/device_gib"] = torch.cuda.max_memory_reserved(device) / GIB
    return out


def bf16(precision: str, device: "torch.device") -> bool:
    """Return whether a network runs in bf16 by the key ``precision``.

    "auto": if the device (a torch.device) multiplies in it.

    CPUs that do are known by their flags: there matrix products take a quarter of float32's time;
    on others bf16 is emulated. So do NVIDIA's GPUs from Ampere on, and all of AMD's that torch runs
    on.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        import torch

        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu("flags").split())


def compiles(compile: str, device: "torch.device") -> bool:
    """Return whether a network's blocks are compiled by the key ``compile``; "auto": on a GPU."""
    return compile == "on" or (compile == "auto" and device.type == "cuda")


def exact_float32() -> None:
    """Have products of float32 matrices on a GPU be those of float32, and not of TF32.

    TF32 keeps 10 of 23 bits.

    torch's own default is float32 for matrices and TF32 for convolutions, and an environment
    variable, which NVIDIA's containers set (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE), turns the first
    round. Who wants speed takes bf16.
    """
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def pci_address(domain: int, bus: int, device: int) -> str:
    """The name of a device under /sys/bus/pci/devices."""
    return f"{domain:04x}:{bus:02x}:{device:02x}.0"


def near_cpus(address: str, root: str = "/sys") -> set[int]:
    """Return the CPUs of the memory node that a PCI device hangs on.

    An empty set where the system does not tell.
    """
    return _cpu_list(Path(root, "bus/pci/devices", address, "local_cpulist"))


def choose_cpus(
    allowed: set[int], online: set[int], near: list[set[int]], local: int
) -> set[int] | None:
    """CPUs to bind a rank to; None: those it has stay.

    Args:
        allowed: it may run on now.  online: of the machine.
        near: those near the GPU of each rank of its node.  local: this rank's number among them.
    """
    if allowed != online:
        return None  # srun, taskset or a container chose them, and may have given each rank its own
    chosen = allowed & near[local]
    share = len(chosen) // near.count(near[local])
    # Fewer CPUs than a fair share would slow the loader down more than the way to the GPU does.
    if chosen == allowed or share < max(1, len(allowed) // len(near)):
        return None
    return chosen


def stay_near(addresses: list[str], local: int, root: str = "/sys") -> set[int] | None:
    """Bind this thread, and what it starts from here on, to the CPUs near its GPU.

    Returns them, None: it stays free.

    Args:
        addresses: of pci_address, of the GPU of each rank of this node.  local: this rank's number
            among them.
        root: where the system tells of its devices.
    """
    allowed, online = os.sched_getaffinity(0), _cpu_list(Path(root, "devices/system/cpu/online"))
    chosen = choose_cpus(
        allowed, online, [near_cpus(address, root) for address in addresses], local
    )
    if chosen is not None:
        try:
            os.sched_setaffinity(0, chosen)
        except OSError:
            return None  # a container may forbid it, and nothing depends on it but speed
    return chosen


def _cpu_list(path: Path) -> set[int]:
    """The numbers of a kernel's list such as "0-3,8,10-11"; an empty set where there is none."""
    try:
        text = path.read_text(encoding="ascii").strip()
        ends = [part.partition("-")[::2] for part in text.split(",") if part]
        return {
            number for first, last in ends for number in range(int(first), int(last or first) + 1)
        }
    except (OSError, ValueError):
        return set()


def _cpu(name: str) -> str:
    """A line of /proc/cpuinfo, or an empty text; only Linux has it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith(name)), ""
            )
    except OSError:
        return ""
