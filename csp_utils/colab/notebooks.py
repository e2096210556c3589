"""Write the Colab badge and the first cell of every notebook, and the project's address.

The address is kept in one place: ``Repository`` in pyproject.toml. As long as it is :data:`PLACEHOLDER`, no notebook
and no README shows a badge, because the badge would open nothing.

    python -m csp_utils.colab.setup set https://github.com/NAME/REPOSITORY
"""

import json
import re
import tomllib
from pathlib import Path

import nbformat

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_text
from csp_utils.colab import DEFAULT

ROOT = Path(__file__).resolve().parents[2]
PLACEHOLDER = "https://github.com/OWNER/csp"
BRANCH = "main"
CELL_ID = "colab"
OPENER = "https://colab.research.google.com/github"

OFFERED = [DEFAULT, "params/colab_t4.yaml", "params/colab_a100.yaml"]
"""Params files in the first cell's form, in Colab."""

CELL = '''\
# Choose the parameters: those of this file replace the defaults below. Colab: fetches the project, installs packages.
PARAMS = "{default}"  # @param {offered}

import importlib.util
import sys
from pathlib import Path

root = next((p for p in [Path.cwd(), *Path.cwd().parents] if (p / "csp_utils").is_dir()), Path("csp").absolute())
if not root.is_dir():
    import os
    import subprocess

    assert importlib.util.find_spec("google") and importlib.util.find_spec("google.colab"), \\
        "The project's folder csp_utils was not found; open this notebook inside the project."
    address = "{address}"
    assert address, "The project has no address yet; set one: python -m csp_utils.colab.setup set ADDRESS"
    os.environ["GIT_TERMINAL_PROMPT"] = "0"  # a wrong address is an error, not a question
    clone = ["git", "clone", "--quiet", "--depth", "1", address, str(root)]
    cloned = subprocess.run(clone, stderr=subprocess.PIPE, text=True)
    assert not cloned.returncode, cloned.stderr
sys.path.insert(0, str(root))
from csp_utils.colab.setup import setup

setup(PARAMS)'''


def address(root: Path = ROOT) -> str:
    """Read the project's address from pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def repository(address: str) -> str:
    """Return NAME/REPOSITORY of an address. Raises UserError unless it is one on GitHub, which Colab opens."""
    found = re.fullmatch(r"https://github\.com/([A-Za-z0-9][\w.-]*/[\w.-]+?)(\.git)?/?", address)
    if not found:
        raise UserError(f"{address!r} is no address of a repository; write https://github.com/NAME/REPOSITORY (Colab "
                        "opens notebooks from GitHub).")  # fmt: skip
    return found[1]


def is_set(address: str) -> bool:
    """Tell whether an address was set, that is whether it is not the placeholder."""
    return repository(address) != repository(PLACEHOLDER)


def badge(address: str, name: str) -> str:
    """Return the markdown of the badge that opens notebook ``name`` in Colab."""
    target = f"{OPENER}/{repository(address)}/blob/{BRANCH}/notebooks/{name}.ipynb"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def with_badge(text: str, name: str, address: str) -> str:
    """Return a markdown text with the badge of notebook ``name`` below its title; without one if no address is set."""
    title, _, rest = text.partition("\n")
    rest = re.sub(r"\A\n*\[!\[Open in Colab\].*\n*", "", rest).lstrip("\n")
    return "\n\n".join([title, badge(address, name), rest] if is_set(address) else [title, rest])


def cell(address: str) -> str:
    """Return the source of the first cell. Without an address it stops with a sentence where it would clone."""
    found = f"https://github.com/{repository(address)}" if is_set(address) else ""
    return CELL.format(address=found, default=DEFAULT, offered=json.dumps(OFFERED))


def furnish(book: nbformat.NotebookNode, name: str, address: str) -> None:
    """Put the badge and the first cell into a notebook, in place of those it has; leave all other cells alone."""
    book.cells[0].source = with_badge(book.cells[0].source, name, address).rstrip("\n")
    book.cells = [cell for cell in book.cells if cell.id != CELL_ID]
    book.cells.insert(1, nbformat.v4.new_code_cell(cell(address), id=CELL_ID))
    book.metadata |= {"accelerator": "GPU", "colab": {"gpuType": "T4"}}  # the runtime that the badge opens it on


def set_address(address: str, root: Path = ROOT) -> str:
    """Write the address into pyproject.toml, all notebooks and README.md; return a sentence that says so.

    README.md gets the badge of the first notebook. Setting :data:`PLACEHOLDER` removes all badges.

    Raises:
        UserError: the address is not one on GitHub.
    """
    new = f"https://github.com/{repository(address)}"
    project = root / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    old = repository(tomllib.loads(text)["project"]["urls"]["Repository"])
    write_text(re.sub(r'^Repository = ".*?"', f'Repository = "{new}"', text, flags=re.MULTILINE), project)
    files = sorted((root / "notebooks").glob("*.ipynb"))
    for file in files:
        book = nbformat.read(file, as_version=4)
        furnish(book, file.stem, new)
        write_text(nbformat.writes(book) + "\n", file)
    readme = root / "README.md"
    text = re.sub(rf"(github(?:\.com)?/){re.escape(old)}(?![\w.-])", rf"\g<1>{repository(new)}",
                  readme.read_text(encoding="utf-8"))  # fmt: skip
    write_text(with_badge(text, files[0].stem, new), readme)
    badges = "got" if is_set(new) else "lost"
    return f"{new} is now in pyproject.toml; README.md and {len(files)} notebooks {badges} their Colab badge."
