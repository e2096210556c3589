"""Decide whether Python code that comes with a model's weights ("remote code") may run.

transformers and ms-swift run it without a question as soon as a configuration names it (``auto_map``), or if there is a
folder ``custom_generate``. Such code can do everything that the user can. It is allowed

* for a model of the catalogue (assets/sources.yaml): its folder, or its id on the hub in the catalogue's revision,
* for a checkpoint that was trained from one: each of its code files equals one of the catalogue's model,
* with the parameter ``trust_remote_code: true``.

:func:`check` reads files only, so it can refuse a model before any of its code runs.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError, first_line
from csp_utils.base.params import is_hub_id
from csp_utils.data import sources
from csp_utils.models.checkpoints import adapter_base

LOOKED_AT = ["*.json", "*.py"]
"""Files of a model on the hub that are fetched to look for code."""


def check(model: str, revision: str | None = None, trusted: bool = False) -> str | None:
    """Refuse a model whose code is neither known nor allowed; return the commit of a hub id that was looked at.

    Args:
        model: folder or hub id. Of a LoRA adapter's folder, its base model is looked at as well.
        revision: of a hub id; None for the newest.
        trusted: the parameter ``trust_remote_code``; then nothing is looked at.

    Raises UserError for a model that is refused, and for a hub id that cannot be looked at.
    """
    if trusted:
        return None
    folder = _of_hub(model, revision) if is_hub_id(model) else Path(model)
    found = next(named(folder), None)
    if found is not None and not _known(folder):
        raise UserError(f"{model} comes with Python code of its own ({found}), which would run with all your rights, "
                        "and it is no model of assets/sources.yaml in the revision named there; read the code, then "
                        "set trust_remote_code: true, or name another model.")  # fmt: skip
    if is_hub_id(model):
        return folder.name
    base = adapter_base(folder)
    return check(base, revision) if base and base != model else None


def named(folder: Path) -> Iterator[str]:
    """Yield what makes transformers run code of a model's folder, in words."""
    for file in sorted(folder.glob("*.json")):
        if _has_auto_map(_json(file)):
            yield f"auto_map in {file.name}"
    if (folder / "custom_generate").exists():
        yield "the folder custom_generate"


def _of_hub(model: str, revision: str | None) -> Path:
    """Return the folder in the hub's cache with the configurations and the code of a model, which are fetched."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=LOOKED_AT))
    except Exception as error:  # no network, no such model or revision, no access
        raise UserError(f"{model}{f' in revision {revision}' if revision else ''} cannot be looked at on the hub "
                        f"({first_line(error)[:200]}); check the name, the network and your access, or name a folder."
                        ) from error  # fmt: skip


def _known(folder: Path) -> bool:
    """Return True for a folder of the catalogue, or if all code of ``folder`` is, file for file, that of one."""
    places = list(_places())
    if any(folder.resolve() == place.resolve() for place in places):
        return True
    elsewhere = any("--" in text for file in folder.glob("*.json") for text in _references(_json(file)))
    files = list(folder.rglob("*.py"))
    known = {_sha256(file) for place in places for file in place.rglob("*.py")} if files and not elsewhere else set()
    return bool(known) and all(_sha256(file) in known for file in files)


def _places() -> Iterator[Path]:
    """Yield the folders of the catalogue's models that are complete on this machine, and those in the hub's cache."""
    from huggingface_hub import constants

    for source in sources.catalogue().values():
        if source.here:
            yield source.folder
        for part in source.parts:
            if part.get("repo") and part.get("revision"):
                place = Path(constants.HF_HUB_CACHE) / f"models--{part['repo'].replace('/', '--')}"
                yield place / "snapshots" / part["revision"]


def _has_auto_map(content: Any) -> bool:
    if isinstance(content, dict):
        return isinstance(content.get("auto_map"), dict | list | str) or any(map(_has_auto_map, content.values()))
    return isinstance(content, list) and any(map(_has_auto_map, content))


def _references(content: Any) -> Iterator[str]:
    """Yield every text below an ``auto_map``; "organisation/model--file.Class" names code of another repository."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _texts(value) if key == "auto_map" else _references(value)
    elif isinstance(content, list):
        for value in content:
            yield from _references(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _json(path: Path) -> Any:
    """Read a JSON file; None if it is missing or none, which transformers could not read either."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
