"""Expand one params file into several runs: branches of an experiment, each with several seeds.

    run: claims
    00_tiny_world: {...}         # sections at the top run once, into outputs/claims
    02_mask: {}
    each:                        # what every branch runs, for every seed
      masks_file: outputs/claims/masks.parquet
      03_perturb: {}
      04_sft: {n_rows: null}
    seeds: [0, 1, 2]
    branches:                    # what each branch changes; it runs into outputs/claims.<branch>.<seed>
      csp: {}
      global: {03_perturb: {noise_region: global}}
      simpo_only: {04_sft: null, 05_simpo: {model: assets/tiny_world/vlm}}
      lora: {seeds: [0], 04_sft: {tuner_type: lora}}

A section 11_claims at the top runs last and compares all runs. The keys of a branch's section override those of the
same section of ``each``; null removes the notebook. In any text, ``{seed}`` and ``{branch}`` are replaced by those of
the run. A branch changes only parameters, never code.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError, short
from csp_utils.stages import stages

KEYS = ("each", "seeds", "branches")


def expand(content: Mapping[str, Any], path: Path | str) -> list[dict[str, Any]]:
    """Return the content of a params file for each run: the main run first, then every branch with every seed.

    Args:
        content: content of the whole file; without ``branches`` it is the only run.
        path: the file's path, for error messages.

    Raises:
        UserError: ``each`` or ``seeds`` without ``branches``, a wrong type of one of them, or a name that cannot be the
            name of a folder.
    """
    main = {key: value for key, value in content.items() if key not in KEYS}
    if "branches" not in content:
        for key in KEYS:
            if key in content:
                raise UserError(f"{key!r} stands at the top of {path}, but no 'branches' that it could be for.")
        return [main]
    each, branches = content.get("each") or {}, content["branches"]
    for key, value in (("each", each), ("branches", branches)):
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise UserError(f"{key!r} of {path} is {short(value)}, not keys with values; see params/README.md.")
    shared = {key: value for key, value in main.items() if key not in stages and key != "seed"}
    runs = [main]
    for branch, changes in branches.items():
        changes = {} if changes is None else changes
        if not re.fullmatch(r"[A-Za-z0-9_-]+", branch):
            raise UserError(f"The branch {short(branch)} of {path} has a name that is no folder's; use letters, "
                            "digits, _.")
        if not isinstance(changes, dict):
            raise UserError(f"The branch {branch!r} of {path} is {short(changes)}, not keys with values; if none: {{}}")
        for seed in _seeds(changes.get("seeds", content.get("seeds", [0])), branch, path):
            own = shared | {key: value for key, value in each.items() if key not in stages}
            own |= {key: value for key, value in changes.items() if key not in stages and key != "seeds"}
            sections = {name: each[name] for name in stages if name in each}
            for name in stages:
                if name in changes:
                    sections[name] = _laid_over(sections.get(name), changes[name])
            sections = {name: value for name, value in sections.items() if value is not None}
            own = {key: value for key, value in own.items() if _is_for(key, sections)}
            run = own | {"run": f"{main.get('run')}.{branch}.{seed}", "seed": seed} | sections
            runs.append(_filled(run, {"seed": str(seed), "branch": branch}))
    compared = [run["run"] for run in runs[1:]
                if any("responses.parquet" in stages[name].makes for name in run if name in stages)]  # fmt: skip
    for name in (name for name in main if name in stages and stages[name].follows == "all"):
        if isinstance(main[name], dict | None):  # compares all runs, unless the file lists some
            main[name] = {"runs": compared} | (main[name] or {})
    return runs


def _is_for(key: str, sections: Mapping[str, Any]) -> bool:
    """Return False for a parameter that only notebooks outside this run have: another branch needs it.

    A key that no notebook has is kept, so that the check of parameters reports it.
    """
    having = {name for name, stage in stages.items() if key in stage.params.model_fields}
    return not having or bool(having & set(sections))


def _seeds(seeds: Any, branch: str, path: Path | str) -> list[int]:
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or len(set(seeds)) < len(seeds):
        raise UserError(f"The seeds of branch {branch!r} of {path} are {short(seeds)}, not a list of different "
                        "integers.")
    return seeds


def _laid_over(section: Any, change: Any) -> Any:
    """Return ``section`` with the keys of ``change``; null removes the section.

    A value that is not a table is kept, so that the check of parameters reports it.
    """
    if change is None or not isinstance(change, dict) or not isinstance(section or {}, dict):
        return change
    return {**(section or {}), **change}


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, names) for one in value]
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(f"{{{name}}}", text)
    return value
