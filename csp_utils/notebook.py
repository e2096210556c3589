"""What every notebook needs around its stage: checked parameters and inputs, short errors, progress, subprocesses."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from csp_utils import params
from csp_utils.artifacts import RunPaths, check_manifest, missing, whole_file
from csp_utils.errors import UserError

T = TypeVar("T")

# Set before the heavy libraries are imported, and only where the user has not set them.
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",  # its warning about forks otherwise appears in every notebook
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # one line per update where the output is no terminal
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "GOMP_SPINCOUNT": "1000",  # threads of torch that wait otherwise hold the cores, which other work makes them share
}
# With local models nothing is to be looked up: without these, libraries wait on a network that may not be there.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "USE_HF": "1"}


def project_root(start: Path | str = ".") -> Path:
    """The folder that holds ``csp_utils``, at or above ``start``."""
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        if (folder / "csp_utils").is_dir():
            return folder
    raise UserError(f"{start} is not inside the project (no folder csp_utils at or above it); open the notebook there.")


def headless() -> bool:
    """True where nobody can move a slider: under papermill (run_notebook sets CSP_HEADLESS) and under nbval."""
    return any(os.environ.get(name) for name in ("CSP_HEADLESS", "PYTEST_VERSION", "PYTEST_CURRENT_TEST"))


def needs(name: str, p: params.Stage, paths: RunPaths) -> list[Path]:
    """The files and folders that notebook ``name`` reads with parameters ``p``: data, models, results of others."""
    sources = {
        "rlaif_v": [paths.rlaif_v],
        "pope": [] if name == "01_extract" else [paths.pope],  # 01 only compares with it, where it is given
        "amber": [paths.amber],
    }
    if "amber" not in getattr(p, "benchmarks", ["amber"]):
        del sources["amber"]
    files: list[Path] = []
    for field, own in sources.items():
        if hasattr(p, field):
            files += [Path(getattr(p, field))] if getattr(p, field) else own
    files += [path for path in map(Path, params.local_models(p))]
    if name == "00_tiny_world":
        files += [Path(p.models)] if p.models and not p.train else []
    elif name == "02_mask":
        files += [paths.keywords]
    elif name in ("03_perturb", "10_schedule"):
        files += [Path(p.masks_file) if p.masks_file else paths.masks]
        files += [Path(p.schedule_file)] if getattr(p, "schedule_file", None) else []
    elif name == "04_sft":
        files += [Path(p.rows_file) if p.rows_file else paths.sft_jsonl]
    elif name == "05_simpo":
        files += [Path(p.rows_file) if p.rows_file else paths.simpo_jsonl] + ([] if p.model else [paths.sft_checkpoint])
    elif name in ("06_eval", "08_stress"):
        files += [paths.sft_checkpoint] if "sft" in p.variants else []
        files += [paths.simpo_checkpoint] if "csp" in p.variants else []
    elif name == "07_correlation":
        files += [paths.responses]
    elif name == "09_report":
        files += [paths.responses, paths.metrics]  # of all else it says what is not there
    elif name == "11_claims":
        files += [RunPaths(run).responses for run in (p.run, *p.runs)]
    return files


def begin(name: str, namespace: Mapping[str, Any]) -> tuple[Any, RunPaths]:
    """Prepares notebook ``name``; ``namespace`` is its ``globals()``, which hold the parameters.

    Checks the parameters strictly, goes to the project root, quiets the libraries (and keeps them off the network if
    every model is a local folder), shows a UserError as its sentence alone, and checks that all inputs exist.

    Returns the parameters (an instance of the notebook's model in :mod:`csp_utils.params`) and the run's paths.
    Raises UserError for a wrong parameter or a missing input.
    """
    _show_sentences()
    os.chdir(project_root())
    model = params.NOTEBOOKS[name]
    values = {field: namespace[field] for field in model.model_fields if field in namespace}
    lacking = [field for field in model.model_fields if field not in namespace]
    if lacking:
        raise UserError(f"The parameters cell of {name} does not set {lacking[0]!r}; run that cell first.")
    if "csp_utils.colab" in sys.modules:  # the first cell imports it, and only in Colab
        from csp_utils import colab_inputs

        values = colab_inputs.prepare(name, values)
    p = params.build(name, values, where=f"the parameters cell of {name}")
    prepare(p)
    paths = RunPaths(p.run)
    for path in needs(name, p, paths):
        if not path.exists():
            raise missing(path)
    for folder in params.local_models(p):
        check_manifest(folder)
    return p, paths


def prepare(p: params.Stage) -> None:
    """Quiets the libraries, and keeps them off the network if every model is a local folder."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    if not params.hub_models(p):
        for key, value in OFFLINE.items():
            os.environ.setdefault(key, value)
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)  # meant for the authors of the libraries


