"""Colab: the first cell, the packages that it installs and keeps, the inputs that it makes, and the badges."""

import os
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import ROOT

from csp_utils import notebook
from csp_utils.base.errors import UserError
from csp_utils.base.run import makers
from csp_utils.colab import DEFAULT, DEMO
from csp_utils.colab import inputs as colab_inputs
from csp_utils.colab import notebooks as colab_notebooks
from csp_utils.colab import setup as colab
from csp_utils.data import fetching
from csp_utils.pipeline import gpus, graph, params_file, plan
from csp_utils.results import code
from csp_utils.stages import _foreign, stages

FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
PINS = colab.wanted()
# What Colab had on 2026-08-19 (scripts/colab_preinstalled.txt), torch and torchvision with its own builds' ending.
BROUGHT = colab.pins(ROOT / "scripts" / "colab_preinstalled.txt")
BROUGHT |= {name: f"{BROUGHT[name]}+cu128" for name in ("torch", "torchvision")}


ADDRESS = "https://github.com/some-one/their.csp"
BADGE = "[![Open in Colab]"


def cell(path=FILES[0]):
    """The source of a notebook's Colab cell."""
    return next(one.source for one in nbformat.read(path, as_version=4).cells if one.id == colab_notebooks.CELL_ID)


# --------------------------------------------------------------------------------------------------------- the cell


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_notebook_has_the_same_cell_and_a_badge_only_if_an_address_is_set(path):
    address = colab_notebooks.address()
    assert cell(path) == colab_notebooks.cell(address)
    title = nbformat.read(path, as_version=4).cells[0].source
    if colab_notebooks.is_set(address):
        assert title.count(BADGE) == 1 and colab_notebooks.badge(address, path.stem) in title
    else:
        assert BADGE not in path.read_text(encoding="utf-8") and "OWNER" not in path.read_text(encoding="utf-8")


def test_the_readme_has_a_badge_only_if_an_address_is_set():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    address = colab_notebooks.address()
    if colab_notebooks.is_set(address):
        own = f"{colab_notebooks.OPENER}/{colab_notebooks.repository(address)}/"
        assert BADGE in text and text.count(colab_notebooks.OPENER) == text.count(own)
    else:
        assert BADGE not in text and colab_notebooks.OPENER not in text and "OWNER" not in text


def test_the_params_files_that_the_cell_offers_are_there():
    form = next(line for line in cell().splitlines() if "@param" in line)
    for name in eval(form.split("@param")[1]):
        assert (ROOT / name).is_file()
    assert f'PARAMS = "{DEFAULT}"' in form


def execute(folder, path="", address=ADDRESS, **env):
    """Run the cell as a kernel in ``folder`` would; print its working folder, sys.path[0] and number of modules."""
    told = "os.getcwd(), repr(sys.path[0]), 'csp_utils' in sys.modules, len(sys.modules)"
    code = f"{colab_notebooks.cell(address)}\nimport os, sys\nprint({told})"
    folder.mkdir(exist_ok=True)
    # Packages of the environment, but no PYTHONPATH: the project is not there before the cell fetches it.
    env = {"PATH": path or os.environ["PATH"], "HOME": str(folder), **env}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)


def test_outside_colab_the_cell_installs_nothing_and_names_the_params_file(tmp_path):
    tried = "from csp_utils import notebook\nprint(notebook.before_begin[0].args)"
    run = subprocess.run([sys.executable, "-c", f"{cell()}\n{tried}"], cwd=ROOT / "notebooks", capture_output=True,
                         text=True, env={"PATH": str(tmp_path), "HOME": str(tmp_path)})  # fmt: skip
    assert run.returncode == 0 and run.stdout == f"('{DEFAULT}',)\n", run.stderr
    assert list(tmp_path.iterdir()) == []


