"""Find the GPUs of this machine, and choose the device that a model runs on."""

import os
import re
import subprocess
from functools import cache
from itertools import takewhile

from csp_utils.base.errors import UserError


def pick_device(device: str) -> str:
    """Return the device to use: "cuda" or "cpu" for "auto", else ``device`` itself.

    Raises UserError for an unknown device or a GPU that does not exist.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"device is {device!r}; it must be auto, cpu, cuda or cuda:N.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= count:
        raise UserError(f"device is {device!r}, but {count or 'no'} GPU can be used here; set device to auto or cpu.")
    return device


def visible() -> list[str]:
    """Return the GPUs, by number, UUID or MIG name, that CUDA shows to a program started here; [] if there is none.

    CUDA_VISIBLE_DEVICES decides if it is set (as in a cluster job), else nvidia-smi. CUDA numbers its devices in this
    order: "cuda:1" is the second of them. Like CUDA, the list ends at the first name of no GPU.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [name for name, _ in installed()]
    names = chosen.replace(" ", "").split(",")
    return list(takewhile(lambda name: re.fullmatch(r"\d+|(GPU|MIG)-.+", name), names))


@cache
def installed() -> list[tuple[str, float]]:
    """Return the number and the memory (GiB) of each GPU that nvidia-smi lists; [] without one."""
    query = ["nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.split(",") for line in output.splitlines() if line.count(",") == 1]
    return [(number.strip(), float(memory) / 1024) for number, memory in lines if memory.strip().isdigit()]


def name_of(device: str) -> str:
    """Return the name of the GPU that CUDA calls ``device`` ("cuda:N"), as CUDA_VISIBLE_DEVICES takes it.

    Raises UserError if fewer GPUs are visible. Where neither CUDA_VISIBLE_DEVICES nor nvidia-smi names any (GPUs of
    another maker), the name is N.
    """
    names, index = visible(), int(device.partition(":")[2])
    if not names and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return str(index)
    if index >= len(names):
        raise UserError(f"device is {device!r}, and {len(names) or 'no'} GPU{'s' * (len(names) != 1)} can be used here "
                        f"({', '.join(names) or 'none'}); set device to auto, or to cuda:0 for the first.")  # fmt: skip
    return names[index]
