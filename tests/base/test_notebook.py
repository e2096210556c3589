"""The helpers of every notebook: inputs, short errors, subprocesses."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from conftest import ROOT

from csp_utils import notebook
from csp_utils.base import process, progress
from csp_utils.base.errors import UserError
from csp_utils.base.params import Params
from csp_utils.base.run import RunPaths, maker_of
from csp_utils.pipeline.graph import Step
from csp_utils.pipeline.run_notebook import clock, heading
from csp_utils.results.stage import Stage
from csp_utils.stages import stages
from csp_utils.stages.correlation import Correlation
from csp_utils.stages.evaluate import Eval

MODELS = {"keyword_model", "grounding_dino", "sam", "model", "base_model"}
"""Roles of inputs that are models; every other input is made by a notebook."""


def defaults(name):
    return {key: field.default for key, field in stages[name].params.model_fields.items()}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A project root without any files."""
    (tmp_path / "csp_utils").mkdir()
    monkeypatch.chdir(tmp_path)
    for key in (*notebook.QUIET, *notebook.OFFLINE):
        monkeypatch.setenv(key, os.environ.get(key, "1"))  # so that begin() changes nothing for other tests
    return tmp_path


def test_root_is_found_from_below():
    assert notebook.project_root(ROOT / "tests") == ROOT
    with pytest.raises(UserError, match="is not inside the project"):
        notebook.project_root("/")


@pytest.mark.parametrize("name", list(stages))
def test_begin_names_a_missing_input(elsewhere, name):
    if not stages[name].reads(stages[name].params(), RunPaths("demo")):
        assert name == "00_tiny_world"
        return
    with pytest.raises(UserError, match="is missing"):
        notebook.begin(name, defaults(name))


def test_begin_refuses_a_wrong_value_and_an_incomplete_cell(elsewhere):
    with pytest.raises(UserError, match="'seed' in the parameters cell of 07_correlation is 'x'"):
        notebook.begin("07_correlation", {**defaults("07_correlation"), "seed": "x"})
    with pytest.raises(UserError, match="does not set 'n_bootstrap'; run that cell first"):
        notebook.begin("07_correlation", {"run": "demo", "seed": 0})


def test_begin_returns_parameters_and_paths(elsewhere):
    RunPaths("r")["responses.parquet"].parent.mkdir(parents=True)
    RunPaths("r")["responses.parquet"].touch()
    (elsewhere / "notebooks").mkdir()
    os.chdir("notebooks")  # where JupyterLab starts a kernel
    p, paths = notebook.begin("07_correlation", {**defaults("07_correlation"), "run": "r"})
    assert p.n_bootstrap == Correlation().n_bootstrap
    assert paths["responses.parquet"].exists()


@pytest.mark.parametrize("name", [name for name in stages if name not in ("00_tiny_world", "12_replies")])
def test_what_a_notebook_reads_is_made_by_an_earlier_one_or_is_a_model(name):
    order = list(stages)
    needed = stages[name].reads(stages[name].params(), RunPaths("demo"))
    for role, path in needed.items():
        if role not in MODELS:
            assert order.index(maker_of(path)) < order.index(name), role
    assert set(needed) - MODELS, "reads nothing that a notebook makes"


def test_only_chosen_variants_are_needed():
    def makers(variants):
        found = stages["06_eval"].reads(Eval(variants=variants), RunPaths("demo"))
        return {maker_of(path) for path in found.values()} & {"04_sft", "05_simpo"}

    assert makers(["base"]) == set() and makers(["base", "sft"]) == {"04_sft"}
    assert makers(["base", "sft", "csp"]) == {"04_sft", "05_simpo"}


def python(code):
    return [sys.executable, "-c", code]


def test_stream_prints_and_keeps_every_line(tmp_path, capsys):
    code = "import sys; print('a', flush=True); sys.stderr.write('b\\rc\\rd\\n'); print('last', end='')"
    process.stream(python(code), tmp_path / "x.log")
    assert (tmp_path / "x.log").read_bytes() == b"a\nb\rc\rd\nlast"
    assert {"a", "d", "last"} <= set(capsys.readouterr().out.split())
    assert [path.name for path in tmp_path.iterdir()] == ["x.log"]


def test_stream_prints_what_show_returns(tmp_path, capsys):
    show = {"1": None, "2": "22"}.get
    process.stream(python("print(1); print(2)"), tmp_path / "x.log", show=show)
    assert capsys.readouterr().out == "22\n"
    assert (tmp_path / "x.log").read_text() == "1\n2\n"


