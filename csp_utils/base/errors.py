"""Define the one exception whose message is meant for the user, not for the programmer."""

import difflib
import errno
import re
from collections.abc import Iterable
from typing import Any

GPU_FULL = re.compile("OutOfMemoryError|(CUDA|HIP) out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
                      "No available memory for the cache blocks|less than desired GPU memory utilization")  # fmt: skip
"""What torch (which this module does not import), CUDA's libraries and vLLM say about a GPU without enough memory."""


class UserError(Exception):
    """An error that the user can correct. The message is one sentence: what is wrong, where, and what to do.

    Command lines print only the message and exit with status 1; notebooks print it instead of a traceback (see
    :func:`csp_utils.notebook.begin`).
    """


def disk_full(error: BaseException, what: str = "", advice: str = "free some space") -> UserError | None:
    """Return the sentence about a full disk (or a used-up quota) if that is what ``error`` says, else None.

    Args:
        what: what could not be written; by default the error's own text.
        advice: what to do.
    """
    if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return UserError(f"The disk is full: {what or error}; {advice} and run the same command again.")


def gpu_full(error: BaseException, batch_size: int | None = None) -> UserError | None:
    """Return the sentence about a GPU without enough memory if that is what ``error`` says, else None.

    Args:
        batch_size: in use, if there is one.
    """
    if type(error).__name__ != "OutOfMemoryError" and not GPU_FULL.search(str(error)):
        return None
    smaller = "set batch_size to a smaller number"
    if batch_size is not None:
        smaller = f"set batch_size (now {batch_size}) to {max(1, batch_size // 4)}" if batch_size > 1 else ""
    others = "take smaller images (max_pixels), torch_dtype: bfloat16, a smaller model or a larger GPU"
    advice = f"{smaller}, or {others}" if smaller else others
    return UserError(f"The GPU has too little memory ({first_line(error).partition('. ')[0]}); {advice}.")


def of_system(error: OSError) -> UserError:
    """Return the sentence about a file or folder that the operating system refuses to read, write or find."""
    if sentence := disk_full(error):
        return sentence
    name, reason = error.filename or "A file of this run", error.strerror or error
    return UserError(f"{name} cannot be used ({reason}); check its name, its owner and its permissions.")


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the exception's name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def short(value: Any, most: int = 100) -> str:
    """Return how Python writes a value, cut to ``most`` characters, for a sentence about it."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def nearest(key: str, valid: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown ``key``: the most similar valid key, or all valid keys."""
    valid = list(valid)
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"valid are: {', '.join(valid)}."