def test_outside_the_project_the_cell_says_so(tmp_path):
    run = execute(tmp_path / "here", path=str(tmp_path))  # no git, nothing else to call
    assert run.returncode == 1 and "AssertionError: The project's folder csp_utils was not found" in run.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_a_headless_notebook_keeps_the_parameters_that_it_was_given(tmp_path):
    start = time.monotonic()
    tried = "print(len(sys.modules), 'csp_utils.notebook' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", f"{cell()}\n{tried}"], cwd=ROOT / "notebooks", capture_output=True,
                         text=True, env={"PATH": str(tmp_path), "CSP_HEADLESS": "1"})  # fmt: skip
    modules, loaded = run.stdout.split()
    assert int(modules) < 300 and loaded == "False" and time.monotonic() - start < 5


@pytest.fixture
def in_colab(tmp_path):
    """Environment variables of a machine on which google.colab can be imported and the address can be cloned."""
    package = tmp_path / "packages" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    origin = tmp_path / "origin"
    (origin / "csp_utils" / "colab").mkdir(parents=True)
    (origin / "csp_utils" / "colab" / "setup.py").write_text("def setup(params):\n    print('setup', params)\n")
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    return {"PYTHONPATH": str(tmp_path / "packages"), "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{origin}.insteadOf", "GIT_CONFIG_VALUE_0": ADDRESS}


def test_in_colab_the_cell_clones_once_and_calls_the_clones_setup(tmp_path, in_colab):
    here = tmp_path / "content"
    for folder, path in ((here, ""), (here, str(tmp_path)), (here / "csp" / "notebooks", str(tmp_path))):
        run = execute(folder, path, **in_colab)  # the second and third time there is no git: nothing is cloned again
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith(f"setup {DEFAULT}\n{folder} '{here}/csp' True ")


def test_a_clone_that_fails_says_why_and_leaves_nothing(tmp_path, in_colab):
    shutil.rmtree(tmp_path / "origin")
    run = execute(tmp_path / "content", **in_colab)
    assert run.returncode == 1 and "AssertionError: fatal: " in run.stderr and "origin" in run.stderr
    assert not (tmp_path / "content" / "csp").exists()


def test_without_an_address_the_cell_says_so_and_clones_nothing(tmp_path, in_colab):
    assert 'address = ""' in colab_notebooks.cell(colab_notebooks.PLACEHOLDER)  # scripts/try_colab.py replaces it
    run = execute(tmp_path / "content", address=colab_notebooks.PLACEHOLDER, **in_colab)
    assert run.returncode == 1 and "AssertionError: The project has no address yet; set one: " in run.stderr
    assert not (tmp_path / "content" / "csp").exists()
    (tmp_path / "content").rmdir()
    shutil.move(tmp_path / "origin", tmp_path / "content" / "csp")  # a copy that was put there by hand is used
    run = execute(tmp_path / "content" / "csp" / "csp_utils", address=colab_notebooks.PLACEHOLDER, **in_colab)
    assert run.returncode == 0 and run.stdout.startswith(f"setup {DEFAULT}\n")


# ------------------------------------------------------------------------------------------------------ installing


def test_what_colab_brings_stays_and_what_it_lacks_comes_as_pinned():
    lacking, held = colab.missing(BROUGHT), colab.constraints(BROUGHT)
    for name in ("torch", "torchvision", "numpy", "pandas", "pillow", "ipykernel", "ipython", "opencv-python"):
        assert held[name] == BROUGHT[name] and name not in lacking
    assert held["torch"].endswith("+cu128")
    assert {"transformers", "huggingface-hub", "ms-swift", "groundingdino-py"} <= set(lacking)
    assert all(version == PINS[name] == held.get(name, version) for name, version in lacking.items())
    assert held["transformers"].startswith("4.") and BROUGHT["transformers"].startswith("5.")
    assert not set(lacking) & {"jupyterlab", "pytest", "ruff", "uv", "hypothesis"}
    lock = colab.pins(ROOT / "requirements.lock")
    assert held["cpm-kernels"] == lock["cpm-kernels"]  # new, and asked for by ms-swift alone
    assert "smart-open" not in held and "packaging" not in held  # Colab's are too new for snakemake


def test_every_package_that_is_named_is_one_of_the_list():
    assert colab.EXACT <= set(PINS) and not colab.EXACT & colab.KEPT
    assert {"Tests", "Installer"} <= {line[2:] for line in (ROOT / "requirements.txt").read_text().splitlines()
                                      if line.startswith("# ")}


