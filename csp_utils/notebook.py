"""What every notebook needs around its stage: checked parameters and inputs, short errors, progress, subprocesses."""

import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from csp_utils.base import params
from csp_utils.base.errors import UserError
from csp_utils.base.files import check_manifest
from csp_utils.base.needs import needs
from csp_utils.base.progress import headless, progress
from csp_utils.base.run import RunPaths, missing, project_root

__all__ = ["begin", "headless", "progress"]

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
    """Prepares notebook ``name``; ``namespace`` is its ``globals()``, which hold the parameters.

    Checks the parameters strictly, goes to the project root, quiets the libraries (and keeps them off the network if
    every model is a local folder), shows a UserError as its sentence alone, and checks that all inputs exist.

    Returns the parameters (an instance of the notebook's model in :mod:`csp_utils.base.params`) and the run's paths.
    Raises UserError for a wrong parameter or a missing input.
    """
    _show_sentences()
    os.chdir(project_root())
    model = params.NOTEBOOKS[name]
    values = {field: namespace[field] for field in model.model_fields if field in namespace}
    lacking = [field for field in model.model_fields if field not in namespace]
    if lacking:
        raise UserError(f"The parameters cell of {name} does not set {lacking[0]!r}; run that cell first.")
    if "csp_utils.colab.setup" in sys.modules:  # the first cell imports it, and only in Colab
        from csp_utils.colab import inputs as colab_inputs

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
