"""Prepare and finish a notebook: check parameters and inputs, compute results, show short errors, free memory."""

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from csp_utils.base import kernel  # first: it stops a kernel that lacks what the others import
from csp_utils.base.errors import UserError, disk_full, gpu_full, of_system
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
"""Functions that :func:`begin` calls with the notebook's name and the values of its parameters cell; each returns the
values to use. Colab's preparation adds itself here.
"""

# These are set before the heavy libraries are imported, and only if the user has not set them.
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",  # otherwise its warning about forks appears in every notebook
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # without a terminal, every update would be a new line
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "GOMP_SPINCOUNT": "1000",  # otherwise waiting threads of torch occupy cores that other processes need
}
# With local models there is nothing to look up; without these, libraries wait for a network that may not exist.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "USE_HF": "1"}


def begin(name: str, namespace: Mapping[str, Any]) -> tuple[Any, RunPaths]:
    """Prepare notebook ``name``; return its checked parameters and the paths of its run.

    It changes to the project's root, silences the libraries (and keeps them offline if every model is a local folder),
    makes a UserError appear as one sentence, and checks that all inputs exist.

    Args:
        namespace: the notebook's ``globals()``, which contain the parameters.

    Raises UserError for wrong parameters or a missing input.
    """
    kernel.show_sentences((UserError, OSError, RuntimeError), _sentence)
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
    """Compute the results of a notebook, unless results of the same origin exist.

    ``p`` is the parameters that :func:`begin` returned. The ``compute`` of the notebook's stage does the work
    (csp_utils/stages).
    """
    stage = next(stage for stage in stages.values() if stage.params is type(p))
    produce(stage, p, RunPaths(p.run), progress)


def end() -> None:
    """Free the memory of the notebook's models, so that many open notebooks do not hold all of them."""
    free_models()


def check_inputs(stage: Stage, p: Params, paths: RunPaths) -> None:
    """Raise UserError for the first missing input, or for a model folder that differs from its manifest."""
    for source in stage.reads(p, paths).values():
        if isinstance(source, str) and is_hub_id(source):
            continue
        if not Path(source).exists():
            raise missing(source)
        if Path(source).is_dir():
            check_manifest(source)


def prepare(stage: Stage, p: Params) -> None:
    """Silence the libraries, and keep them offline if every model is a local folder."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    sources = stage.reads(p, RunPaths(p.run)).values()
    if not any(isinstance(source, str) and is_hub_id(source) for source in sources):
        for key, value in OFFLINE.items():
            os.environ.setdefault(key, value)
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)  # meant for the authors of the libraries


def _sentence(error: BaseException) -> UserError | None:
    """Return what is shown for an exception: a UserError as it is, a sentence about a full disk or GPU or a permission.

    None for any other OSError or RuntimeError, which is shown in full.
    """
    if isinstance(error, PermissionError) and error.filename:
        return of_system(error)
    return error if isinstance(error, UserError) else disk_full(error) or gpu_full(error)