class Pip:
    """An environment and a pip that installs what it is asked for; ``wrong`` is what it does besides."""

    def __init__(self, monkeypatch, wrong=None, status=0):
        self.have, self.calls, self.wrong, self.status = dict(BROUGHT), [], wrong or {}, status
        monkeypatch.setattr(colab, "installed", lambda: dict(self.have))

    def __call__(self, command):
        file = command[command.index("--constraint") + 1]
        constraints = dict(line.split("==") for line in open(file).read().split())
        asked = dict(word.split("==") for word in command[command.index("--constraint") + 2:])
        self.calls.append((asked, constraints))
        self.have |= asked | self.wrong
        return self.status, "lines\nERROR: No matching distribution found for x"


def test_the_second_time_nothing_is_installed(monkeypatch):
    pip, said = Pip(monkeypatch), []
    moved = colab.install(pip, said.append)
    ((asked, constraints),) = pip.calls
    assert asked == colab.missing(BROUGHT) and constraints == colab.constraints(BROUGHT)
    assert moved["transformers"] == (BROUGHT["transformers"], PINS["transformers"])
    assert "transformers 5.15.0 -> 4.57.6" in said[-1] and "torch" not in said[-1]
    assert colab.install(pip, said.append) == {} and len(pip.calls) == 1
    assert said[-1] == "Everything is installed."


@pytest.mark.parametrize(("wrong", "status", "message"), [
    ({"numpy": "2.4.6"}, 0, "pip moved numpy, which were to stay"),
    ({"transformers": "5.15.0"}, 0, "pip moved transformers|transformers are not as in requirements.txt"),
    ({}, 1, r"(?s)could not install transformers, .*ERROR: No matching distribution found for x"),
])
def test_pip_that_fails_or_does_too_much(monkeypatch, wrong, status, message):
    with pytest.raises(UserError, match=message):
        colab.install(Pip(monkeypatch, wrong, status), lambda text: None)


def test_setup_says_versions_and_gpu_and_what_to_restart(monkeypatch, tmp_path):
    pip, said = Pip(monkeypatch, {"packaging": "25.0"}), []
    monkeypatch.delenv("CSP_HEADLESS", raising=False)  # run_tests.sh sets it
    monkeypatch.setattr(colab, "gpu", lambda: None)
    monkeypatch.setattr(colab, "in_colab", lambda: True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebook, "before_begin", [])
    import packaging.version  # noqa: F401  as a kernel has before its first cell

    loaded = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "packaging"}
    try:
        monkeypatch.setitem(sys.modules, "transformers", sys)
        colab.setup(run=pip, say=said.append)
        assert all(sys.modules.get(name) is not module for name, module in loaded.items())  # gone, or loaded anew
    finally:
        sys.modules.update(loaded)
    assert os.getcwd() == str(ROOT)  # or the notebook, which Colab opens outside the clone, would not find the project
    assert "torch 2.11.0+cu128" in said[-2] and f"ms-swift {PINS['ms-swift']}" in said[-2]
    assert "This runtime has no GPU: choose Runtime" in said[-2]
    assert said[-1].startswith("Choose Runtime > Restart session") and "transformers" in said[-1]
    (prepare,) = notebook.before_begin
    assert prepare.func is colab_inputs.prepare and prepare.args == (DEFAULT,)
    monkeypatch.setattr(colab, "gpu", lambda: "Tesla T4, 15360 MiB")
    colab.setup(run=pip, say=said.append)
    assert said[-1].endswith("GPU: Tesla T4, 15360 MiB") and len(pip.calls) == 1
    with pytest.raises(UserError, match="There is no params/gone.yaml"):
        colab.setup("params/gone.yaml", pip)


def test_a_notebook_that_the_pipeline_runs_sets_nothing_up(monkeypatch):
    monkeypatch.setenv("CSP_HEADLESS", "1")
    monkeypatch.setattr(notebook, "before_begin", [])
    colab.setup(run=lambda command: pytest.fail(str(command)), say=pytest.fail)
    assert notebook.before_begin == []


