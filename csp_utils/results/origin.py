"""What a result was made from, kept beside it: the rule by which it is used again or computed again.

The same record serves whole results of a stage, shards of one, kept replies and interrupted trainings. It holds

* the parameters that reach the result (not where it runs, nor in how many shards),
* a digest of the content of every input,
* a digest of the code that computes it (:mod:`csp_utils.results.code`),
* the versions of the libraries that compute it.

Times, places and the order of anything are not in it.
"""

import hashlib
import json
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
"""Distributions that carry values or check them; another version of one is no reason to compute again."""

RECORD = "ORIGIN.json"
"""Name of the record inside a folder."""


@dataclass(frozen=True)
class Origin:
    """What one result is made from. All values are plain JSON.

    Attributes:
        what: name of the stage, and what of it: a shard, the replies of a model, a training.
        parameters: those that reach the result.
        inputs: role -> digest of the content (of a model on the hub: its id and commit).
        code: module -> digest of the definitions that are used.
        libraries: distribution -> version.
    """

    what: str
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """16 hex digits: the same for the same origin."""
        text = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def but(self, what: str, **parameters: Any) -> "Origin":
        """Return the origin of a part of the result: another name, and further parameters."""
        return Origin(what, self.parameters | plain(parameters), self.inputs, self.code, self.libraries)

    def differences(self, other: "Origin") -> list[str]:
        """Say in a few words each what ``other``, the origin now, has that differs from this one, the recorded one."""
        said = []
        for name, now, then in _changes(self.parameters, other.parameters):
            said.append(f"{name} was {then!r} and is {now!r}" if len(f"{then!r}{now!r}") < 60 else f"{name} changed")
        said += [f"{role} changed" for role, _, _ in _changes(self.inputs, other.inputs)]
        said += [f"the code of {module.removeprefix('csp_utils.')} changed"
                 for module, _, _ in _changes(self.code, other.code)]  # fmt: skip
        said += [f"{name} was {then} and is {now}" for name, now, then in _changes(self.libraries, other.libraries)]
        return said or (["it is a result of something else"] if self.what != other.what else [])


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield name, now.get(name), then.get(name)


def plain(value: Any) -> Any:
    """Return ``value`` as JSON gives it back, so that a record that was read equals one that was made."""
    return json.loads(json.dumps(value, default=str))


def source_digest(source: Path | str) -> str:
    """Return what stands for an input in an origin: the digest of a file or folder, or the commit of a hub's model.

    What is not there has the digest "missing".
    """
    if isinstance(source, str) and is_hub_id(source):
        return f"{source}@{hub_commit(source)}"
    return digest(source) if Path(source).exists() else "missing"


def hub_commit(model: str) -> str:
    """Return the commit of a model in the hub's local cache; if it is not there yet, the hub's, which will be fetched.

    Returns "not fetched" if neither is known, as without a network.
    """
    from huggingface_hub import HfApi, constants

    reference = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}" / "refs" / "main"
    if reference.is_file():
        return reference.read_text().strip()
    if not constants.HF_HUB_OFFLINE:
        with suppress(Exception):  # no network, no such model, no right to it: loading it will say which
            return str(HfApi().model_info(model, timeout=10).sha)
    return "not fetched"


def code_and_libraries(starts: Iterable[str], files: Iterable[Path] = (), libraries: Iterable[str] = ()
                       ) -> tuple[dict[str, str], dict[str, str]]:
    """Return the code and the libraries of an origin.

    Args:
        starts, files: as for :func:`csp_utils.results.code.code_of`.
        libraries: distributions that compute as well, but that no import names (the trainer behind a command line).
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
    """Write a record: the origin, and ``more`` that is only told (times, digests of the results)."""
    write_json({"key": origin.key, **more, "origin": asdict(origin)}, path)


def read_record(path: Path) -> tuple[Origin, dict[str, Any]] | None:
    """Return the origin and all else of a record; None if there is none or it is not readable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Origin(**content.pop("origin")), content
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
