"""The catalogue of downloadable data and weights (assets/sources.yaml), and where each is stored on this machine.

    python -m csp_utils.data.sources                     list every source: size, licence, whether it is here
    python -m csp_utils.data.sources fetch NAME ...      download sources; an interrupted download is resumed

A downloaded source is a folder, ``$CSP_CACHE/NAME`` (default ``~/.cache/csp``). Files from the Hugging Face hub are
stored in the hub's cache, and the folder links to them. SOURCE.json records the download and is written last: what was
asked for, what came (repository and revision, or SHA-256), and the size of every file.
:mod:`csp_utils.data.fetching` downloads.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from csp_utils.base.errors import UserError, nearest, short
from csp_utils.data.untrusted import file_name_problem

CATALOGUE = Path(__file__).resolve().parents[3] / "assets" / "sources.yaml"
PREFIX = "source:"
RECORD = "SOURCE.json"
PART_KEYS = {"repo", "type", "revision", "files", "into", "url", "name", "sha256", "coco_images_of", "vlmevalkit"}


@dataclass(frozen=True)
class Source:
    """One entry of the catalogue."""

    name: str
    what: str = ""
    licence: str = ""
    gigabytes: float = 0.0
    parts: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None
    """The user's own folder for this source; then nothing is downloaded."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers from which csp_utils.pipeline.cost estimates GPU time: rows, questions, billions of weights ..."""

    @property
    def folder(self) -> Path:
        """The folder of the source, whether it exists yet or not."""
        return self.path or cache() / self.name

    @property
    def record(self) -> dict[str, Any]:
        """The content of SOURCE.json: name, licence, asked (the parts), parts (what came), files (name -> bytes).

        {} if nothing was fetched to its end, or for the user's own folder.
        """
        try:
            found = json.loads((self.folder / RECORD).read_text(encoding="utf-8")) if self.path is None else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def here(self) -> bool:
        """True if the source is complete on this machine: its parts as they are asked for now, and all their files."""
        if self.path is not None:
            return True
        record = self.record
        asked, came, files = (record.get(key) for key in ("asked", "parts", "files"))
        return bool(asked and came and files) and len(asked) == len(came) == len(self.parts) and all(
            _fits(part, then, got) for part, then, got in zip(self.parts, asked, came, strict=True)
        ) and all(_bytes(self.folder / name) == size for name, size in files.items())  # fmt: skip


def _fits(part: Mapping[str, Any], then: Mapping[str, Any], got: Mapping[str, Any]) -> bool:
    """Tell whether a part is the one that was fetched; without a revision of its own, whatever revision came."""
    known = (None, then.get("revision"), got.get("revision"))
    return {**part, "revision": None} == {**then, "revision": None} and part.get("revision") in known


def _bytes(file: Path) -> int | None:
    """Return the size of a file, or of the file to which a link leads; None if it is gone."""
    try:
        return file.stat().st_size
    except OSError:
        return None


def cache() -> Path:
    """Return the folder of all downloaded sources."""
    return Path(os.environ.get("CSP_CACHE") or Path.home() / ".cache" / "csp")


def catalogue(changes: Mapping[str, Any] | None = None, where: str = "the params file") -> dict[str, Source]:
    """Read the catalogue: source by name.

    Args:
        changes: the key ``sources`` of a params file; it overrides or adds entries.
        where: the name of that params file, for error messages.

    Raises:
        UserError: a change has an unknown form, or names a path that does not exist.
    """
    entries = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    changes = {} if changes is None else changes
    if not isinstance(changes, Mapping):
        raise UserError(f"'sources' of {where} is {short(changes)}; write sources: {{NAME: {{path: FOLDER}}}}.")
    for name, change in changes.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
            raise UserError(f"The source {short(name)} of {where} has a name that is no folder's; use letters, digits, "
                            "_, . and -.")
        if wrong := _wrong(change):
            raise UserError(f"The source {name!r} of {where} is {short(change)}{wrong}")
        entries[name] = {**entries.get(name, {}), **change}
    found = {name: Source(name, **{**entry, "path": Path(entry["path"]) if entry.get("path") else None})
             for name, entry in entries.items()}  # fmt: skip
    for source in found.values():
        if problem := file_name_problem(source.name) or ("has a folder" if "/" in source.name else ""):
            raise UserError(f"The name of the source {source.name!r} in {where} {problem}; give it another.")
        for part in source.parts:
            if unknown := set(part) - PART_KEYS:
                raise UserError(f"A part of the source {source.name} has the key {min(unknown, key=str)!r}; "
                                f"it may have: {', '.join(sorted(PART_KEYS))}.")  # fmt: skip
            for key in ("name", "into"):
                if problem := file_name_problem(str(part.get(key) or "x")):
                    raise UserError(f"{key} of a part of the source {source.name} is {part[key]!r}, which {problem}.")
            if not {"repo", "coco_images_of", "vlmevalkit"} & set(part) and not {"url", "name"} <= set(part):
                raise UserError(f"A part of the source {source.name} is {short(part)}; it needs a repo, or a url and a "
                                "name, from which it is fetched.")  # fmt: skip
        if source.path is not None and not os.path.exists(source.path):  # unlike Path.exists, False for any name
            raise UserError(f"{source.path}, the path of the source {source.name} in {where}, does not exist.")
    return found


def _wrong(change: Any) -> str:
    """Return the end of a sentence about an entry under ``sources`` with a wrong form; "" if it has none."""
    if not isinstance(change, Mapping) or set(change) - {"path", "what", "licence", "gigabytes", "facts", "parts"}:
        return "; give it path (a folder), or parts."
    size, parts = change.get("gigabytes", 0.0), change.get("parts", [])
    for key in ("path", "what", "licence"):
        if key in change and not (isinstance(change[key], str) and change[key].strip()):
            return f": {key} is text, such as path: /data/folder."
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 <= size < math.inf:
        return ": gigabytes is a number, 0 or larger."
    if not isinstance(change.get("facts", {}), Mapping):
        return ": facts are keys with values, as in assets/sources.yaml."
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        return ": parts are a list of keys with values, such as [{repo: organisation/name}]."
    for key, value in ((key, value) for part in parts for key, value in part.items()):
        texts = value if key == "files" and isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts) and not (key == "revision" and value is None):
            return f": {key} of a part is text{', or a list of it' if key == 'files' else ''}."
    return ""


def named(value: Any) -> str | None:
    """Return NAME for the parameter value "source:NAME", and None for any other value."""
    return value.removeprefix(PREFIX) if isinstance(value, str) and value.startswith(PREFIX) else None


def get(name: str, sources: Mapping[str, Source]) -> Source:
    """Look up a source by name. Raises UserError if there is none."""
    if name not in sources:
        raise UserError(f"There is no source {name!r}; {nearest(name, sources)}")
    return sources[name]


def listed(sources: Mapping[str, Source]) -> str:
    """Describe every source in one line each: size, whether it is here, content and licence."""
    lines = [f"fetched sources lie in {cache()}; those from the hub in its own cache"]
    for source in sources.values():
        state = "here" if source.here else "not here"
        lines.append(f"{source.name:24} {source.gigabytes:6.1f} GB  {state:9} {source.what} ({source.licence})")
    return "\n".join(lines)
