"""Prepare the inputs of a notebook that is opened by hand, in JupyterLab or in Colab.

The first cell names a params file (``PARAMS``). The file's parameters replace the notebook's defaults. Data and models
that the file names are fetched. Earlier notebooks are run with the file if this notebook reads their results.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.process import stream
from csp_utils.base.run import RunPaths
from csp_utils.colab import DEMO
from csp_utils.data import fetching
from csp_utils.data.sources.of_run import as_recorded
from csp_utils.pipeline import params_file
from csp_utils.pipeline.graph import needed, steps, why_stale
from csp_utils.stages import stages


def prepare(file: str, name: str, values: Mapping[str, Any], say: Callable[[str], None] = print) -> dict[str, Any]:
    """Fetch and make the inputs of notebook ``name``; return its parameters.

    A value that was changed in the parameters cell wins over the params file. A value that is still the default is
    taken from the params file. If ``run`` was changed, nothing is fetched or made, because the params file describes
    another run.

    Args:
        file: params file that the notebook's first cell names.
        name: notebook.
        values: values of the parameters cell.
        say: function that shows a sentence to the user.

    Raises:
        UserError: the params file is not valid, a source cannot be fetched, or an earlier notebook failed.
    """
    listed = params_file.load(file)[0]
    if name not in listed:
        say(f"{file} has no section {name}, so this notebook runs as in {DEMO}.")
        file = DEMO
        listed = params_file.load(file)[0]
    section = listed[name].model_dump()
    defaults = {key: field.default for key, field in stages[name].params.model_fields.items()}
    merged = {key: section[key] if value == defaults[key] else value for key, value in values.items()}
    other = {key: value for key, value in merged.items() if value != values[key]}
    if other:
        say(f"Of {file}: {', '.join(f'{key} = {value!r}' for key, value in other.items())}")
    if merged["run"] == section["run"]:
        _fetch(file, merged)
        _make(file, name)
    return merged


def _fetch(file: str, values: Mapping[str, Any]) -> None:
    """Fetch the sources that the parameters name."""
    for source in as_recorded(params_file.sources(file), RunPaths(values["run"])["sources.json"]):
        if not source.here and str(source.folder) in values.values():
            fetching.fetch(source)


def _make(file: str, name: str) -> None:
    """Run the earlier notebooks whose results this notebook reads and that have to run."""
    plan = steps(file)
    step = next(step for step in plan if step.name == name and not step.branch)
    stale, before = why_stale(plan), needed(plan, step.after)
    lacking = [other.copy for other in plan if other.copy in before and other.rule in stale]
    if not lacking:
        return
    print(f"Running the notebooks before this one, with {file}:", flush=True)
    folder = step.paths.root
    log = folder.with_name(f"{folder.name}.before_{name}.log")  # not in the run folder, which the pipeline sweeps
    try:
        stream([sys.executable, "-m", "csp_utils.pipeline.run", file, *lacking], log)
    except UserError as error:
        raise UserError(f"A notebook before this one failed, as said above ({log.with_suffix('.failed.log')}); mend "
                        "the cause and run this cell again.") from error  # fmt: skip
