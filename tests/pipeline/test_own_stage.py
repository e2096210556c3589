"""Test that a stage of one's own is one module and its notebook, and that no other file is edited for it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PARAMS

from csp_utils.stages import stages

OWN = '''"""A stage that a user adds."""
from pydantic import Field

from csp_utils.results.cost import Cost
from csp_utils.base.params import Params
from csp_utils.results.stage import Job, Stage


class Own(Params):
    """Parameters of notebook 30."""

    shout: bool = Field(False, description="whether to shout")


def reads(p, paths):
    """What 21 has copied."""
    return {"copy": paths["copy.txt"]}


def cost(p, paths, known):
    """A word for --plan."""
    return Cost("one word")


def compute(job):
    """Writes own.txt."""
    text = "three" if job.paths["copy.txt"].read_text() == "3" else "other"
    (job.out / "own.txt").write_text(text.upper() if job.p.shout else text)


STAGE = Stage("30_own", Own, compute, makes=("own.txt",), reads=reads, cost=cost)
'''


@pytest.mark.slow
def test_a_stage_of_ones_own_is_one_module_and_its_notebook(project, tmp_path_factory):
    """The new stage runs, and --plan, the check of a params file and the error about a missing file include it.

    No other file of the project is edited.
    """
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN)
    notebook = project.notebook("30_own", "notebook.compute(p)", "print(paths['own.txt'].read_text())")
    book = json.loads(notebook.read_text())
    book["cells"][0]["source"] = "run = 'demo'\nseed = 0\nshout = False"
    (folder / notebook.name).write_text(json.dumps(book))
    notebook.unlink()
    project.params.write_text(PARAMS + "30_own: {shout: true}\n")
    env = {**project.env, "CSP_STAGES": os.pathsep.join([str(project.folder / "stages"), str(folder)]),
           "VIRTUAL_ENV": str(Path(sys.executable).parents[1])}  # fmt: skip

    def call(*command: str) -> str:
        run = subprocess.run(command, cwd=project.folder, env=env, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, timeout=300)  # fmt: skip
        return f"{run.stdout}\nstatus {run.returncode}"

    pipeline = [sys.executable, "-m", "csp_utils.pipeline.run", "params/mini.yaml"]
    assert re.search(r"30_own +one word", call(*pipeline, "--plan"))
    missing = f"from csp_utils.stages import stages\nfrom csp_utils.base.run import missing\n" \
              f"print(missing('outputs/mini/own.txt'))"  # noqa: F541
    hint = "run notebook 30_own with run = 'mini', or ./run_all.sh params/mini.yaml"
    assert hint in call(sys.executable, "-c", missing)
    said = call(*pipeline)
    assert "[3/3] 30_own" in said and said.endswith("status 0")
    assert (project.folder / "outputs/mini/own.txt").read_text() == "THREE"
    assert "nothing to do" in call(*pipeline)
    project.params.write_text(PARAMS + "30_own: {shouts: true}\n")
    said = call(*pipeline)
    assert "Unknown parameter 'shouts' in section 30_own" in said and "did you mean 'shout'?" in said
    assert set(stages) & {"20_count", "30_own"} == set()
