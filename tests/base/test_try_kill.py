"""Test that scripts/try_kill.py finds its moments, without a whole run."""

import importlib.util
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from pipeline_tools import wait_until

from csp_utils.base.files import sweep


@pytest.fixture(scope="module")
def try_kill():
    spec = importlib.util.spec_from_file_location("try_kill", ROOT / "scripts" / "try_kill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DRIVER = "python -m csp_utils.pipeline.run params/smoke.yaml"
SNAKEMAKE = "python -m snakemake --config plan=x --forcerun notebook_01_extract notebook_02_mask"
NOTEBOOK = "python -m csp_utils.pipeline.run_notebook x notebook_01_extract 0"
KERNEL = "python -m ipykernel_launcher -f x.json"


@pytest.mark.parametrize(("number", "lines", "there"), [
    (0, [DRIVER], True), (0, [DRIVER, SNAKEMAKE], False), (1, [DRIVER, SNAKEMAKE], True),
    (1, [DRIVER, SNAKEMAKE, NOTEBOOK], False), (2, [DRIVER, SNAKEMAKE, NOTEBOOK], True),
    (2, [DRIVER, SNAKEMAKE, NOTEBOOK, KERNEL], False), (6, [DRIVER, SNAKEMAKE, NOTEBOOK], False),
    (6, [DRIVER, SNAKEMAKE, NOTEBOOK, KERNEL], True), (8, [DRIVER, SNAKEMAKE, NOTEBOOK, KERNEL], False),
    (13, [DRIVER, "python -m swift.cli.sft --model x"], True), (15, ["python -m swift.cli.sft --model x"], False),
])  # fmt: skip
def test_a_moment_is_told_by_the_processes_that_run(try_kill, monkeypatch, tmp_path, number, lines, there):
    monkeypatch.setattr(try_kill, "commands", lambda process: lines)
    assert try_kill.reached(try_kill.MOMENTS[number], None, tmp_path) is there


def test_there_are_twenty_and_the_renames_are_of_results(try_kill):
    assert len({moment.name for moment in try_kill.MOMENTS}) == 20


@pytest.mark.parametrize(("asked", "old"), [("between folder", True), ("before folder", True),
                                                   ("after folder", False)])  # fmt: skip
def test_a_process_stops_at_the_rename_and_a_kill_there_loses_nothing(try_kill, tmp_path, asked, old):
    """``old``: whether the content after the kill and the next start is the old one."""
    (tmp_path / "sitecustomize.py").write_text(try_kill.STOP)
    (tmp_path / "asked").write_text(asked)
    for name in ("new", "folder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    code = "import sys, pathlib\nfrom csp_utils.base.files import replace_folder\n" \
           f"replace_folder(pathlib.Path({str(tmp_path / 'new')!r}), pathlib.Path({str(tmp_path / 'folder')!r}))"
    env = {**os.environ, "CSP_TRY_KILL": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    process = subprocess.Popen([sys.executable, "-c", code], env=env)
    try:
        wait_until((tmp_path / "there").exists, 60)
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "folder").exists() == (asked == "after folder")
    sweep(tmp_path)
    assert (tmp_path / "folder" / "a.txt").read_text() == ("folder" if old else "new")
    assert (tmp_path / "new").exists() == old
