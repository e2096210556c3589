"""Stop a notebook at its first cell, with one sentence, if its kernel is not one of the project's environment.

The check is made when this module is imported, so it is imported before all others. Its syntax is that of old Pythons.
"""

import importlib.util
import sys

NEEDED = ("pydantic", "pandas", "torch", "swift")


class WrongKernelError(ImportError):
    """The kernel's Python lacks what the project needs."""


def show_sentences(kinds, sentence):
    """Make IPython show some exceptions as one sentence; the cell still fails.

    Args:
        kinds: tuple of exception classes.
        sentence: returns the exception to show for one that was raised, or None to show it in full.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return

    def show(shell, kind, error, trace, tb_offset=None):
        shown = sentence(error)
        if shown is None:
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
            return []
        shell._showtraceback(type(shown), shown, [str(shown)])
        return [str(shown)]

    shell.set_custom_exc(kinds, show)


def check():
    """Raise WrongKernelError if this Python is too old or lacks a package of the project's environment."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if sys.version_info >= (3, 11) and not lacking:
        return
    why = "lacks " + lacking[0] if lacking else "is older than 3.11"
    show_sentences((WrongKernelError,), lambda error: error)
    raise WrongKernelError(
        "This kernel's Python, " + sys.executable + ", " + why + ": it is not the project's environment. Start "
        "JupyterLab with .venv/bin/jupyter lab (./run_all.sh makes .venv) and choose its kernel Python 3."
    )


check()
