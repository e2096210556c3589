"""Let a params file replace a notebook's defaults; in Google Colab, install missing packages first.

The first cell of every notebook calls :func:`setup`. Before it has run, only the standard library is certain to be
installed, so this module imports nothing else at its top.

requirements.txt and requirements.lock decide what is installed:

* A package that Colab has keeps its version, whatever it is: the version is a constraint for pip. So torch, numpy,
  pandas and the other packages that the running kernel uses do not change.
* The packages of :data:`EXACT` are the exceptions: Colab's transformers is version 5, and groundingdino-py needs 4.
* A package that Colab lacks gets its version from requirements.txt; its dependencies get theirs from requirements.lock.

    python -m csp_utils.colab.setup                  installs and prints the versions, as the cell does
    python -m csp_utils.colab.setup set ADDRESS      sets the project's address and adds the Colab badges
"""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from csp_utils.base.errors import UserError
from csp_utils.colab import DEFAULT

ROOT = Path(__file__).resolve().parents[2]

EXACT = {"transformers", "tokenizers", "huggingface-hub", "accelerate", "peft", "trl", "datasets", "pyarrow"}
"""Packages that get the version of requirements.txt even if Colab has another. transformers 4 needs its own versions of
tokenizers and the rest. ms-swift 4.6 uses the feature Json of datasets, which older datasets lack although ms-swift
accepts them. Colab's kernel has imported none of these packages before the first cell."""

LEFT_OUT = ("Tests", "Installer"), {"jupyterlab"}
"""Sections of requirements.txt, and single packages, that no notebook needs in Colab."""

KEPT = {"torchaudio", "torchcodec", "triton", "protobuf", "opencv-python", "opencv-contrib-python", "ipython",
        "jupyter-client", "jupyter-core", "pyzmq", "tornado", "traitlets", "notebook", "google-colab"}  # fmt: skip
"""Further packages that keep their version if they are installed. torch and the running kernel use most of them.
opencv-python is among them because groundingdino-py requires it and Colab has it, together with the libGL it needs."""

FORGOTTEN = ("packaging",)
"""Packages that Colab's kernel has imported before the first cell and that pip may replace (snakemake needs packaging
< 26). Their modules are dropped from sys.modules, so that the next import takes the new version."""

SHOWN = ("torch", "torchvision", "numpy", "pandas", "transformers", "ms-swift", "trl", "peft", "groundingdino-py",
         "segment-anything")  # fmt: skip

Run = Callable[[list[str]], tuple[int, str]]


def normal(name: str) -> str:
    """Normalise a package's name as package indexes do: huggingface_hub -> huggingface-hub."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Return the version of every installed package, by normalised name."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(normal(name), distribution.version)  # the first on sys.path is the one that is imported
    return found


def pins(path: Path, without: Iterable[str] = ()) -> dict[str, str]:
    """Read the pinned version of each package in a requirements file.

    Args:
        path: requirements file.
        without: sections to leave out; a section begins with a comment line that is its name.
    """
    found, section = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ").strip()
        elif section not in without and (pin := re.match(r"([A-Za-z0-9_.-]+)==([^\s;#]+)", line)):
            found[normal(pin[1])] = pin[2]
    return found


def wanted() -> dict[str, str]:
    """Return the packages of requirements.txt that notebooks need in Colab, with their pinned versions."""
    sections, names = LEFT_OUT
    return {name: version for name, version in pins(ROOT / "requirements.txt", sections).items() if name not in names}


def missing(have: dict[str, str]) -> dict[str, str]:
    """Return the packages of :func:`wanted` that are not installed, or are in :data:`EXACT` with another version."""
    return {name: version for name, version in wanted().items()
            if name not in have or (name in EXACT and have[name].split("+")[0] != version)}  # fmt: skip


def constraints(have: dict[str, str]) -> dict[str, str]:
    """Return pip's constraints: the installed version of every package that stays, the locked one of new packages."""
    stays = {name: have[name] for name in (set(wanted()) - EXACT) | KEPT if name in have}
    new = {name: version for name, version in pins(ROOT / "requirements.lock").items() if name not in have}
    return new | stays | {name: version for name, version in wanted().items() if name in EXACT}


