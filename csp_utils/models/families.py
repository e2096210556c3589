"""Requirements of each family of vision-language models, checked before a run spends hours.

Qwen2-VL is a model of transformers. The code of the paper's three other families comes with their weights ("remote
code"). It was written for older versions of transformers and is no longer maintained. We tested public copies of that
code with small random weights under the pinned versions: InternVL2's from its authors, an edited third-party copy of
Phi-3.5-Vision's, and Qwen-VL-Chat's from its Int4 repository. They may differ from the revisions of
assets/sources.yaml. The models load, answer, train by SFT and SimPO, are saved and load again, with three measures:

* :mod:`csp_utils.models.swift_plugins.remote_code` repairs loading and saving.
* We decode without transformers' ``generate()`` (:func:`without_generate`), because it starts with an empty
  DynamicCache. Two families test the cache for ``None``, and Phi-3-Vision calls ``seen_tokens`` and
  ``get_max_length``, which DynamicCache no longer has. Called directly, the models use their own cache of tuples
  (:mod:`csp_utils.models.vlm.passes`).
* Phi-3-Vision's configuration requests flash-attention. Without that package, :func:`attention` requests eager
  attention.
"""

import importlib.util
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from csp_utils.base.errors import UserError
from csp_utils.base.params import is_hub_id
from csp_utils.models import remote_code


@dataclass(frozen=True)
class Family:
    """Requirements of one of ms-swift's model types."""

    architecture: str
    """Class name in config.json."""
    remote_code: bool
    """True if the model's code comes with its weights."""
    requires: tuple[str, ...]
    """Required packages in pip's syntax."""
    written_for: str
    """The version of transformers that the publisher names."""
    attention: str | None = None
    """ms-swift's --attn_impl where the package flash_attn is missing; None keeps the configuration's."""


# requires: from ms-swift 4.6's registry (without decord, which reads videos) and from the remote code's imports.
# transformers < 5, because we have tested nothing there.
FAMILIES = {
    "qwen2_vl": Family("Qwen2VLForConditionalGeneration", False, ("transformers>=4.45,<5", "qwen_vl_utils>=0.0.6"),
                       "4.45"),
    "internvl_chat": Family("InternVLChatModel", True,
                            ("transformers>=4.36,<5", "timm", "einops", "peft", "sentencepiece"), "4.37.2"),
    "phi3_vision": Family("Phi3VForCausalLM", True, ("transformers>=4.36,<5", "torchvision"), "4.43.0",
                          attention="eager"),
    "qwen_vl": Family("QWenLMHeadModel", True,
                      ("transformers>=4.33,<5", "tiktoken", "einops", "matplotlib", "requests", "torchvision"),
                      "4.32.0"),
}  # fmt: skip
"""The families by ms-swift's model type."""

WITHOUT_GENERATE = frozenset({"InternLM2ForCausalLM", "Phi3VForCausalLM", "QWenLMHeadModel"})
"""Remote-code classes that ``generate()`` of the pinned transformers cannot drive."""


def without_generate(model: Any) -> bool:
    """Return True if ``generate()`` cannot drive ``model`` or the language model in it."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model  # without the LoRA wrapper
    parts = (whole, getattr(whole, "language_model", None))
    return any(type(part).__name__ in WITHOUT_GENERATE for part in parts) or not hasattr(whole, "generate")


def family_of(model_type: str | None, model: str | Path) -> Family | None:
    """Look up the family by ms-swift's model type or, without one, by config.json; None for other models."""
    if model_type is not None:
        return FAMILIES.get(model_type)
    named = _json(Path(model) / "config.json").get("architectures") or []
    return next((family for family in FAMILIES.values() if family.architecture in named), None)


def attention(model_type: str | None, model: str | Path) -> str | None:
    """Return the value for ms-swift's ``attn_impl``; None for the model's default."""
    family = family_of(model_type, model)
    return family.attention if family and importlib.util.find_spec("flash_attn") is None else None


def problems(model_type: str | None, model: str | Path = "") -> list[str]:
    """List the reasons why the model cannot run here, one sentence each: missing packages, or missing code files.

    Nothing is imported. A model of another family has no known requirements; a hub id has no files to look at.
    """
    family = family_of(model_type, model)
    name = f"{model_type or family.architecture} models" if family else ""
    found = []
    for wanted in map(Requirement, family.requires if family else ()):
        try:
            there = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            found.append(f"{name} need the package {wanted}, which is not installed; install it by "
                         f"`uv pip install '{wanted}'`.")
            continue
        if not wanted.specifier.contains(there, prereleases=True):
            found.append(f"{name} (written for transformers {family.written_for}) need {wanted}, and {wanted.name} "
                         f"{there} is installed; use this project's own environment (requirements.lock).")
    return found + [f"{model} is a model whose code comes with its weights, and {file} is missing in it; fetch the "
                    "whole repository of the model, *.py included." for file in _missing_code(Path(model))]


def check(model_type: str | None, model: str | Path = "") -> None:
    """Raise UserError with the first of :func:`problems`, if there is one."""
    for sentence in problems(model_type, model):
        raise UserError(sentence)


def problems_of(stages: Iterable[Any]) -> list[str]:
    """List :func:`problems` of the models that the parameters of several notebooks name, each sentence once."""
    found: dict[str, None] = {}
    for p in stages:
        if hasattr(p, "model_type"):
            model = getattr(p, "model", None) or getattr(p, "base_model", None) or ""
            found |= dict.fromkeys(problems(p.model_type, model))
            found |= dict.fromkeys(_refused(model, p))
    return list(found)


def _refused(model: str, p: Any) -> list[str]:
    """Return the sentence about a model whose code may not run (csp_utils/models/remote_code.py); [] if it may."""
    if is_hub_id(model):  # is looked at when it is loaded: a plan does not wait for the hub
        return []
    try:
        remote_code.check(model, p.revision, p.trust_remote_code)
    except UserError as error:
        return [str(error)]
    return []


def _missing_code(folder: Path) -> list[str]:
    """List the code files that the folder's configurations refer to and that are missing in it."""
    named = set()
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        for references in _json(folder / name).get("auto_map", {}).values():
            for reference in references if isinstance(references, list) else [references]:
                if reference and "--" not in reference:  # "organisation/name--file.Class" is in another repository
                    named.add(f"{reference.partition('.')[0]}.py")
    return sorted(name for name in named if not (folder / name).is_file())


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON file; {} if it is missing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
