"""Make the environment in .venv from requirements.lock, or use the active one if it fits. Standard library only.

    python3.11 scripts/setup_env.py          prints the path of the Python to use (on stdout), progress (on stderr)
    python3.11 scripts/setup_env.py --check  exit status 0 if the Python that runs this has every pinned version

It can be stopped at any time and called again. A call waits for another one that makes .venv, and uses what it made.
The user's configuration of pip (index, certificates, proxies) also applies to uv.

opencv-python is not installed, although groundingdino-py and supervision require it: its import needs libGL, which a
server does not have. opencv-python-headless is the same module without windows; both would be written to the folder
cv2.
"""

import fcntl
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS, LOCK = ROOT / "requirements.txt", ROOT / "requirements.lock"
VENV = Path(os.environ.get("CSP_VENV", ROOT / ".venv"))
STAMP, UNDER_WAY = VENV / "csp_installed.txt", VENV / "csp_installing.txt"
HELD = VENV.with_name(f"{VENV.name}.lock")  # beside .venv, which is removed and made anew while it is held
GIB = 1024**3
NEEDED = 7 * GIB  # measured: 6.0 GiB in .venv (4.7 of them torch and CUDA), plus space to unpack the wheels
ATTEMPTS = 3  # each attempt resumes the downloads of the one before
# uv does not read pip's configuration. This maps pip's setting to uv's variable of the same meaning.
FROM_PIP = {
    "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE", "client-cert": "SSL_CLIENT_CERT", "proxy": "ALL_PROXY",
}
PATIENCE = {"UV_HTTP_TIMEOUT": "300", "UV_HTTP_RETRIES": "10", "UV_CONCURRENT_DOWNLOADS": "10", "UV_NO_PROGRESS": "1"}


class Trouble(Exception):
    """An error that the user can correct, in one sentence."""


def say(text: str) -> None:
    """Print progress to stderr, because stdout is reserved for the result."""
    print(text, file=sys.stderr, flush=True)


def pins() -> dict[str, str]:
    """Return name and version of each line of requirements.txt."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;#]+)", PINS.read_text(encoding="utf-8"), flags=re.MULTILINE))


def differences() -> list[str]:
    """Return the pinned packages that are missing, or have another version, in the Python that runs this."""
    found = []
    for name, wanted in pins().items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        version = version.split("+")[0]  # torch's own builds add a local version, such as 2.11.0+cu130
        if name != "uv" and version != wanted:
            found.append(f"{name} {version} (wanted {wanted})")
    return found


def fingerprint() -> str:
    """Return the content of the stamp of a complete .venv: the package lists that it was made from."""
    return PINS.read_text(encoding="utf-8") + LOCK.read_text(encoding="utf-8")


def active() -> Path | None:
    """Return the Python of the active environment (venv or conda) if it has every pinned version; print why if not."""
    prefix = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    if not prefix or Path(prefix).resolve() == VENV.resolve():
        return None
    python = Path(prefix) / "bin" / "python"
    if not python.exists():
        return None
    check = subprocess.run([python, __file__, "--check"], capture_output=True, text=True)
    if check.returncode == 0:
        return python
    first = (check.stdout or check.stderr).strip().splitlines()[:1]
    say(f"The active environment {prefix} differs from requirements.txt ({' '.join(first)}); {VENV} is used instead.")
    return None


def free_disk(folder: Path) -> tuple[Path, int]:
    """Return the nearest existing folder at or above ``folder``, and the number of free bytes on its disk."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder, shutil.disk_usage(folder).free


def check_disk() -> None:
    """Raise an error, before any download, if the disk is too small."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    cache = Path(os.environ.get("UV_CACHE_DIR") or caches / "uv")
    here, free = free_disk(VENV)
    there, free_cache = free_disk(cache)
    places = [(here, free)]
    if here.stat().st_dev != there.stat().st_dev:
        places.append((there, free_cache))  # the cache and .venv share their files only if they are on the same disk
    already = sum(file.stat().st_size for file in VENV.rglob("*") if file.is_file()) if VENV.exists() else 0
    for place, space in places:
        wanted = NEEDED - already
        if space < wanted:
            raise Trouble(f"The environment needs {wanted / GIB:.1f} GiB, and the disk of {place} has "
                          f"{space / GIB:.1f} GiB free; free some, or name a larger disk in CSP_VENV or UV_CACHE_DIR.")


def pip_settings(python: Path) -> dict[str, str]:
    """Return the user's pip configuration as environment variables for uv."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found = dict(re.findall(r"^[^\s=]*\.([a-z-]+)='(.*)'$", listed, flags=re.MULTILINE))
    settings = {uv: found[pip] for pip, uv in FROM_PIP.items() if found.get(pip)}
    if "UV_FIND_LINKS" in settings:
        settings["UV_FIND_LINKS"] = ",".join(settings["UV_FIND_LINKS"].split())
    if "UV_INDEX" in settings:
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip also takes the best version of all indexes
    if found.get("trusted-host"):
        settings["UV_INSECURE_HOST"] = found["trusted-host"]
    return settings


