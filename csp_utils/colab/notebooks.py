"""The badge and the first cell of every notebook, and the one place of the repository's address: pyproject.toml.

    python -m csp_utils.colab.setup set https://github.com/NAME/REPOSITORY
"""

import re
import tomllib
from pathlib import Path

import nbformat

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_text

ROOT = Path(__file__).resolve().parents[2]
BRANCH = "main"
CELL_ID = "colab"
OPENER = "https://colab.research.google.com/github"

CELL = '''\
# Google Colab only: fetches the project, installs what is missing, says the versions. Elsewhere it does nothing.
PARAMS = "params/demo.yaml"  # @param ["params/demo.yaml", "params/colab_t4.yaml", "params/colab_a100.yaml"]

import importlib.util

if importlib.util.find_spec("google") and importlib.util.find_spec("google.colab"):
    import os
    import subprocess
    import sys
    from pathlib import Path

    root = next((p for p in [Path.cwd(), *Path.cwd().parents] if (p / "csp_utils").is_dir()), Path("csp").absolute())
    if not root.is_dir():
        os.environ["GIT_TERMINAL_PROMPT"] = "0"  # a wrong address is an error, not a question
        clone = ["git", "clone", "--quiet", "--depth", "1", "{address}", str(root)]
        cloned = subprocess.run(clone, stderr=subprocess.PIPE, text=True)
        assert not cloned.returncode, cloned.stderr
    os.chdir(root)
    sys.path.insert(0, str(root))
    from csp_utils.colab.setup import setup

    setup(PARAMS)'''


def address(root: Path = ROOT) -> str:
    """The repository's address, of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def repository(address: str) -> str:
    """NAME/REPOSITORY of an address. Raises UserError unless it is one on GitHub, from where Colab opens notebooks."""
    found = re.fullmatch(r"https://github\.com/([A-Za-z0-9][\w.-]*/[\w.-]+?)(\.git)?/?", address)
    if not found:
        raise UserError(f"{address!r} is no address of a repository; write https://github.com/NAME/REPOSITORY (Colab "
                        "opens notebooks from GitHub).")  # fmt: skip
    return found[1]


def badge(address: str, name: str) -> str:
    """The markdown of the badge that opens notebook ``name`` in Colab."""
    target = f"{OPENER}/{repository(address)}/blob/{BRANCH}/notebooks/{name}.ipynb"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def furnish(book: nbformat.NotebookNode, name: str, address: str) -> None:
    """Puts badge and cell into a notebook, in the place of those that are there; keeps every other cell as it is."""
    title, line, rest = book.cells[0].source.partition("\n")
    rest = re.sub(r"\A\n*\[!\[Open in Colab\].*\n*", "", rest).lstrip("\n")
    book.cells[0].source = f"{title}\n\n{badge(address, name)}\n\n{rest}".rstrip("\n")
    book.cells = [cell for cell in book.cells if cell.id != CELL_ID]
    source = CELL.format(address=f"https://github.com/{repository(address)}")
    book.cells.insert(1, nbformat.v4.new_code_cell(source, id=CELL_ID))
    book.metadata |= {"accelerator": "GPU", "colab": {"gpuType": "T4"}}  # the runtime that the badge opens it on


def set_address(address: str, root: Path = ROOT) -> str:
    """Writes the address into pyproject.toml, every notebook and README.md; returns a sentence that says so.

    Raises UserError if it is not an address on GitHub.
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
    write_text(re.sub(rf"(github(?:\.com)?/){re.escape(old)}(?![\w.-])", rf"\g<1>{repository(new)}",
                      readme.read_text(encoding="utf-8"), flags=re.MULTILINE), readme)  # fmt: skip
    return f"{new} stands in pyproject.toml, README.md and the badges and first cells of {len(files)} notebooks."
