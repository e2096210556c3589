"""The form of every notebook: its parameters are the model's, it is small, and it is stored without outputs."""

import ast
import re
import statistics

import nbformat
import pytest
from conftest import BOOTSTRAP, ROOT

from csp_utils.colab.notebooks import CELL_ID
from csp_utils.stages import stages

FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request):
    """Each notebook's file."""
    return request.param


@pytest.fixture
def book(path):
    """Each notebook."""
    return nbformat.read(path, as_version=4)


def code(book):
    return [cell.source for cell in book.cells if cell.cell_type == "code" and cell.id != CELL_ID]


def test_the_notebooks_are_those_that_have_parameters():
    assert [path.stem for path in FILES] == sorted(stages)


def test_parameters_cell_holds_exactly_the_fields_and_defaults_of_the_model(book, path):
    tagged = [cell.source for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    found = {}
    for node in ast.parse(tagged[0]).body:
        assert isinstance(node, (ast.Assign, ast.AnnAssign)), ast.unparse(node)
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        found[target.id] = ast.literal_eval(node.value)  # fails on anything but a literal
    model = stages[path.stem].params
    assert found == {name: field.default for name, field in model.model_fields.items()}
    assert {name: type(value) for name, value in found.items()} == {
        name: type(field.default) for name, field in model.model_fields.items()}
    assert all("#" in line for line in tagged[0].splitlines() if line[:1].isalpha()), "a parameter without help"


def test_opening_cells(book, path):
    kinds = [cell.cell_type for cell in book.cells]
    assert kinds[0] == "markdown"
    assert book.cells[0].source.startswith("# ")
    colab, first, second = [cell for cell in book.cells if cell.cell_type == "code"][:3]
    assert colab.id == CELL_ID and book.cells[1] is colab  # tests/colab/test_colab.py checks its source
    assert "parameters" in first.metadata.get("tags", [])
    bootstrap = "\n".join(line for line in second.source.splitlines() if line)
    assert bootstrap == BOOTSTRAP.format(name=path.stem).replace("'", '"')


def test_a_notebook_gives_back_the_memory_of_its_models(book, path):
    """Ten open notebooks held 8 GB. A training runs in a process of its own, whose memory is free when it ends."""
    stage = stages[path.stem]
    if stage.gpu and "processes" not in stage.params.model_fields:
        assert code(book)[-1].splitlines()[-1] == "notebook.end()"


def test_prose_uses_the_words_of_the_field(book):
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    assert not re.findall(r"(?i)\b(?:pictures?|spoken|verbalised|normalised|optimisation)\b", prose)


def test_assertions_are_explained(book):
    for before, cell in zip(book.cells, book.cells[1:], strict=False):
        if cell.cell_type == "code" and cell.source.startswith("assert "):
            assert before.cell_type == "markdown" and "assertion" in before.source, cell.source


def test_cells_are_short(book):
    parameters, *lengths = [len(source.splitlines()) for source in code(book)]
    assert max(lengths) <= 30 and parameters < 40  # a line for each parameter
    assert statistics.median(lengths) <= 8


def test_stored_without_outputs_and_foreign_metadata(book):
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert set(book.metadata) <= {"kernelspec", "language_info", "accelerator", "colab"}
    assert book.metadata.kernelspec.name == "python3"


def test_small(path):
    assert path.stat().st_size < 100_000


def test_no_path_of_one_machine(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search("/(home|root|Users)/", text)
