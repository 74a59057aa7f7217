"""What figures were measured on, what it could do at most, and how much memory is in use."""

import os
import platform

GIB = 2**30
# Dense bf16 operations a second by the makers' data sheets, by words in the device's name; the first that fits counts.
PEAKS = (("GH200", 989e12), ("H200", 989e12), ("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989e12), ("B200", 2250e12),
         ("A100", 312e12), ("A800", 312e12), ("H800", 989e12), ("L40S", 362e12), ("L40", 181e12), ("L4", 121e12),
         ("A40", 149.7e12), ("A30", 165e12), ("A10G", 70e12), ("A10", 125e12), ("RTX 4090", 165.2e12), ("RTX 3090", 71e12),
         ("MI300X", 1307e12), ("MI250", 362e12))


def describe():
    """The chip, how many cores of it this process may use, the GPU where there is one, Python and torch, in a line."""
    import torch

    name = _cpu("model name") or platform.processor() or platform.machine()
    words = [f"{name}, {len(os.sched_getaffinity(0))} cores"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join([*words, f"Python {platform.python_version()}", f"torch {torch.__version__.split('+')[0]}"])


def processor(device):
    """What rounds this process's arithmetic: a GPU's name, or a CPU's and how many threads share its sums."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _cpu("model name") or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def peak_flops(name):
    """Dense bf16 operations a second of a GPU by its name ("NVIDIA H100 80GB HBM3"), or None where it is not known."""
    return next((peak for words, peak in PEAKS if words.lower() in name.lower()), None)


def memory_gib(device):
    """{"memory/host_gib": this process's resident memory now, "memory/device_gib": the most that torch held on its GPU}.

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


def bf16(precision, device):
    """Whether a network runs in bf16 by the key ``precision``; "auto": if the device (a torch.device) multiplies in it.

    CPUs that do are told by their flags: there matrix products take a quarter of float32's time; elsewhere bf16 is emulated.
    """
    if precision == "auto":
        return device.type == "cuda" or not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu("flags").split())
    return precision == "bf16"


def _cpu(name):
    """A line of /proc/cpuinfo, or an empty text; only Linux has it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(name)), "")
    except OSError:
        return ""
