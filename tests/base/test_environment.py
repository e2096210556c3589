"""One pinned list, and a setup that says in one sentence what is wrong."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import psutil
import pytest
import yaml
from conftest import ROOT
from pipeline_tools import wait_until


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """scripts/setup_env.py as a module, with a .venv that does not exist."""
    monkeypatch.setenv("CSP_VENV", str(tmp_path / "venv"))
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "scripts" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_every_line_has_a_version_and_a_reason():
    for line in lines("requirements.txt"):
        assert re.fullmatch(r"[a-z0-9-]+==[^\s;]+ +# .{5,}", line), line


def test_the_lock_holds_every_pin_and_nothing_that_wants_libgl(setup):
    locked = dict(line.split("==") for line in lines("requirements.lock"))
    assert {name: locked.get(name) for name in setup.pins()} == setup.pins()
    assert "opencv-python" not in locked
    assert len(locked) > 200  # complete: it is installed without looking for dependencies


def section_of_packages():
    """The section (comment line) of requirements.txt in which each package is pinned."""
    section, found = "", {}
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            section = line[2:]
        elif "==" in line:
            found[line.split("==")[0]] = section
    return found


def imported(folder):
    """The distributions of all packages that the Python files in a folder import, with one of the files each."""
    distributions, found = importlib.metadata.packages_distributions(), {}
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module] if isinstance(node, ast.ImportFrom) and not node.level else [])  # fmt: skip
            for name in names:
                for distribution in distributions.get(name.split(".")[0], []):
                    found[distribution.lower().replace("_", "-")] = file
    return found


def test_what_the_package_imports_is_pinned_and_not_for_tests_alone():
    sections = section_of_packages()
    dependencies = {"ipython": "ipykernel", "markupsafe": "jinja2", "packaging": "transformers"}  # come with these
    for name, file in imported(ROOT / "csp_utils").items():
        pinned = dependencies.get(name, name)
        assert pinned in sections, f"{file.relative_to(ROOT)} imports {name}, which requirements.txt does not pin"
        # Colab does not install these sections.
        assert sections[pinned] not in ("Tests", "Installer"), f"{file.relative_to(ROOT)} imports {name}"


def test_conda_uses_the_same_list():
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    assert "-r requirements.txt" in pip and "-c requirements.lock" in pip
    (headless,) = [line for line in lines("requirements.txt") if line.startswith("opencv-python-headless")]
    assert f"opencv-python=={headless.split()[0].split('==')[1]}" in pip


def test_the_environment_of_these_tests_is_as_pinned(setup):
    assert setup.differences() == []


def test_too_little_disk_is_said_before_anything_is_made(setup, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=3 * setup.GIB)
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(setup.Trouble, match=r"needs 7\.0 GiB.* has 3\.0 GiB free; free some"):
        setup.check_disk()
    assert not setup.VENV.exists()


def test_pip_configuration_holds_for_uv(setup, monkeypatch):
    listed = "global.index-url='https://mirror/simple'\n:env:.extra-index-url='https://a/simple https://b/simple'\n" \
             "global.find-links='/w'\nglobal.trusted-host='mirror'\n"
    monkeypatch.setattr(setup.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, stdout=listed))
    assert setup.pip_settings("python") == {
        "UV_DEFAULT_INDEX": "https://mirror/simple", "UV_INDEX": "https://a/simple https://b/simple",
        "UV_FIND_LINKS": "/w", "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_INSECURE_HOST": "mirror"}


def test_a_cut_installation_is_started_afresh(setup):
    python = setup.VENV / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    setup.UNDER_WAY.touch()
    (setup.VENV / "left_over").touch()
    setup.make_venv()
    assert not (setup.VENV / "left_over").exists() and not setup.UNDER_WAY.exists()
    assert subprocess.run([python, "-c", "import pip"]).returncode == 0


FIRST_START = """
import subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import setup_env as setup

def install(python):  # in place of the network: an installer that works until the file "go" is there
    with open(setup.VENV.parent / "installs", "a") as log:
        log.write("one\\n")
    setup.UNDER_WAY.touch()
    waits = "import pathlib, sys, time\\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)"
    assert setup.run([sys.executable, "-c", waits, str(setup.VENV.parent / "go")], {})[0] == 0

