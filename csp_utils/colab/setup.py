"""Google Colab: installs there what is missing, without moving what Colab brings, and says what there is.

The first cell of every notebook calls :func:`setup` in Colab, and does nothing anywhere else. Until :func:`setup` has
run only the standard library can be relied on, so this module imports nothing else at its top.

What is installed follows from requirements.txt and requirements.lock alone:

* A package that Colab has stays as it is, whatever its version; its version is a constraint for pip. So torch, numpy,
  pandas and what else the running kernel is made of cannot move.
* The exceptions are :data:`EXACT`: Colab's transformers is version 5, and groundingdino-py needs 4.
* What Colab lacks comes in the version of requirements.txt; what these need in turn, in that of requirements.lock.

    python -m csp_utils.colab.setup                  installs and says the versions, as the cell does
    python -m csp_utils.colab.setup set ADDRESS      puts the repository's address into pyproject.toml, notebooks and README
"""

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from csp_utils.base.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = "params/demo.yaml"

EXACT = {"transformers", "tokenizers", "huggingface-hub", "accelerate", "peft", "trl", "datasets", "pyarrow"}
"""What takes the version of requirements.txt even if Colab has another: transformers 4 and what goes with it, and a
datasets (with its pyarrow) that has the feature Json, which ms-swift 4.6 uses although it admits older ones. Colab's
kernel has loaded none of them before the first cell."""

LEFT_OUT = ("Tests", "Installer"), {"jupyterlab"}
"""Sections of requirements.txt, and packages, that a Colab notebook has no use for."""

KEPT = {"torchaudio", "torchcodec", "triton", "protobuf", "opencv-python", "opencv-contrib-python", "ipython",
        "jupyter-client", "jupyter-core", "pyzmq", "tornado", "traitlets", "notebook", "google-colab"}  # fmt: skip
"""Kept where they are installed, besides those of requirements.txt: what torch and the running kernel are made of, and
every opencv: groundingdino-py names opencv-python, which a bare server cannot load; Colab has it, and its libGL."""

FORGOTTEN = ("packaging",)
"""What Colab's kernel has loaded before the first cell and pip may move (snakemake needs < 26): it is loaded anew."""

SHOWN = ("torch", "torchvision", "numpy", "pandas", "transformers", "ms-swift", "trl", "peft", "groundingdino-py",
         "segment-anything")  # fmt: skip

Run = Callable[[list[str]], tuple[int, str]]

chosen: str | None = None
"""The params file that the first cell named; None outside Colab, and in a notebook that the pipeline runs."""


def normal(name: str) -> str:
    """A package's name as indexes compare it: huggingface_hub -> huggingface-hub."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Version of every installed package, by its normal name."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(normal(name), distribution.version)  # the first on sys.path is the one that is imported
    return found


def pins(path: Path, without: Iterable[str] = ()) -> dict[str, str]:
    """Version of each package in a requirements file, without the sections (comment lines) named."""
    found, section = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ").strip()
        elif section not in without and (pin := re.match(r"([A-Za-z0-9_.-]+)==([^\s;#]+)", line)):
            found[normal(pin[1])] = pin[2]
    return found


def wanted() -> dict[str, str]:
    """The packages of requirements.txt that notebooks need in Colab, with their pinned versions."""
    sections, names = LEFT_OUT
    return {name: version for name, version in pins(ROOT / "requirements.txt", sections).items() if name not in names}


def missing(have: dict[str, str]) -> dict[str, str]:
    """Those of :func:`wanted` that are not there, or that are in :data:`EXACT` and there in another version."""
    return {name: version for name, version in wanted().items()
            if name not in have or (name in EXACT and have[name].split("+")[0] != version)}  # fmt: skip


def constraints(have: dict[str, str]) -> dict[str, str]:
    """Versions that pip must not leave: of what stays, the installed one; of what is new, that of the lock."""
    stays = {name: have[name] for name in (set(wanted()) - EXACT) | KEPT if name in have}
    new = {name: version for name, version in pins(ROOT / "requirements.lock").items() if name not in have}
    return new | stays | {name: version for name, version in wanted().items() if name in EXACT}


def run(command: list[str]) -> tuple[int, str]:
    """Status and output of a command."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.returncode, done.stdout


def install(run: Run = run, say: Callable[[str], None] = print) -> dict[str, tuple[str, str]]:
    """Installs what is missing; calls pip only if something is.

    Returns:
        old and new version of each package that was there before in another version.

    Raises:
        UserError: pip failed (its last lines are in the message), or moved what was to stay.
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
    """Name and memory of the GPU, as its driver says; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    status, output = run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"])
    return None if status else "; ".join(output.strip().splitlines()) or None


def versions() -> str:
    """Versions of Python and of the packages that matter, and the GPU."""
    have = installed()
    named = [f"{name} {have.get(name, 'missing')}" for name in SHOWN]
    card = gpu()
    told = f"GPU: {card}" if card else (
        "This runtime has no GPU: choose Runtime > Change runtime type > T4 GPU (with the parameters of "
        f"{DEFAULT} it runs without one as well, only slower)."
    )  # fmt: skip
    return f"Python {platform.python_version()}, {', '.join(named)}\n{told}"


def setup(params: str = DEFAULT, run: Run = run, say: Callable[[str], None] = print) -> None:
    """What the first cell does in Colab, from the project's root: installs, says the versions, notes the params file.

    A notebook that the pipeline runs (CSP_HEADLESS) finds everything done already.

    Raises UserError as :func:`install`, or if there is no such params file.
    """
    global chosen
    chosen = None
    if os.environ.get("CSP_HEADLESS"):
        return
    if not (ROOT / params).is_file():
        raise UserError(f"There is no {params} in the project; PARAMS names a params file, such as {DEFAULT}.")
    moved = install(run, say)
    for name in set(FORGOTTEN) & set(moved):
        for module in [loaded for loaded in sys.modules if f"{loaded}.".startswith(f"{name}.")]:
            del sys.modules[module]
    loaded = [name for name in moved if name.replace("-", "_") in sys.modules]
    say(versions())
    if loaded:
        say(f"Choose Runtime > Restart session and run this cell again: {', '.join(loaded)} had been loaded before.")
    chosen = params


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