def test_the_installed_packages_are_found_under_their_normal_names():
    have = colab.installed()
    assert have["huggingface-hub"] == PINS["huggingface-hub"] and have["segment-anything"] == PINS["segment-anything"]


# ------------------------------------------------------------------------------------------- parameters and inputs


def defaults(name):
    return {key: field.default for key, field in stages[name].params.model_fields.items()}


@pytest.fixture
def t4(monkeypatch, tmp_path):
    """params/colab_t4.yaml chosen; fetched sources are listed, not fetched; nothing is run."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CSP_CACHE", str(tmp_path))
    fetched = []
    monkeypatch.setattr(fetching, "fetch", lambda source: fetched.append(source.name))
    monkeypatch.setattr(colab_inputs, "_make", lambda file, name: fetched.append((file, name)))
    return fetched


def test_the_params_file_stands_in_for_defaults_and_a_changed_cell_wins(t4):
    said = []
    values = defaults("04_sft") | {"learning_rate": 3.0e-4}
    found = colab_inputs.prepare("params/colab_t4.yaml", "04_sft", values, said.append)
    assert found == params_file.load("params/colab_t4.yaml")[0]["04_sft"].model_dump() | {"learning_rate": 3.0e-4}
    assert "tuner_type = 'lora'" in said[0] and "learning_rate" not in said[0]
    assert t4 == ["qwen2_vl_2b", ("params/colab_t4.yaml", "04_sft")]


def test_only_what_a_notebook_names_is_fetched(t4):
    colab_inputs.prepare("params/colab_t4.yaml", "01_extract", defaults("01_extract"), lambda text: None)
    assert t4 == ["rlaif_v_first", "pope", "keyword_llm", ("params/colab_t4.yaml", "01_extract")]


def test_a_run_of_ones_own_is_left_alone(t4):
    values = defaults("02_mask") | {"run": "mine"}
    found = colab_inputs.prepare("params/colab_t4.yaml", "02_mask", values, lambda text: None)
    assert found["run"] == "mine" and t4 == []


def test_a_notebook_that_the_file_does_not_run_takes_the_demo(t4):
    said = []
    found = colab_inputs.prepare("params/colab_t4.yaml", "00_tiny_world", defaults("00_tiny_world"), said.append)
    assert found == defaults("00_tiny_world")
    assert said == ["params/colab_t4.yaml has no section 00_tiny_world, so this notebook runs as in params/demo.yaml."]


def test_the_demo_is_every_notebook_with_its_defaults(monkeypatch):
    monkeypatch.chdir(ROOT)
    (found,) = params_file.load(DEMO)
    assert {name: p.model_dump() for name, p in found.items()} == {name: defaults(name) for name in stages}


@pytest.mark.parametrize(("name", "gib", "fits"), [("t4", 15.0, True), ("a100", 40.0, True), ("a100", 8.0, False)])
def test_the_plan_finds_colabs_gpus_large_enough(monkeypatch, name, gib, fits):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(gpus, "installed", lambda: [("0", gib)])  # as nvidia-smi says it
    file = f"params/colab_{name}.yaml"
    used = params_file.sources(file)
    jobs = plan.jobs(graph.steps(file), used)
    assert all(job.cost.gpu_memory is not None for job in jobs)  # or the plan could not tell
    assert not any("on each GPU" in sentence for sentence in plan.lacks(jobs, used)) == fits


@pytest.mark.slow
def test_what_a_notebook_reads_is_made_by_those_before_it(project, monkeypatch, capfd):
    monkeypatch.chdir(project.folder)
    for name in ("PYTHONPATH", "CSP_STAGES"):
        monkeypatch.setenv(name, project.env[name])
    for name in ("counting", "copying"):
        stage = _foreign(project.folder / "stages" / f"{name}.py")
        monkeypatch.setitem(stages, stage.name, stage)
        for result in stage.makes:
            monkeypatch.setitem(makers, result, stage.name)
    monkeypatch.setattr(code, "PROJECT", project.folder)  # the package whose code the notebooks run
    code._module.cache_clear()
    try:
        found = colab_inputs.prepare("params/mini.yaml", "21_copy", defaults("21_copy"))
        assert found == {"run": "mini", "seed": 0, "text": "x"}
        assert (project.folder / "outputs/mini/count.txt").read_text() == "3"
        assert not (project.folder / "outputs/mini/copy.txt").exists()
        assert "20_count" in capfd.readouterr().out and project.computed() == ["count mini"]
        made = (project.folder / "outputs/mini/notebooks/20_count.ipynb").stat().st_mtime_ns
        colab_inputs.prepare("params/mini.yaml", "21_copy", defaults("21_copy"))  # again: it is there
        assert (project.folder / "outputs/mini/notebooks/20_count.ipynb").stat().st_mtime_ns == made
        assert project.computed() == ["count mini"]
    finally:
        code._module.cache_clear()


# ------------------------------------------------------------------------------------------------------- the address


@pytest.fixture
def copy(tmp_path):
    """The files that hold the address, as they are before an address is set."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    old = colab_notebooks.PLACEHOLDER
    (tmp_path / "README.md").write_text(f"# Title\n\n`git clone {old}` and {old}er\n")
    colab_notebooks.set_address(old, tmp_path)
    return tmp_path


