"""Which modules of csp_utils a notebook depends on: a change in one of them makes its results out of date."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

MACHINERY = {
    "branches", "cluster", "colab", "colab_inputs", "colab_notebooks", "cost", "dependencies", "errors", "families",
    "fetching", "gpus", "notebook", "params", "params_file", "pipeline", "plan", "run_notebook", "run_shard",
    "sources", "steps",
}  # fmt: skip
"""Modules that reach a result through the parameters alone, whose values are watched themselves."""


def modules(notebook: Path) -> list[Path]:
    """The modules of csp_utils that a notebook imports, directly or through others, without the machinery."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    waiting = [name for text in code for name in _imports("\n".join(
        line for line in text.splitlines() if not line.lstrip().startswith(("%", "!"))))]
    found: set[Path] = set()
    while waiting:
        name = waiting.pop()
        path = Path(*name.split("."))
        file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if not file.is_file() or file in found or name.split(".")[1:2] and name.split(".")[1] in MACHINERY:
            continue
        found.add(file)
        waiting += _imports(file.read_text(encoding="utf-8"))
    return sorted(found)


def _imports(code: str) -> Iterator[str]:
    """Dotted names under csp_utils that ``code`` may import (names that are no module are dropped by the caller)."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("csp_utils."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "csp_utils":
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
