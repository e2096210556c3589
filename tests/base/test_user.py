"""Test what users get whom the system does not know, or whose home folder cannot be written."""

import getpass
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from csp_utils.base import user
from csp_utils.base.errors import UserError

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def nobody(monkeypatch):
    """A user id without an entry in the system's list and without a variable that names him."""
    for name in (*NAMES, "XDG_CACHE_HOME", "HF_HOME", "CSP_CACHE"):
        monkeypatch.setenv(name, "x")  # so that what is set in the test is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])


def test_a_user_without_a_name_gets_one(nobody, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    user.settle(tmp_path)
    assert getpass.getuser() == f"user{os.getuid()}" and os.environ["HOME"] == str(tmp_path)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("home", [None, "/proc/nowhere", "/dev/null", "/dev/null/x"])
def test_a_home_folder_that_cannot_be_written_is_replaced_and_said(nobody, tmp_path, monkeypatch, capsys, home):
    monkeypatch.setenv("HOME", home or "")
    if home is None:
        monkeypatch.delenv("HOME")
    user.settle(tmp_path)
    assert os.environ["HOME"] == str(tmp_path / "outputs" / ".home")
    assert os.access(os.environ["XDG_CACHE_HOME"], os.W_OK)
    assert "cannot be written; caches go to outputs/.home." in capsys.readouterr().out


def test_downloads_in_a_home_folder_that_can_only_be_read_are_still_used(nobody, tmp_path, monkeypatch):
    (tmp_path / "home" / ".cache" / "huggingface").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(user, "writable", lambda folder: "home" not in folder.parts or ".home" in folder.parts)
    user.settle(tmp_path)
    assert os.environ["HF_HOME"] == str(tmp_path / "home" / ".cache" / "huggingface") and "CSP_CACHE" not in os.environ


def test_results_that_cannot_be_written_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(UserError, match=r"outputs cannot be written by user .*; change its owner or permissions"):
        user.settle(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a process of another user")
@pytest.mark.parametrize("home", ["/proc/nowhere", "/", None])
def test_a_stranger_runs_the_pipeline(project, home):
    """As `docker run --user 54321` and OpenShift do."""
    for place in (project.folder, *project.folder.rglob("*")):
        os.chown(place, 54321, 54321)
    for above in project.folder.parents:
        if above == Path(tempfile.gettempdir()):
            break
        above.chmod(0o755)  # pytest's folders, which only their owner may enter
    env = {name: value for name, value in project.env.items() if name not in (*NAMES, "HOME", "XDG_CACHE_HOME")}
    env |= {"HOME": home} if home else {}
    run = subprocess.run(project.command(), cwd=project.folder, env=env, user=54321, group=54321, extra_groups=[],
                         text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert "2 of 2 notebooks run" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("place", ["params/x.yaml/y", "a" * 300])
def test_an_error_of_the_system_is_one_sentence(project, place):
    project.params = project.folder / place
    run = subprocess.run([sys.executable, "-m", "csp_utils.pipeline.run", place], cwd=project.folder, env=project.env,
                         text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    assert run.returncode == 1 and run.stdout.count("\n") == 1
