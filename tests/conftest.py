"""What several test modules share: the project's root, a small project with notebooks of its own, and a model."""

import lzma
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "2")
# A shell starts background jobs with Ctrl-C ignored, and what they start inherits it; tests of Ctrl-C need it back.
signal.signal(signal.SIGINT, signal.default_int_handler)

BOOTSTRAP = """\
import sys
from pathlib import Path
root = next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "csp_utils").is_dir())
sys.path.insert(0, str(root))
from csp_utils import notebook
p, paths = notebook.begin({name!r}, globals())"""

PARAMS = """\
run: mini
rlaif_v: rows.csv
01_extract:
  n_rows: 3
  keyword_model: some/model
02_mask:
  grounding_dino: some/model
  sam: some/model
"""


class Project:
    """A project in a temporary folder: this one's package and Snakefile, and two notebooks that take no models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "csp_utils", folder / "csp_utils", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Snakefile", folder)
        (folder / "rows.csv").write_text("a\nb\nc\n")
        (folder / "csp_utils" / "stage_one.py").write_text("from csp_utils import stage_two\nMARK = stage_two.MARK\n")
        (folder / "csp_utils" / "stage_two.py").write_text("MARK = 1\n")
        self.params = self.write("params/mini.yaml", PARAMS)
        self.notebook("01_extract", "from csp_utils import stage_one\nfrom csp_utils.base.files import write_text",
                      "write_text(str(p.n_rows), paths.keywords)")
        self.notebook("02_mask", "from csp_utils.base.files import write_text",
                      "[write_text(paths.keywords.read_text(), to) for to in (paths.masks, paths.funnel)]")

    def write(self, name: str, text: str) -> Path:
        """Writes a text file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def notebook(self, name: str, *cells: str) -> Path:
        """Writes a notebook: parameters, bootstrap, then ``cells``, each under a heading of its own."""
        from csp_utils.base.params import NOTEBOOKS

        lines = [f"{key} = {field.default!r}" for key, field in NOTEBOOKS[name].model_fields.items()]
        new = nbformat.v4
        content = [new.new_code_cell("\n".join(lines), metadata={"tags": ["parameters"]}),
                   new.new_code_cell(BOOTSTRAP.format(name=name))]
        for number, cell in enumerate(cells, 1):
            content += [new.new_markdown_cell(f"## Part {number}"), new.new_code_cell(cell)]
        book = new.new_notebook(cells=content, metadata={"kernelspec": {
            "display_name": "Python 3", "language": "python", "name": "python3"}})
        path = self.folder / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(book, path)
        return path

    def command(self, *options: str) -> list[str]:
        """The command line of the pipeline."""
        return [sys.executable, "-m", "csp_utils.pipeline.run", str(self.params), *options]

    @property
    def env(self) -> dict[str, str]:
        """The environment of the pipeline: this project's package before any other."""
        return {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONUNBUFFERED": "1"}

    def run(self, *options: str) -> subprocess.CompletedProcess:
        """Runs the pipeline to its end; stdout and stderr together."""
        return subprocess.run(self.command(*options), cwd=self.folder, env=self.env, text=True, timeout=300,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A small project of its own."""
    return Project(tmp_path)


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pope/ and amber/: their authors' own files, which this repository holds compressed."""
    folder = tmp_path_factory.mktemp("official")
    for file in (ROOT / "tests" / "data" / "official").glob("*/*.xz"):
        (folder / file.parent.name).mkdir(exist_ok=True)
        (folder / file.parent.name / file.stem).write_bytes(lzma.decompress(file.read_bytes()))
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-VL of random weights that says different things about different images."""
    from csp_utils.tiny_world.vlm import new_vlm, save_vlm

    folder = tmp_path_factory.mktemp("vlm")
    model, _ = new_vlm(folder, seed=1)
    for parameter in model.model.language_model.parameters():
        parameter.data *= 3  # small random weights say one token for ever
    save_vlm(model, folder)
    return folder
