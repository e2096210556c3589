"""Record what a result was made from; the record decides whether the result is used again or computed again.

The same record serves the results of a stage, its shards, cached replies and interrupted trainings. It holds

* the parameters that affect the result (but neither the device nor the number of shards),
* a digest of the content of every input,
* a digest of the code that computes it (:mod:`csp_utils.results.code`),
* the versions of the libraries that compute it.

It does not hold times or paths, and it does not depend on any order.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from csp_utils.base.files import write_json
from csp_utils.base.params import is_hub_id
from csp_utils.results.code import code_of
from csp_utils.results.digest import digest

NOT_COMPUTING = frozenset({"pandas", "pyarrow", "pydantic", "pyyaml", "tqdm", "filelock", "packaging", "papermill"})
"""Distributions that store or check values; another version of them does not cause a new computation."""

RECORD = "ORIGIN.json"
"""Name of the record inside a folder."""


@dataclass(frozen=True)
class Origin:
    """What one result is made from. All values are plain JSON.

    Attributes:
        what: name of the stage, and the kind of result: a shard, the replies of a model, a training.
        parameters: the parameters that affect the result.
        inputs: role -> digest of the content (for a model on the hub: its id and commit).
        code: module -> digest of its used definitions.
        libraries: distribution -> version.
    """

    what: str
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return 16 hex digits that are equal for equal origins."""
        text = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def but(self, what: str, **parameters: Any) -> "Origin":
        """Return the origin of a part of the result, with another name and additional parameters."""
        return Origin(what, self.parameters | plain(parameters), self.inputs, self.code, self.libraries)

    def differences(self, other: "Origin") -> list[str]:
        """Return short sentences on how ``other``, the present origin, differs from this one, the recorded one."""
        reasons = []
        for name, now, then in _changes(self.parameters, other.parameters):
            reasons.append(f"{name} was {then!r} and is {now!r}" if len(f"{then!r}{now!r}") < 60 else f"{name} changed")
        reasons += [f"{role} changed" for role, _, _ in _changes(self.inputs, other.inputs)]
        reasons += [f"the code of {module.removeprefix('csp_utils.')} changed"
                 for module, _, _ in _changes(self.code, other.code)]  # fmt: skip
        reasons += [f"{name} was {then} and is {now}" for name, now, then in _changes(self.libraries, other.libraries)]
        return reasons or (["it is a result of something else"] if self.what != other.what else [])


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield name, now.get(name), then.get(name)


def plain(value: Any) -> Any:
    """Return ``value`` after a round trip through JSON, so that a record that was read equals one that was made."""
    return json.loads(json.dumps(value, default=str))


def source_digest(source: Path | str, revision: str | None = None) -> str:
    """Return the digest of a file or folder, or the commit of a model on the hub; "missing" if it does not exist.

    Args:
        revision: of a model on the hub; None for the newest.
    """
    if isinstance(source, str) and is_hub_id(source):
        return f"{source}@{hub_commit(source, revision)}"
    return digest(source) if Path(source).exists() else "missing"


def hub_commit(model: str, revision: str | None = None) -> str:
    """Return the commit of a hub model in the local cache, else the commit that would be fetched from the hub.

    Args:
        revision: a commit, which is returned as it is, a tag or a branch; None for the newest commit.

    Returns "not fetched" if none is known, for example without a network.
    """
    from huggingface_hub import HfApi, constants

    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    reference = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}" / "refs" / (revision or "main")
    if reference.is_file():
        return reference.read_text().strip()
    if not constants.HF_HUB_OFFLINE:
        with suppress(Exception):  # no network, no such model, no access: loading it will report the reason
            return str(HfApi().model_info(model, revision=revision, timeout=10).sha)
    return "not fetched"


def code_and_libraries(starts: Iterable[str], files: Iterable[Path] = (), libraries: Iterable[str] = ()
                       ) -> tuple[dict[str, str], dict[str, str]]:
    """Return the code and the libraries of an origin.

    Args:
        starts, files: as for :func:`csp_utils.results.code.code_of`.
        libraries: distributions that take part without an import, such as the trainer behind a command line.
    """
    code = code_of(starts, files)
    names = {name for top in code.libraries for name in _distributions().get(top, ())} | set(libraries)
    versions = {name: version for name in names if (version := _version(name))}
    return code.modules, {"python": "{}.{}".format(*sys.version_info)} | {
        name: versions[name] for name in sorted(versions) if name not in NOT_COMPUTING
    }


@cache
def _distributions() -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for top, names in metadata.packages_distributions().items():
        found[top] = sorted({name.lower().replace("_", "-") for name in names})
    return found


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def write_record(path: Path, origin: Origin, **more: Any) -> None:
    """Write a record: the origin, and ``more`` for information only (times, digests of the results)."""
    write_json({"key": origin.key, **more, "origin": asdict(origin)}, path)


def read_record(path: Path) -> tuple[Origin, dict[str, Any]] | None:
    """Return the origin and the other entries of a record; None if the file is missing or cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Origin(**content.pop("origin")), content
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
