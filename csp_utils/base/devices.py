"""Choose the device that a model runs on."""

import re

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