def run(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Run ``command`` with its output on stderr; return its exit status and last lines."""
    process = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               close_fds=False)  # an installer that outlives this process keeps the lock
    lines: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines = [*lines[-14:], line.rstrip()]
            if not line.startswith((" + ", " ~ ", " - ", "Collecting", "Requirement already", "  ")):
                say("  " + line.rstrip())
        return process.wait(), "\n".join(lines)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock of .venv inside the block; first wait for another process that holds it.

    The system releases it when this process and the installers that it started (:func:`run`) have ended, however.
    """
    HELD.parent.mkdir(parents=True, exist_ok=True)
    with HELD.open("a") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process is making {VENV}; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def complete() -> bool:
    """Return True if .venv has been made to its end from the present package lists."""
    made = STAMP.exists() and STAMP.read_text(encoding="utf-8") == fingerprint()
    return made and (VENV / "bin" / "python").exists()


def make() -> None:
    """Make .venv to its end."""
    check_disk()
    python = make_venv()
    STAMP.unlink(missing_ok=True)
    install(python)
    verify(python)
    UNDER_WAY.unlink(missing_ok=True)
    STAMP.write_text(fingerprint(), encoding="utf-8")
    say("The environment is complete.")


def make_venv() -> Path:
    """Make .venv and return its Python; make it again if its Python fails or its installation was interrupted."""
    python = VENV / "bin" / "python"
    # After an interruption a package may be incomplete. The installer caches wheels, so a fresh start costs little.
    cut = UNDER_WAY.exists()
    test = "import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))"
    if cut or not python.exists() or subprocess.run([python, "-c", test], capture_output=True).returncode:
        say(f"Making {VENV} with Python {platform.python_version()}")
        try:
            venv.EnvBuilder(with_pip=True, clear=True).create(VENV)
        except subprocess.CalledProcessError as error:
            raise Trouble("This Python cannot make virtual environments (ensurepip is missing); install it, on Debian "
                          "and Ubuntu with: apt install python3.11-venv") from error
    return python


def install(python: Path) -> None:
    """Install the lock file into .venv with uv, or with pip if uv cannot be installed."""
    # The lock file is complete, but only for Linux on x86-64; elsewhere pins are resolved (pyproject.toml overrides).
    locked = platform.system() == "Linux" and platform.machine() == "x86_64"
    files = ["--no-deps", "-r", str(LOCK)] if locked else ["-r", str(PINS)]
    UNDER_WAY.write_text("An installation is under way, or was cut; scripts/setup_env.py goes on with it.\n")
    env = {**pip_settings(python), **PATIENCE, **os.environ, "VIRTUAL_ENV": str(VENV)}
    patient = ["--retries", "10", "--timeout", "120"]
    status, _ = run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *patient,
                     f"uv=={pins()['uv']}"], env)
    uv = status == 0
    if uv:
        command = [str(python), "-m", "uv", "pip", "install", "--python", str(python), *files]
    else:
        say("uv could not be installed; going on with pip, which takes longer")
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *patient, *files]
    say(f"Installing {LOCK.name if locked else PINS.name} with {'uv' if uv else 'pip'}: 6 GiB, a minute or more")
    last = ""
    for attempt in range(1, ATTEMPTS + 1):
        status, last = run(command, env)
        if status == 0:
            break
        if "No space left on device" in last:
            raise Trouble(f"The disk is full; free some space ({NEEDED / GIB:.0f} GiB in all) and run again.")
        say(f"Attempt {attempt} of {ATTEMPTS} failed")
    else:
        raise Trouble("The packages could not be installed (see above); check the network or pip's index, and run "
                      "again: what has been fetched is kept.")


def verify(python: Path) -> None:
    """Check that the new environment has every pinned version, and that the two most fragile imports work."""
    check = subprocess.run([python, __file__, "--check"], capture_output=True, text=True)
    if check.returncode:
        raise Trouble(f"The new environment is not as pinned: {check.stdout.strip() or check.stderr.strip()}; delete "
                      f"{VENV} and run again.")
    imports = subprocess.run([python, "-c", "import cv2, torchvision"], capture_output=True, text=True)
    if imports.returncode:
        raise Trouble(f"The new environment does not work: {imports.stderr.strip().splitlines()[-1]}; delete {VENV} "
                      "and run again.")


def main() -> None:
    """Print the path of the Python to use; make the environment first if there is none."""
    if sys.version_info[:2] != (3, 11):
        raise Trouble(f"Python 3.11 is needed, and this is {platform.python_version()}.")
    if "--check" in sys.argv:
        found = differences()
        print("; ".join(found))
        sys.exit(bool(found))
    chosen = active()
    if chosen is None:
        chosen = VENV / "bin" / "python"
        if not complete():
            with alone():
                if not complete():  # the process that held the lock may have made it
                    make()
    print(chosen)


if __name__ == "__main__":
    try:
        main()
    except Trouble as trouble:
        sys.exit(str(trouble))
    except OSError as error:
        sys.exit(f"The environment could not be made: {error}; mend this and run again.")
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command goes on from here.")
