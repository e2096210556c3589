"""The one exception that is meant for the reader of the message, not for the programmer."""


class UserError(Exception):
    """Something the user can mend. The message is one sentence: what is wrong, where, and what to do.

    Command lines print the message alone and exit with status 1; notebooks print it instead of a traceback
    (see :func:`csp_utils.notebook.begin`).
    """


def first_line(error: BaseException) -> str:
    """What an exception says, for a place in a sentence: its first line, or its name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
