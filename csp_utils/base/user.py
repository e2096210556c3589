"""Give libraries a name of the user and a home folder that can be written, where the system has none (containers)."""

import getpass
import os
from collections.abc import Callable
from pathlib import Path

from csp_utils.base.errors import UserError

CACHES = {"HF_HOME": "huggingface", "CSP_CACHE": "csp"}
"""Variable of a cache of downloads -> its folder below ~/.cache."""


def settle(root: Path, say: Callable[[str], object] = print) -> None:
    """Set USER, HOME and XDG_CACHE_HOME for this process and its children if they are missing or cannot be written.

    The home folder is then ``outputs/.home``. Downloads in the home folder that can be read are still used.

    Args:
        root: the project's folder.

    Raises:
        UserError: the project's own folders cannot be written.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a user id without an entry in the system's list
        os.environ["USER"] = f"user{os.getuid()}"
    for folder in (root / ".snakemake", root / "outputs"):
        if not writable(folder):
            raise UserError(f"{folder} cannot be written by user {getpass.getuser()}; change its owner or permissions, "
                            "or work in a copy of the project that is yours.")  # fmt: skip
    home = Path(os.path.expanduser("~"))
    caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    own = root / "outputs" / ".home"
    if (known := home.is_absolute() and writable(home)) and _made(caches):
        return
    for variable, name in CACHES.items():
        if (caches / name).is_dir():
            os.environ.setdefault(variable, str(caches / name))
    if not (known and _made(home)):
        os.environ["HOME"] = str(own)
    if not (caches.is_absolute() and _made(caches)):
        os.environ["XDG_CACHE_HOME"] = str(own / ".cache")
    (own / ".cache").mkdir(parents=True, exist_ok=True)
    say(f"The home folder {home} cannot be written; caches go to outputs/.home.")


def _made(folder: Path) -> bool:
    """Make ``folder``; return whether it is there and can be written. (Root is told that it may write in /proc.)"""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return writable(folder)


def writable(folder: Path) -> bool:
    """Return True if ``folder`` is a folder that can be written, or could be made."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