def _show_sentences() -> None:
    """Makes IPython show a UserError, or a full disk, as one sentence; the cell still fails."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is None:
        return

    def show(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: int | None = None) -> list[str]:
        if isinstance(error, OSError) and error.errno != 28:  # ENOSPC; any other OSError is shown in full
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
            return []
        if isinstance(error, OSError):
            error = UserError(f"The disk is full ({error}); free some space and run the same command again.")
        sentence = [str(error)]
        shell._showtraceback(UserError, error, sentence)
        return sentence

    shell.set_custom_exc((UserError, OSError), show)


def progress(items: Iterable[T], description: str, total: int | None = None, unit: str = "row") -> Iterable[T]:
    """Iterates over ``items`` with a plain-text progress bar on standard output.

    In a terminal it moves all the time; elsewhere (a notebook, a log) it is renewed every five seconds at most.
    """
    from tqdm import tqdm

    terminal = sys.stdout.isatty()
    return tqdm(items, desc=description, total=total, unit=unit, file=sys.stdout, ascii=not terminal, ncols=100,
                mininterval=0.5 if terminal else 5.0, maxinterval=1.0 if terminal else 30.0)


def die_with_parent() -> None:
    """In the child: ask Linux to end it when this process dies, so that a killed kernel leaves no training behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG


def kill_after(processes: list, seconds: float) -> None:
    """Waits for psutil processes to end, and after so many seconds ends by force those that still run."""
    import psutil

    _, left = psutil.wait_procs(processes, timeout=seconds)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass


def _end_group(process: subprocess.Popen) -> None:
    """Ends a subprocess and all that it has started: politely, then after five seconds by force."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue


def stream(
    command: Sequence[str],
    log_path: Path | str,
    env: Mapping[str, str] | None = None,
    show: Callable[[str], str | None] = lambda line: line,
    tail: int = 15,
) -> None:
    """Runs ``command`` and prints its output line by line as it comes; keeps all of it in ``log_path``.

    ``env`` is added to the environment. ``show`` turns a line into what is printed (None: nothing). A progress bar
    that redraws its line (carriage return) is printed every five seconds at most. On an interrupt (Ctrl-C, the stop
    button) the command and everything it started end.

    Raises UserError with the last ``tail`` lines if the command fails; the log then lies in ``<name>.failed.log``.
    """
    log_path = Path(log_path)
    failed = log_path.with_suffix(".failed.log")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=tail)
    printed = -5.0
    try:
        with whole_file(log_path) as temporary:
            with temporary.open("wb") as log:
                try:
                    process = subprocess.Popen(
                        list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}, start_new_session=True,
                        preexec_fn=die_with_parent,
                    )
                except FileNotFoundError as error:
                    raise UserError(f"{command[0]} cannot be started: it is not installed here; run ./run_all.sh, "
                                    "which makes the environment.") from error
                try:
                    for line, redrawn in _lines(process, log):
                        if line.strip():
                            last.append(line)
                        if redrawn and time.monotonic() - printed < 5:
                            continue
                        text = show(line)
                        if text is not None:
                            print(text, flush=True)
                            printed = time.monotonic()
                    status = process.wait()
                finally:
                    if process.poll() is None:
                        _end_group(process)
            if status:
                os.replace(temporary, failed)
                raise UserError(f"{' '.join(command[:2])} ended with status {status}; its whole log is {failed}; "
                                "its last lines:\n" + "\n".join(last))
    finally:
        sys.stdout.flush()
    failed.unlink(missing_ok=True)


def _lines(process: subprocess.Popen, log: Any) -> Iterable[tuple[str, bool]]:
    """(line, was it ended by a carriage return) of a process's output, every byte of which goes to ``log``."""
    assert process.stdout is not None
    rest = b""
    while chunk := os.read(process.stdout.fileno(), 65536):
        log.write(chunk)
        log.flush()
        parts = re.split(rb"(\r\n|\n|\r)", rest + chunk)
        rest = parts.pop()
        for text, end in zip(parts[0::2], parts[1::2], strict=True):
            yield text.decode(errors="replace"), end == b"\r"
    if rest:
        yield rest.decode(errors="replace"), False
