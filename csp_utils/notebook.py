"""What every notebook needs around its stage: checked parameters and inputs, its results, short errors, memory."""

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import check_manifest
from csp_utils.base.memory import free_models
from csp_utils.base.params import Params, build, is_hub_id
from csp_utils.base.progress import headless, progress
from csp_utils.base.run import RunPaths, missing, project_root
from csp_utils.results.produce import produce
from csp_utils.results.stage import Stage, classes
from csp_utils.stages import stages

__all__ = ["begin", "compute", "end", "headless", "progress"]

before_begin: list[Callable[[str, Mapping[str, Any]], Mapping[str, Any]]] = []
"""Called by :func:`begin` with the notebook's name and the values of its parameters cell; return the values to use.
Colab's preparation adds itself here."""

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


def begin(name: str, namespace: Mapping[str, Any]) -> tuple[Any, RunPaths]:
    """Prepare notebook ``name``, and return its checked parameters and the paths of its run.

    Goes to the project's root, quiets the libraries (and keeps them off the network if every model is a local folder),
    shows a UserError as its sentence alone, and checks that all inputs exist.

    Args:
        namespace: the notebook's ``globals()``, which hold the parameters.

    Raises UserError for wrong parameters or a missing input.
    """
    _show_sentences()
    os.chdir(project_root())
    stage = stages[name]
    lacking = [field for field in stage.params.model_fields if field not in namespace]
    if lacking:
        raise UserError(f"The parameters cell of {name} does not set {lacking[0]!r}; run that cell first.")
    values: Mapping[str, Any] = {field: namespace[field] for field in stage.params.model_fields}
    for prepare_values in before_begin:
        values = prepare_values(name, values)
    p = build(stage.params, values, f"the parameters cell of {name}", classes())
    prepare(stage, p)
    paths = RunPaths(p.run)
    check_inputs(stage, p, paths)
    return p, paths


def compute(p: Params) -> None:
    """Have the results of a notebook computed, unless they are there and of the same origin.

    ``p`` is what :func:`begin` returned. What computes is the ``compute`` of its stage (csp_utils/stages).
    """
    stage = next(stage for stage in stages.values() if stage.params is type(p))
    produce(stage, p, RunPaths(p.run), progress)


def end() -> None:
    """Give back the memory of the notebook's models, so that many open notebooks do not hold them all."""
    free_models()


def check_inputs(stage: Stage, p: Params, paths: RunPaths) -> None:
    """Raise UserError for the first input that is missing, or a model folder that is not what its manifest lists."""
    for source in stage.reads(p, paths).values():
        if isinstance(source, str) and is_hub_id(source):
            continue
        if not Path(source).exists():
            raise missing(source)
        if Path(source).is_dir():
            check_manifest(source)


def prepare(stage: Stage, p: Params) -> None:
    """Quiet the libraries, and keep them off the network if every model is a local folder."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    sources = stage.reads(p, RunPaths(p.run)).values()
    if not any(isinstance(source, str) and is_hub_id(source) for source in sources):
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
