"""Record which data and models a run was computed with, and keep them the same: ``outputs/<run>/sources.json``.

A source without a revision in the catalogue is fetched in its newest one, which may be another tomorrow. For every
source of the run, the file holds what came: the parts of its SOURCE.json (repository and revision, or address and
SHA-256), or the path of the user's own folder.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_json
from csp_utils.data.sources import Source


def as_recorded(used: Sequence[Source], file: Path) -> list[Source]:
    """Return the sources as the run has used them: one that has to be fetched again gets its recorded revisions.

    Args:
        used: the sources of the params file.
        file: the run's ``sources.json``, which need not exist yet.

    Raises:
        UserError: a source on this machine, or a revision in the params file, is not the recorded one; or the file
            cannot be read.
    """
    record = _read(file)
    return [_as_recorded(source, record.get(source.name, {}).get("parts") or [], file) for source in used]


def _as_recorded(source: Source, recorded: list[Mapping[str, Any]], file: Path) -> Source:
    if source.path is not None or not recorded:
        return source
    now = source.record["parts"] if source.here else source.parts
    parts = []
    for index, part in enumerate(source.parts):
        then = next((one for one in [*recorded[index:], *recorded] if _place(one) == _place(part)), {})
        for key in ("revision", "sha256"):
            old, new = then.get(key), now[index].get(key)
            if old and re.fullmatch("[0-9a-f]{40,64}", str(new)) and new != old:  # a branch's name may be the same
                raise _changed(source, f"{key} {old} of {_place(part)}", new, file)
        pin = "repo" in part and part.get("revision") is None and then.get("revision")
        parts.append({**part, "revision": pin} if pin else part)
    return source if source.here else replace(source, parts=parts)


def _changed(source: Source, old: str, new: str, file: Path) -> UserError:
    where = "is on this machine" if source.here else "is asked for"
    return UserError(f"The run was computed with {old} (source {source.name}, recorded in {file}), and {new} {where}, "
                     "so nothing is computed: pin the `revision` of its part under `sources` in the params file to go "
                     f"on with the old data, or delete the entry {source.name} of {file} to compute with the new.")


def write(used: Sequence[Source], file: Path) -> None:
    """Record the sources of a run; entries of sources that it no longer uses are kept.

    Args:
        used: sources that are on this machine.
        file: the run's ``sources.json``.

    Raises UserError as :func:`as_recorded`.
    """
    as_recorded(used, file)  # of a branch's name, only the download tells the revision
    before = _read(file)
    now = {source.name: {"path": str(source.path)} if source.path else {"parts": source.record["parts"]}
           for source in used if source.here}  # fmt: skip
    if before | now != before:
        write_json(before | now, file)


def _place(part: Mapping[str, Any]) -> str | None:
    """Return the repository or the address of a part; None if it is made from other parts."""
    return part.get("repo") or part.get("url")


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if all(isinstance(entry, dict) for entry in found.values()):
            return found
        reason = "an entry is no table"
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error)
    raise UserError(f"{file} does not tell which sources the run was computed with ({reason}); restore it, or delete "
                    "it to compute with those that are on this machine.")  # fmt: skip
