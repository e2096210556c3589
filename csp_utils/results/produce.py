"""Compute results once: publish them with a record of their origin, and reuse them while the origin is the same.

:func:`produce` does this for the results of a stage, :func:`cached` for a folder (a shard, the replies of a model).
"""

import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import replace, temporary_folder, whole_folder
from csp_utils.base.lock import locked
from csp_utils.base.params import WHERE_ONLY, Params
from csp_utils.base.progress import Progress, silent
from csp_utils.base.run import RunPaths
from csp_utils.results.digest import digest
from csp_utils.results.origin import (
    RECORD,
    Origin,
    code_and_libraries,
    plain,
    read_record,
    source_digest,
    write_record,
)
from csp_utils.results.stage import Job, Stage

Say = Callable[[str], object]


def origin_of(stage: Stage, p: Params, paths: RunPaths) -> Origin:
    """Return the origin that the results of a stage would have with these parameters and the present inputs."""
    inputs = stage.reads(p, paths) | {
        role: path for role, path in stage.looks_at(p, paths).items() if Path(path).exists()
    }
    values = {name: value for name, value in p.model_dump(mode="json").items()
              if name not in WHERE_ONLY and name not in inputs}  # fmt: skip
    code, libraries = code_and_libraries(stage.functions, stage.files, stage.libraries)
    revision = getattr(p, "revision", None)
    digests = {role: source_digest(source, revision) for role, source in inputs.items()}
    return Origin(stage.name, plain(values), digests, code, libraries)


def record_file(stage: Stage, paths: RunPaths) -> Path:
    """Return the path of the record of a stage's results."""
    return paths["origins"] / f"{stage.name}.json"


def results_of(stage: Stage, p: Params, paths: RunPaths) -> list[Path]:
    """Return the paths of all results of a stage."""
    return [*(paths[name] for name in stage.makes), *stage.also_makes(p, paths)]


def why_not_current(stage: Stage, p: Params, paths: RunPaths, origin: Origin | None = None) -> list[str]:
    """Return short reasons why a stage's results have to be computed (again); [] if they can be used.

    Without a record and results, the reason is "never computed".
    """
    recorded = read_record(record_file(stage, paths))
    results = results_of(stage, p, paths)
    if recorded is None:
        return ["never computed"] if not any(path.exists() for path in results) else ["it has no record of its origin"]
    then, more = recorded
    absent = [str(path) for path in results if not path.exists()]
    if absent:
        return [f"{', '.join(absent)} is missing"]
    if changed := then.differences(origin or origin_of(stage, p, paths)):
        return changed
    return [f"{name} is not what was computed" for name, known in more.get("results", {}).items()
            if digest(paths[name]) != known]  # fmt: skip


def produce(stage: Stage, p: Params, paths: RunPaths, progress: Progress = silent, say: Say = print) -> None:
    """Compute the results of a stage and publish them; do nothing if results of the same origin exist.

    Only one process computes a stage of a run; another one waits, then uses its results. The inputs are checked before
    and after: if one changed in between, nothing is published.

    Raises UserError if a result is missing at the end, and every exception of the stage; older results then stay.
    """
    waiting = f"{stage.name} of {paths.root} is being computed by another process; waiting for it."
    with locked(paths[".locks"] / f"{stage.name}.lock", waiting, say):
        origin = origin_of(stage, p, paths)
        reasons = why_not_current(stage, p, paths, origin)
        if not reasons:
            made = (read_record(record_file(stage, paths)) or (None, {}))[1].get("made")
            say(f"{stage.name}: used as computed on {made}; inputs, parameters and code are the same.")
            return
        if reasons != ["never computed"]:
            say(f"{stage.name} is computed: {'; '.join(reasons)}.")
        start = time.monotonic()
        with temporary_folder(paths[stage.name]) as out:
            stage.compute(Job(stage, p, paths, out, origin, progress, say))
            _publish(stage, p, paths, out, origin, time.monotonic() - start)
        for scrap in [paths["shards"] / stage.name, *stage.scraps(p, paths)]:  # its content is now in the results
            shutil.rmtree(scrap, ignore_errors=True)


def _publish(stage: Stage, p: Params, paths: RunPaths, out: Path, origin: Origin, seconds: float) -> None:
    absent = [name for name in stage.makes if not (out / name).exists()]
    absent += [str(path) for path in stage.also_makes(p, paths) if not path.exists()]
    if absent:
        raise UserError(f"{stage.name} ran to its end, but has not made {', '.join(absent)}; mend its compute.")
    if changed := origin.differences(origin_of(stage, p, paths)):
        raise UserError(f"While {stage.name} was computed, {', '.join(changed)}; its results would be of neither: "
                        "nothing was published, run it again.")  # fmt: skip
    record_file(stage, paths).unlink(missing_ok=True)  # a kill between the next lines leaves results without a record
    for name in stage.makes:
        replace(out / name, paths[name])
    made = {name: digest(paths[name]) for name in stage.makes}
    write_record(record_file(stage, paths), origin, made=_now(), seconds=round(seconds, 1), results=made)


def cached(folder: Path, origin: Origin, make: Callable[[Path], Any], say: Say = print) -> Path:
    """Return ``folder`` if it has the same origin; else have ``make`` fill an empty folder, which replaces it.

    Only one process makes the folder. ``say`` prints why an existing folder is made again.
    """
    with locked(folder.with_name(f".{folder.name}.lock"), f"{folder} is being made by another process; waiting.", say):
        recorded = read_record(folder / RECORD)
        reasons = recorded[0].differences(origin) if recorded else []
        if recorded and not reasons:
            return folder
        if reasons:
            say(f"{origin.what}: made again, because {'; '.join(reasons)}.")
        with whole_folder(folder) as new:
            make(new)
            write_record(new / RECORD, origin, made=_now())
    return folder


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
