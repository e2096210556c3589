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
20_count:
  n_rows: 3
21_copy: {}
"""

MASKS_PARAMS = """\
run: mini
rlaif_v: rows.csv
01_extract:
  n_rows: 3
  keyword_model: some/model
02_mask:
  grounding_dino: models/dino
  sam: models/sam
"""
"""Params file of notebooks 01 and 02, whose file and models the fixture ``here`` makes."""

COUNT = '''"""A stage that counts rows, and notes in computed.log that it has computed."""
from pathlib import Path

from pydantic import Field

from csp_utils.base.params import Params
from csp_utils.results.stage import Job, Stage


class Count(Params):
    """Parameters of notebook 20."""

    rows: str = Field("rows.csv", description="file to count")
    n_rows: int = Field(1, ge=1, description="how many to count")
    device: str = Field("auto", description="auto or cpu")


def reads(p, paths):
    """The file."""
    return {"rows": Path(p.rows)}


def compute(job):
    """Writes count.txt."""
    from csp_utils.words.mark import MARK

    with open("computed.log", "a") as log:
        log.write(f"count {job.paths.run}\\n")
    (job.out / "count.txt").write_text(str(job.p.n_rows * MARK))


STAGE = Stage("20_count", Count, compute, makes=("count.txt",), reads=reads)
'''

COPY = '''"""A stage that copies what the other has counted, into a file and a folder."""
from csp_utils.base.params import Params
from csp_utils.results.stage import Job, Stage


class Copy(Params):
    """Parameters of notebook 21."""

    text: str = "x"


def reads(p, paths):
    """The count."""
    return {"count": paths["count.txt"]}


def compute(job):
    """Writes copy.txt and the folder copies."""
    with open("computed.log", "a") as log:
        log.write(f"copy {job.paths.run}\\n")
    (job.out / "copy.txt").write_text(job.paths["count.txt"].read_text())
    (job.out / "copies").mkdir()
    (job.out / "copies" / "a.txt").write_text(job.p.text)


STAGE = Stage("21_copy", Copy, compute, makes=("copy.txt", "copies"), reads=reads)
'''


class Project:
    """A project in a temporary folder: this one's package and Snakefile, and two stages of its own without models.

    Their modules and notebooks are in ``stages``, which CSP_STAGES names; computed.log has a line for every time that
    one of them has computed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "csp_utils", folder / "csp_utils", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Snakefile", "run_all.sh", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        self.write("csp_utils/words/mark.py", "MARK = 1\n")
        self.write("rows.csv", "a\nb\nc\n")
        self.write("stages/counting.py", COUNT)
        self.write("stages/copying.py", COPY)
        self.params = self.write("params/mini.yaml", PARAMS)
        self.notebook("20_count", "notebook.compute(p)", "print(paths['count.txt'].read_text())")
        self.notebook("21_copy", "notebook.compute(p)", "print(paths['copy.txt'].read_text())")

    def copy(self, folder: Path) -> "Project":
        """Copies the project with all that it has made."""
        shutil.copytree(self.folder, folder, symlinks=True)
        project = Project.__new__(Project)
        project.folder, project.params = folder, folder / "params/mini.yaml"
        return project

    def write(self, name: str, text: str) -> Path:
        """Writes a text file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def notebook(self, name: str, *cells: str) -> Path:
        """Writes a notebook: parameters, bootstrap, then ``cells``, each under a heading of its own."""
        fields = {"20_count": {"run": "demo", "seed": 0, "rows": "rows.csv", "n_rows": 1, "device": "auto"},
                  "21_copy": {"run": "demo", "seed": 0, "text": "x"}}.get(name, {"run": "demo", "seed": 0})  # fmt: skip
        lines = [f"{key} = {value!r}" for key, value in fields.items()]
        new = nbformat.v4
        content = [new.new_code_cell("\n".join(lines), metadata={"tags": ["parameters"]}),
                   new.new_code_cell(BOOTSTRAP.format(name=name))]
        for number, cell in enumerate(cells, 1):
            content += [new.new_markdown_cell(f"## Part {number}"), new.new_code_cell(cell)]
        book = new.new_notebook(cells=content, metadata={"kernelspec": {
            "display_name": "Python 3", "language": "python", "name": "python3"}})
        path = self.folder / "stages" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(book, path)
        return path

    def command(self, *options: str) -> list[str]:
        """The command line of the pipeline."""
        return [sys.executable, "-m", "csp_utils.pipeline.run", str(self.params), *options]

    @property
    def env(self) -> dict[str, str]:
        """The environment of the pipeline: this project's package before any other."""
        return {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONUNBUFFERED": "1",
                "CSP_STAGES": str(self.folder / "stages")}

    def computed(self) -> list[str]:
        """The stages that have computed, in order, as "name run"."""
        log = self.folder / "computed.log"
        return log.read_text().splitlines() if log.exists() else []

    def run(self, *options: str) -> subprocess.CompletedProcess:
        """Runs the pipeline to its end; stdout and stderr together."""
        return subprocess.run(self.command(*options), cwd=self.folder, env=self.env, text=True, timeout=300,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the file and the two models that the example names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a")
    for model in ("dino", "sam"):
        (tmp_path / "models" / model).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A small project of its own."""
    return Project(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A small project whose pipeline has run, and its output; tests leave it as it is."""
    project = Project(tmp_path_factory.mktemp("finished"))
    run = project.run()
    assert run.returncode == 0, run.stdout
    return project, run.stdout


@pytest.fixture
def ran(finished: tuple[Project, str], tmp_path: Path) -> Project:
    """A copy of the small project whose pipeline has run."""
    return finished[0].copy(tmp_path / "ran")


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
    from csp_utils.tiny_world.models.vlm import new_vlm, save_vlm

    folder = tmp_path_factory.mktemp("vlm")
    model, _ = new_vlm(folder, seed=1)
    for parameter in model.model.language_model.parameters():
        parameter.data *= 3  # small random weights say one token for ever
    save_vlm(model, folder)
    return folder
