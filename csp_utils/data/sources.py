"""Data and weights that are fetched: what assets/sources.yaml lists, where it lies here, and whether it is whole.

    python -m csp_utils.data.sources                     lists every source: size, licence, whether it is here
    python -m csp_utils.data.sources fetch NAME ...      fetches; a fetch that was cut goes on where it stopped

A fetched source is a folder, ``$CSP_CACHE/NAME`` (default ``~/.cache/csp``). What comes from the Hugging Face hub lies
in the hub's own cache, and the folder links to it. SOURCE.json is written last and says what was fetched: a folder that
has one is whole.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from csp_utils.base.errors import UserError

CATALOGUE = Path(__file__).resolve().parents[2] / "assets" / "sources.yaml"
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
    """A folder of the user's own; nothing is fetched then."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers for the plan (csp_utils.pipeline.cost)."""

    @property
    def folder(self) -> Path:
        """Where it lies, or will lie."""
        return self.path or cache() / self.name

    @property
    def here(self) -> bool:
        """Whether all of it is there."""
        return self.path is not None or (self.folder / RECORD).is_file()


def cache() -> Path:
    """The folder of fetched sources."""
    return Path(os.environ.get("CSP_CACHE") or Path.home() / ".cache" / "csp")


def catalogue(changes: Mapping[str, Any] | None = None, where: str = "the params file") -> dict[str, Source]:
    """The sources by name; ``changes`` (the key ``sources`` of a params file) are laid over them.

    Raises UserError for a change of an unknown form, or a path that does not exist.
    """
    entries = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    if not isinstance(changes or {}, Mapping):
        raise UserError(f"'sources' of {where} is {changes!r}; write sources: {{NAME: {{path: FOLDER}}}}.")
    for name, change in (changes or {}).items():
        own = entries.get(name, {})
        if not isinstance(change, Mapping) or set(change) - {"path", "what", "licence", "gigabytes", "facts", "parts"}:
            raise UserError(f"The source {name!r} of {where} is {change!r}; give it path (a folder), or parts.")
        entries[name] = {**own, **change}
    found = {name: Source(name, **{**entry, "path": Path(entry["path"]) if entry.get("path") else None})
             for name, entry in entries.items()}  # fmt: skip
    for source in found.values():
        for part in source.parts:
            if unknown := set(part) - PART_KEYS:
                raise UserError(f"A part of the source {source.name} has the key {sorted(unknown)[0]!r}; "
                                f"it may have: {', '.join(sorted(PART_KEYS))}.")  # fmt: skip
        if source.path is not None and not source.path.exists():
            raise UserError(f"{source.path}, the path of the source {source.name} in {where}, does not exist.")
    return found


def named(value: Any) -> str | None:
    """NAME of a parameter's value "source:NAME"; None for any other value."""
    return value.removeprefix(PREFIX) if isinstance(value, str) and value.startswith(PREFIX) else None


def get(name: str, sources: Mapping[str, Source]) -> Source:
    """The source of that name. Raises UserError if there is none."""
    if name not in sources:
        from csp_utils.base.params import nearest

        raise UserError(f"There is no source {name!r}; {nearest(name, sources)}")
    return sources[name]


def listed(sources: Mapping[str, Source]) -> str:
    """A line for each source."""
    lines = [f"fetched sources lie in {cache()}; those from the hub in its own cache"]
    for source in sources.values():
        state = "here" if source.here else "not here"
        lines.append(f"{source.name:24} {source.gigabytes:6.1f} GB  {state:9} {source.what} ({source.licence})")
    return "\n".join(lines)


def main(arguments: list[str]) -> str:
    """The command line; returns what to print."""
    from csp_utils.data.fetching import fetch

    sources = catalogue()
    if not arguments or arguments == ["list"]:
        return listed(sources)
    if arguments[0] != "fetch" or len(arguments) < 2:
        raise UserError("usage: python -m csp_utils.data.sources [list | fetch NAME ...]")
    return "\n".join(str(fetch(get(name, sources))) for name in arguments[1:])


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