def contents(folder):
    """The bytes of every file below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_set_adds_the_address_and_the_badges_and_changes_nothing_else(copy):
    old = colab_notebooks.repository(colab_notebooks.PLACEHOLDER)
    books = {path: nbformat.read(path, as_version=4).cells for path in (copy / "notebooks").glob("*.ipynb")}
    before = contents(copy)
    message = colab_notebooks.set_address(f"{ADDRESS}.git", copy)
    assert message == f"{ADDRESS} is now in pyproject.toml; README.md and 13 notebooks got their Colab badge."
    assert colab_notebooks.address(copy) == ADDRESS
    readme = (copy / "README.md").read_text()
    assert readme.startswith(f"# Title\n\n{colab_notebooks.badge(ADDRESS, '00_tiny_world')}\n\n`git clone {ADDRESS}`")
    assert f"/{old}er" in readme
    for path, cells in books.items():
        new = nbformat.read(path, as_version=4).cells
        assert f"](https://colab.research.google.com/github/some-one/their.csp/blob/main/notebooks/{path.name})" \
            in new[0].source and f'address = "{ADDRESS}"' in cell(path) and old not in path.read_text()
        assert [one.id for one in new] == [one.id for one in cells] and new[2:] == cells[2:]
        assert path.stat().st_mode == (ROOT / "notebooks" / path.name).stat().st_mode
    once = contents(copy)
    colab_notebooks.set_address(ADDRESS, copy)
    assert contents(copy) == once  # no second badge
    message = colab_notebooks.set_address(colab_notebooks.PLACEHOLDER, copy)
    assert message.endswith("13 notebooks lost their Colab badge.") and contents(copy) == before


@pytest.mark.parametrize("address", [
    "", "OWNER/csp", "https://gitlab.com/a/b", "https://github.com/a", "git@github.com:a/b",
    "https://github.com/a/b/tree/main", 'https://github.com/a/b"',
])
def test_what_is_no_address_on_github_is_refused(copy, address):
    before = (copy / "pyproject.toml").read_bytes()
    with pytest.raises(UserError, match="is no address of a repository; write https://github.com/NAME/REPOSITORY"):
        colab_notebooks.set_address(address, copy)
    assert (copy / "pyproject.toml").read_bytes() == before


def test_command_line():
    command = [sys.executable, "-m", "csp_utils.colab.setup", "set", "nowhere"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("'nowhere' is no address") and run.stderr.count("\n") == 1
    assert subprocess.run([*command[:3], "put"], cwd=ROOT, capture_output=True).returncode == 1


def test_the_trial_script_is_bash_that_explains_itself():
    script = ROOT / "scripts" / "try_colab.sh"
    assert os.access(script, os.X_OK)
    told = subprocess.run([script, "--help"], capture_output=True, text=True)
    assert told.returncode == 0 and "google.colab" in told.stdout
