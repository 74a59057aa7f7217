"""What figures were measured on."""

import os
import platform


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
