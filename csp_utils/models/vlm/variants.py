"""The variants that notebooks 06 and 08 ask: the base model, after SFT, after SFT and SimPO."""

from typing import Any

from csp_utils.base.run import RunPaths

ENGINE_LIBRARIES = ("ms-swift", "qwen-vl-utils", "peft", "vllm")
"""Distributions that compute replies behind ms-swift's interface, so that no import here names them all."""


def checkpoints_of(p: Any, paths: RunPaths) -> dict[str, str]:
    """Return variant -> folder or hub id, of the variants that the parameters name."""
    every = {"base": p.base_model, "sft": str(paths["sft/checkpoint"]), "csp": str(paths["simpo/checkpoint"])}
    return {variant: every[variant] for variant in p.variants}