def make_venv():
    (setup.VENV / "bin").mkdir(parents=True, exist_ok=True)
    (setup.VENV / "bin" / "python").touch()
    return setup.VENV / "bin" / "python"

setup.install, setup.make_venv, setup.verify, setup.check_disk = install, make_venv, lambda python: None, lambda: None
setup.active = lambda: None
sys.argv = sys.argv[:1]
setup.main()
"""


@pytest.fixture
def first_start(tmp_path):
    """Return a function that starts setup_env.py, with another installer, as ./run_all.sh does in a fresh clone."""
    started = []

    def start():
        command = [sys.executable, "-c", FIRST_START, str(ROOT / "scripts")]
        env = {**os.environ, "CSP_VENV": str(tmp_path / "venv")}
        started.append(subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    (tmp_path / "go").touch()
    for process in started:
        process.kill()
        process.communicate()


def test_of_two_first_starts_the_second_waits_and_uses_what_the_first_made(first_start, tmp_path):
    """Formerly, the second made .venv anew under the first, and advised to check the network."""
    first = first_start()
    wait_until((tmp_path / "installs").exists)
    second = first_start()
    assert "Another process is making" in second.stderr.readline()
    (tmp_path / "go").touch()
    (path, _), (same, _) = first.communicate(timeout=60), second.communicate(timeout=60)
    assert first.returncode == second.returncode == 0 and path == same == f"{tmp_path / 'venv' / 'bin' / 'python'}\n"
    assert (tmp_path / "installs").read_text() == "one\n"
    third = first_start()
    assert third.communicate(timeout=60) == (path, "")  # complete: it takes no lock


def test_a_killed_first_start_lets_go_when_its_installer_has_ended(first_start, tmp_path):
    first = first_start()
    wait_until((tmp_path / "installs").exists)
    installer = None
    while installer is None:
        installer = next(iter(psutil.Process(first.pid).children()), None)
    first.kill()
    first.communicate()
    second = first_start()
    assert "Another process is making" in second.stderr.readline()
    assert second.poll() is None and (tmp_path / "installs").read_text() == "one\n"
    installer.kill()
    wait_until(lambda: (tmp_path / "installs").read_text() == "one\none\n")  # it was cut, so it is made again
    (tmp_path / "go").touch()
    assert second.communicate(timeout=60)[0] and second.returncode == 0


def test_an_environment_with_other_versions_is_not_used(setup, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other" / "bin" / "python"
    other.parent.mkdir(parents=True)
    other.write_text("#!/bin/sh\necho 'torch 1.0 (wanted 2.11.0)'; exit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "other"))
    assert setup.active() is None
    assert "differs from requirements.txt (torch 1.0 (wanted 2.11.0))" in capsys.readouterr().err
    other.write_text("#!/bin/sh\nexit 0\n")
    assert setup.active() == other


def test_a_wrong_python_is_one_sentence(tmp_path):
    for name in ("bash", "dirname", "tail", "env"):
        (tmp_path / name).symlink_to(shutil.which(name))
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n")
    old.chmod(0o755)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "python.sh", tmp_path / "scripts")
    command = [tmp_path / "scripts" / "python.sh"]
    run = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.startswith("Python 3.11 is needed and was not found (Python 3.9.2); install it")
    assert run.stderr.count("\n") == 1


def test_every_script_that_the_texts_call_can_be_called():
    """A script that lost its mode in a commit says "Permission denied" to whoever follows README."""
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*.sh"), ROOT / ".ci" / "run"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in texts)
    called = set(re.findall(r"(?<![\w/.])(?:\./)?((?:scripts/)?\w+\.sh)\b", text))
    assert {"run_all.sh", "run_tests.sh", "scripts/python.sh"} <= called
    assert [name for name in sorted(called) if not os.access(ROOT / name, os.X_OK)] == []


def test_cv2_comes_without_libgl():
    cv2 = importlib.util.find_spec("cv2")
    libraries = ROOT.__class__(cv2.origin).parent.parent.glob("opencv_python*.libs/*")
    assert not any(path.name.startswith(("libQt", "libGL")) for path in libraries)