def run(command: list[str]) -> tuple[int, str]:
    """Run a command; return its exit status and its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode, done.stdout


def install(run: Run = run, say: Callable[[str], None] = print) -> dict[str, tuple[str, str]]:
    """Install the missing packages; call pip only if there are any.

    Returns:
        (old, new) version of each package that was installed before and has another version now.

    Raises:
        UserError: pip failed (its last lines are in the message), or changed a package that has to stay.
    """
    before = installed()
    lacking = missing(before)
    if not lacking:
        say("Everything is installed.")
        return {}
    say(f"Installing {', '.join(lacking)} and what they need: a minute or more. Colab's own packages stay as they are.")
    start, held = time.monotonic(), constraints(before)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in sorted(held.items())), encoding="utf-8")
        status, output = run([
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
            "--progress-bar", "off", "--constraint", str(file), *(f"{name}=={v}" for name, v in lacking.items()),
        ])  # fmt: skip
    if status:
        lines = "\n".join(output.strip().splitlines()[-12:])
        raise UserError(f"pip could not install {', '.join(lacking)}; see its last lines, and run this cell again:\n"
                        f"{lines}")  # fmt: skip
    importlib.invalidate_caches()
    after = installed()
    moved = {name: (version, after.get(name, "none")) for name, version in before.items() if after.get(name) != version}
    if broken := [name for name in moved if name in held and held[name] != after.get(name)]:
        raise UserError(f"pip moved {', '.join(broken)}, which were to stay; choose Runtime > Disconnect and delete "
                        "runtime, and begin anew.")  # fmt: skip
    if still := missing(after):
        raise UserError(f"pip ended well, but {', '.join(still)} are not as in requirements.txt; run this cell again.")
    say(f"{len(set(after) - set(before))} packages installed in {time.monotonic() - start:.0f} s; in another version "
        f"than before: {', '.join(f'{name} {old} -> {new}' for name, (old, new) in moved.items()) or 'none'}.")
    return moved


def gpu() -> str | None:
    """Ask the driver for the GPU's name and memory; None without a GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    status, output = run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"])
    return None if status else "; ".join(output.strip().splitlines()) or None


def versions() -> str:
    """Return a text of the versions of Python and the packages of :data:`SHOWN`, and of the GPU."""
    have = installed()
    named = [f"{name} {have.get(name, 'missing')}" for name in SHOWN]
    card = gpu()
    gpu_line = f"GPU: {card}" if card else (
        "This runtime has no GPU: choose Runtime > Change runtime type > T4 GPU (with the parameters of "
        f"{DEFAULT} it runs without one as well, only slower)."
    )  # fmt: skip
    return f"Python {platform.python_version()}, {', '.join(named)}\n{gpu_line}"


def in_colab() -> bool:
    """Tell whether the kernel runs in Google Colab."""
    return bool(importlib.util.find_spec("google") and importlib.util.find_spec("google.colab"))


def setup(params: str = DEFAULT, run: Run = run, say: Callable[[str], None] = print) -> None:
    """Have ``notebook.begin`` use a params file; in Colab, install packages and print versions first.

    The first cell of a notebook calls this. A notebook that the pipeline or a test runs (CSP_HEADLESS is set) has its
    parameters already, so nothing is done.

    Raises:
        UserError: as :func:`install`, or there is no such params file.
    """
    if os.environ.get("CSP_HEADLESS"):
        return
    if not (ROOT / params).is_file():
        raise UserError(f"There is no {params} in the project; PARAMS names a params file, such as {DEFAULT}.")
    if in_colab():
        os.chdir(ROOT)
        _prepare_colab(run, say)
    from csp_utils import notebook  # both need packages that may have been installed just now
    from csp_utils.colab.inputs import prepare

    notebook.before_begin[:] = [partial(prepare, params)]


def _prepare_colab(run: Run, say: Callable[[str], None]) -> None:
    """Install packages, and say what is installed and whether the session has to be restarted."""
    moved = install(run, say)
    for name in set(FORGOTTEN) & set(moved):
        for module in [loaded for loaded in sys.modules if f"{loaded}.".startswith(f"{name}.")]:
            del sys.modules[module]
    loaded = [name for name in moved if name.replace("-", "_") in sys.modules]
    say(versions())
    if loaded:
        say(f"Choose Runtime > Restart session and run this cell again: {', '.join(loaded)} had been loaded before.")


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["set"] and len(sys.argv) == 3:
            from csp_utils.colab import notebooks as colab_notebooks

            print(colab_notebooks.set_address(sys.argv[2]))
        elif sys.argv[1:]:
            sys.exit("usage: python -m csp_utils.colab.setup [set ADDRESS]")
        else:
            setup()
    except UserError as error:
        sys.exit(str(error))
