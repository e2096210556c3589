"""Guard against str.splitlines on free text: it also splits at U+2028, U+2029, U+0085, \\x0b, \\x0c and \\x1c to \\x1e.

Questions, answers and replies may hold these characters, JSON writes them as they are, and a line of a JSON lines file
or of a notebook's cell does not end there. Iterating over a file is right: it splits at line feeds alone.
"""

import ast
import json

import pytest
from conftest import ROOT

from csp_utils.base.files import read_jsonl, write_jsonl
from csp_utils.results.code import code_of

SEPARATORS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]

ALLOWED = {
    "benchmarks/bfloat16.py": "its own docstring", "benchmarks/elicitation.py": "its own docstring",
    "benchmarks/open_points.py": "its own docstring",
    "csp_utils/base/errors.py": "messages of exceptions", "csp_utils/models/weights.py": "messages of exceptions",
    "csp_utils/colab/setup.py": "lists of packages, output of pip", "scripts/setup_env.py": "output of pip",
    "csp_utils/base/devices.py": "output of nvidia-smi", "csp_utils/pipeline/run_notebook.py": "tracebacks",
    "csp_utils/pipeline/slurm.py": "output of Slurm and Snakemake",
    "csp_utils/show/saved.py": "the machine's description",
}  # fmt: skip
"""File -> the text that it splits, which is no data's."""


def calls_splitlines(source: str) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr == "splitlines" for node in ast.walk(ast.parse(source)))


def test_nothing_splits_free_text_with_splitlines():
    files = [file for folder in ("csp_utils", "scripts", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    found = {file.relative_to(ROOT).as_posix() for file in files
             if calls_splitlines(file.read_text(encoding="utf-8"))}  # fmt: skip
    assert sorted(found - set(ALLOWED)) == [], 'use split("\\n"), or iterate over the file'
    assert sorted(set(ALLOWED) - found) == [], "these need no exception any more"


def test_no_notebook_splits_with_splitlines():
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert "splitlines" not in code, file.name


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_row_with_a_separator_is_one_row(tmp_path, separator):
    rows = [{"question": f"What is{separator}this?"}, {"question": "b"}]
    write_jsonl(rows, tmp_path / "x.jsonl")
    assert read_jsonl(tmp_path / "x.jsonl") == rows


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_cell_with_a_separator_in_a_text_is_read_as_python_reads_it(tmp_path, separator):
    """Formerly, the cell was cut there, and the notebook was said to be none."""
    cells = [{"cell_type": "code", "source": [f"from csp_utils.words import text\nx = 'a{separator}b'\n", "%time x"]}]
    (tmp_path / "x.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert set(code_of((), [tmp_path / "x.ipynb"]).modules) == {"x.ipynb"}
