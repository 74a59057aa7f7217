"""What figures were measured on."""

import os
import platform


def describe():
    """The chip, how many cores of it this process may use, the GPU where there is one, Python and torch, in a line."""
    import torch

    name = _cpu("model name") or platform.processor() or platform.machine()
    words = [f"{name}, {len(os.sched_getaffinity(0))} cores"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join([*words, f"Python {platform.python_version()}", f"torch {torch.__version__.split('+')[0]}"])


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
