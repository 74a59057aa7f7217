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

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        name = found[0] if found else name
    except OSError:
        pass  # only Linux has it
    words = [f"{name}, {len(os.sched_getaffinity(0))} cores"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join([*words, f"Python {platform.python_version()}", f"torch {torch.__version__.split('+')[0]}"])


def peak_flops(name):
    """Dense bf16 operations a second of a GPU by its name ("NVIDIA H100 80GB HBM3"), or None where it is not known."""
    return next((peak for words, peak in PEAKS if words.lower() in name.lower()), None)


def memory_gib(device):
    """{"memory/host_gib": this process's resident memory now, "memory/device_gib": the most that torch held on its GPU}.

    On a CPU the second is left out. ``device``: torch.device.
    """
    out = {}
    try:
        with open("/proc/self/statm", encoding="utf-8") as file:
            out["memory/host_gib"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIB
    except OSError:
        pass  # only Linux has it
    if device.type == "cuda":
        import torch

        out["memory/device_gib"] = torch.cuda.max_memory_reserved(device) / GIB
    return out
