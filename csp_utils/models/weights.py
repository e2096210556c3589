"""Load weights of GroundingDINO and SAM from files of other people, without running code in them.

The official files are pickles, which can execute code. We read them with ``torch.load(weights_only=True)``, which
builds tensors only. A file that contains anything else is refused.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from csp_utils.base.errors import UserError

if TYPE_CHECKING:
    import torch


def one_file(folder: Path, patterns: Sequence[str], what: str) -> Path:
    """Find the file of a folder that matches the first of ``patterns`` with any match.

    Args:
        what: what the file is, for error messages.

    Raises:
        UserError: there is no folder, no match, or more than one match of that pattern.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; the {what} should be in it: check the path, or download the model.")
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(f"{folder} holds more than one {what} ({names}); leave one there.")
        if found:
            return found[0]
    raise UserError(f"{folder} holds no {what} ({' or '.join(patterns)}); download the model into it.")


def load_weights(model: "torch.nn.Module", path: Path, left_over: set[str] = frozenset()) -> None:
    """Load a ``*.safetensors`` or ``*.pth`` file into a model.

    Args:
        left_over: names that the file may hold although the model has no such weight.

    Raises:
        UserError: the file is damaged, contains anything but named tensors, lacks a weight, has one too many, or has
            weights of other shapes.
    """
    import safetensors
    import safetensors.torch

    try:
        if path.suffix == ".safetensors":
            missing, unexpected = safetensors.torch.load_model(model, path, strict=False)
        else:
            missing, unexpected = model.load_state_dict(_read_pth(path), strict=False)
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    except RuntimeError as error:  # load_state_dict lists every weight of another shape
        wrong = next((line for line in str(error).splitlines() if "size mismatch" in line), str(error))
        raise UserError(f"{path} does not fit its configuration ({wrong.strip().rstrip('.')}); use the configuration "
                        "that belongs to the checkpoint.") from error  # fmt: skip
    wrong = sorted(missing), sorted(set(unexpected) - left_over)
    if any(wrong):
        raise UserError(f"{path} does not fit its configuration: missing {wrong[0][:3]}, unexpected {wrong[1][:3]}; "
                        "use the configuration that belongs to the checkpoint.")  # fmt: skip


def _read_pth(path: Path) -> "dict[str, torch.Tensor]":
    """Read the tensors of a file of ``torch.save`` by name.

    The official files wrap them: SAM's and GroundingDINO's trainers add the key "model" or the prefix "module.".
    """
    import pickle
    import struct

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(f"{path} holds more than weights (it asks for {found[1]}), which could run anything, so it "
                            "was not loaded; fetch the official file.") from error  # fmt: skip
        raise UserError(f"{path} is no file of weights; fetch it again.") from error
    except (RuntimeError, ValueError, OSError, EOFError, LookupError, struct.error) as error:
        raise _damaged(path, error) from error
    state = state.get("model", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise UserError(f"{path} does not hold weights by their names; fetch the official file.")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _damaged(path: Path, error: Exception) -> UserError:
    """Build the error of a damaged file, with the first sentence of the library's message."""
    first = (str(error).strip().splitlines() or [""])[0].split(". ")[0].rstrip(".")
    return UserError(f"{path} is damaged ({first or 'it ends too early'}); fetch it again.")
