"""What each family of vision-language models needs of the environment, known before hours are spent on it.

Qwen2-VL is a model of transformers. The code of the paper's three others comes with their weights ("remote code"), was
written for older versions of transformers, and is not looked after any more. What follows was found with public copies
of that code (InternVL2's of its authors, a third party's edited copy of Phi-3.5-Vision's, Qwen-VL-Chat's from its Int4
repository: they may differ from the revisions of assets/sources.yaml) at small sizes with random weights under the
pinned versions: it loads, answers, trains by SFT and SimPO, is saved and loads again, given three things.

* :mod:`csp_utils.models.swift_plugins.remote_code` mends what stops it from loading and from being saved.
* Text is generated without transformers' ``generate`` (:func:`without_generate`), which begins with an empty
  DynamicCache: that is no ``None``, for which two of them look, and it has lost ``seen_tokens`` and ``get_max_length``,
  which Phi-3-Vision asks for. Called directly, they keep their own cache in tuples (:mod:`csp_utils.models.vlm.passes`).
* Phi-3-Vision's configuration asks for flash-attention; without that package :func:`attention` asks for the plain one.
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


@dataclass(frozen=True)
class Family:
    """What the models of one of ms-swift's model types need."""

    architecture: str
    """As their config.json names it."""
    remote_code: bool
    """Whether their code comes with their weights."""
    requires: tuple[str, ...]
    """Packages, with versions, as pip takes them."""
    written_for: str
    """The version of transformers that their publishers name."""
    attention: str | None = None
    """ms-swift's --attn_impl where the package flash_attn is missing; None: the configuration's own."""


# requires: ms-swift 4.6's registry (of qwen2_vl all but decord, which reads videos), and what the code imports outside
# of any try. Below 5: nothing of it has been tried there, and ms-swift's own lower bound is 4.33.
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
"""By ms-swift's model type."""

WITHOUT_GENERATE = frozenset({"InternLM2ForCausalLM", "Phi3VForCausalLM", "QWenLMHeadModel"})
"""Classes that come with weights and that ``generate`` of the pinned transformers cannot drive."""


def without_generate(model: Any) -> bool:
    """Whether ``model``, or the language model in it, can only be asked by calls of the model itself."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model  # LoRA's layers are inside it
    parts = (whole, getattr(whole, "language_model", None))
    return any(type(part).__name__ in WITHOUT_GENERATE for part in parts) or not hasattr(whole, "generate")


def family_of(model_type: str | None, model: str | Path) -> Family | None:
    """The family of ms-swift's ``model_type``, or, if that is None, of the folder ``model``; None for others."""
    if model_type is not None:
        return FAMILIES.get(model_type)
    named = _json(Path(model) / "config.json").get("architectures") or []
    return next((family for family in FAMILIES.values() if family.architecture in named), None)


def attention(model_type: str | None, model: str | Path) -> str | None:
    """What to ask ms-swift for as ``attn_impl``; None: nothing."""
    family = family_of(model_type, model)
    return family.attention if family and importlib.util.find_spec("flash_attn") is None else None


def problems(model_type: str | None, model: str | Path = "") -> list[str]:
    """Sentences that say why this environment, or the folder ``model``, is not fit for the family; [] if all is well.

    Models of other families have none. ``model`` may be a hub id, of which nothing is known here. Nothing is imported.
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
    """Raises UserError with the first of :func:`problems`."""
    for sentence in problems(model_type, model):
        raise UserError(sentence)


def problems_of(stages: Iterable[Any]) -> list[str]:
    """:func:`problems` of all the models that the parameters of some notebooks name, each sentence once."""
    found: dict[str, None] = {}
    for p in stages:
        if hasattr(p, "model_type"):
            model = getattr(p, "model", None) or getattr(p, "base_model", None) or ""
            found |= dict.fromkeys(problems(p.model_type, model))
    return list(found)


def _missing_code(folder: Path) -> list[str]:
    """Files with code that the folder's configurations name and that it does not hold."""
    named = set()
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        for references in _json(folder / name).get("auto_map", {}).values():
            for reference in references if isinstance(references, list) else [references]:
                if reference and "--" not in reference:  # "organisation/name--file.Class" lies in another repository
                    named.add(f"{reference.partition('.')[0]}.py")
    return sorted(name for name in named if not (folder / name).is_file())


def _json(path: Path) -> dict[str, Any]:
    """What the file holds; {} if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
