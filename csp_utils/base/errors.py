"""The one exception that is meant for the reader of the message, not for the programmer."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. The message is one sentence: what is wrong, where, and what to do.

    Command lines print the message alone and exit with status 1; notebooks print it instead of a traceback
    (see :func:`csp_utils.notebook.begin`).
    """


def first_line(error: BaseException) -> str:
    """What an exception says, for a place in a sentence: its first line, or its name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(key: str, valid: Iterable[str]) -> str:
    """End a sentence about an unknown ``key``: name the valid one that is most like it, or all of them."""
    valid = list(valid)
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"valid are: {', '.join(valid)}."
