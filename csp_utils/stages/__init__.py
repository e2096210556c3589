"""Declare the stages, one module per notebook: its parameters, inputs, results, cost, and the function that computes.

A new notebook needs a new module here, its ``.ipynb``, and one name in the list below. The environment variable
``CSP_STAGES`` (folders, separated as in PATH) adds modules of other folders, each with its notebook beside it, in the
order of the notebooks' names.

The modules import heavy libraries inside their functions, so that the pipeline reads the declarations in a fraction of
a second.
"""

import importlib
import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

from csp_utils.base.errors import UserError
from csp_utils.results.stage import Stage, register, stages

MODULES = (
    "tiny_world", "extract", "mask", "schedule", "perturb", "sft", "simpo", "evaluate", "correlation", "stress",
    "report", "claims", "replies",
)  # fmt: skip
"""Names of the modules, in the order in which their notebooks run."""


def load() -> dict[str, Stage]:
    """Register all stages once and return them by name. Raises UserError for a module without a STAGE."""
    if not stages:
        for name in MODULES:
            register(importlib.import_module(f"csp_utils.stages.{name}").STAGE)
        folders = filter(None, os.environ.get("CSP_STAGES", "").split(os.pathsep))
        foreign = [_foreign(file.resolve()) for folder in folders for file in Path(folder).glob("*.py")]
        for stage in sorted(foreign, key=lambda stage: stage.name):
            register(stage)
    return stages


def _foreign(file: Path) -> Stage:
    """Return the stage of a module outside the package; its notebook is in the same folder."""
    name = f"csp_stage_{file.stem}"
    specification = importlib.util.spec_from_file_location(name, file)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    stage = getattr(module, "STAGE", None)
    if not isinstance(stage, Stage):
        raise UserError(f"{file} of CSP_STAGES declares no STAGE (csp_utils.results.stage.Stage); add it, or move the "
                        "file.")  # fmt: skip
    return replace(stage, folder=file.parent)


load()