def test_stream_passes_the_environment_on(tmp_path):
    process.stream(python("import os; print(os.environ['CSP_X'])"), tmp_path / "x.log", env={"CSP_X": "y"})
    assert (tmp_path / "x.log").read_text() == "y\n"


def test_a_failing_command_shows_its_last_lines_and_keeps_its_log(tmp_path):
    with pytest.raises(UserError, match=r"status 3.*x\.failed\.log.*\nlast words$"):
        process.stream(python("print('last words'); raise SystemExit(3)"), tmp_path / "x.log")
    assert (tmp_path / "x.failed.log").read_text() == "last words\n"
    assert not (tmp_path / "x.log").exists()


def test_a_command_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no-such-command cannot be started"):
        process.stream(["no-such-command"], tmp_path / "x.log")


def test_an_interrupt_ends_the_command_and_what_it_started(tmp_path):
    inner = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    script = f"from csp_utils.base import process; process.stream({python(outer)!r}, 'x.log')"
    process = subprocess.Popen(python(script), cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    inner_pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(inner_pid) or psutil.Process(inner_pid).status() == psutil.STATUS_ZOMBIE
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]


def test_progress_gives_every_item_and_says_how_far(capsys):
    assert list(progress.progress(range(3), "Rows")) == [0, 1, 2]
    assert "Rows" in capsys.readouterr().out


def test_small_formats():
    assert clock(83.9) == "1:23"
    assert heading("text\n## One\nmore\n### Two  \n") == "Two"
    assert heading("no heading") == ""


@pytest.mark.slow
def test_a_kernel_that_never_answers_is_replaced_once(tmp_path, monkeypatch, capsys):
    """The first one sleeps as it starts, as far as the notebook can see for ever."""
    from csp_utils.pipeline import run_notebook

    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "sleep.py").write_text(
        f"import time\nfrom pathlib import Path\nmark = Path({str(tmp_path / 'mark')!r})\n"
        "if not mark.exists():\n    mark.touch()\n    time.sleep(600)\n"
    )
    new = nbformat.v4
    cells = [new.new_code_cell("x = 1", metadata={"tags": ["parameters"]}), new.new_code_cell("print(x + 1)")]
    spec = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(new.new_notebook(cells=cells, metadata=spec), tmp_path / "99_test.ipynb")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setattr(run_notebook, "START_SECONDS", (8, 120))
    monkeypatch.setitem(stages, "99_test", Stage("99_test", Params, lambda job: None))  # it makes nothing
    monkeypatch.setattr(Step, "p", Params())
    monkeypatch.chdir(tmp_path)
    run = run_notebook.Run(Step("99_test", "99_test.ipynb", "r", {"x": 2}), "test")
    run.execute()
    assert run.error is None and run.finish() == 0 and (tmp_path / "mark").exists()
    assert capsys.readouterr().out.count("its kernel did not answer in 8 seconds; another one is started") == 1
    copy = nbformat.read(tmp_path / "outputs" / "r" / "notebooks" / "99_test.ipynb", 4)
    assert copy.cells[-1].outputs[0]["text"] == "3\n"
    assert not (tmp_path / "ipython" / "profile_default" / "history.sqlite").exists()


def test_a_kernel_of_another_python_is_told_which_to_choose():
    """-S leaves out the installed packages, as the kernel of a machine's own Python does."""
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom csp_utils import notebook"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    said = run.stderr.strip().split("\n")[-1]
    assert "WrongKernelError: This kernel's Python, " in said and "lacks pydantic" in said
    assert ".venv/bin/jupyter lab" in said


def test_ipython_shows_a_wrong_kernel_as_one_sentence(monkeypatch, capsys):
    from IPython.core.interactiveshell import InteractiveShell

    from csp_utils.base import kernel

    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(kernel, "NEEDED", ("no_such_package",))
    shell.push({"check": kernel.check})
    assert not shell.run_cell("check()").success
    said = capsys.readouterr()
    assert "lacks no_such_package" in said.out + said.err and "Traceback" not in said.out + said.err


def test_a_file_without_permission_is_one_sentence_in_a_notebook():
    error = PermissionError(13, "Permission denied", "a/model.safetensors")
    assert str(notebook._sentence(error)).startswith("a/model.safetensors cannot be used (Permission denied); check")
    assert notebook._sentence(OSError(5, "Input/output error", "a")) is None
