"""Test that parameters which cannot work are refused by the check, in one sentence, before anything starts."""

import math
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from csp_utils.base.errors import UserError
from csp_utils.base.params import build, problems
from csp_utils.pipeline import params_file
from csp_utils.stages import stages
from csp_utils.stages.sft import Sft

TINY = {"run": "x", "00_tiny_world": {"train": [], "models": "assets/tiny_world"}, "01_extract": {}, "02_mask": {},
        "03_perturb": {}}  # fmt: skip


def holds_float(annotation: Any) -> bool:
    return annotation is float or any(map(holds_float, typing.get_args(annotation)))


FLOATS = [(name, field) for name, stage in stages.items() for field, info in stage.params.model_fields.items()
          if holds_float(info.annotation)]  # fmt: skip


@pytest.mark.parametrize("name, field", FLOATS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_number_is_infinite_or_none(name: str, field: str, value: float) -> None:
    for given in (value, [value]):
        (sentence,) = problems(stages[name].params, {field: given}, "x", {})
        assert f"Parameter '{field}' in x is" in sentence


def test_there_are_such_numbers() -> None:
    assert {("04_sft", "learning_rate"), ("05_simpo", "beta"), ("06_eval", "blurs"), ("02_mask", "box_threshold")} <= {
        *FLOATS}  # fmt: skip


def sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: dict, top: dict | None = None,
              name: str = "04_sft") -> list[str]:  # fmt: skip
    monkeypatch.chdir(ROOT)
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({**TINY, **(top or {}), name: section}))
    try:
        params_file.load(path)
    except UserError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("section, said", [
    ({"processes": 2, "device": "cuda:1"}, "processes is 2 and device is 'cuda:1', which is one GPU; set"),
    ({"torch_dtype": "float16"}, "torch_dtype is 'float16' and tuner_type is 'full'.*Attempting to unscale FP16"),
    ({"torch_dtype": "float16", "tuner_type": "lora", "device": "cpu"}, "cannot be trained on a CPU|on a CPU; set"),
    ({"report_to": "swanlab"}, "the package swanlab is not installed; install it by"),
    ({"revision": "abc"}, "revision is 'abc', and the model is the folder assets/tiny_world/vlm"),
    ({"seed": 2**32}, "'seed' .* is 4294967296: input should be less than or equal to 4294967295"),
    ({"learning_rate": math.inf}, "'learning_rate' .* is inf: input should be a finite number"),
    ({"eval_share": 1.0}, "'eval_share' .* is 1.0: input should be less than 1"),
    ({"save_steps": 0}, "'save_steps' .* is 0"), ({"dataloader_workers": -1}, "'dataloader_workers' .* is -1"),
    ({"report_to": "mlflow"}, "'report_to' .* is 'mlflow'"), ({"revision": "--x"}, "'revision' .* is '--x'"),
])  # fmt: skip
def test_what_cannot_work_is_one_sentence_of_the_check(tmp_path, monkeypatch, section, said) -> None:
    import re

    for name in ("04_sft", "05_simpo"):
        if name == "05_simpo" and "revision" in section and section["revision"] == "abc":
            continue  # its model is the run's own checkpoint, of which a shared revision does not speak
        found = sentences(tmp_path, monkeypatch, section, {"04_sft": {}}, name)
        assert len(found) == 1 and re.search(said, found[0]) and f"section {name} of" in found[0], found


@pytest.mark.parametrize("section, top", [
    ({"processes": 2, "device": "cpu"}, {}), ({"processes": 4, "device": "cuda"}, {}),
    ({"torch_dtype": "float16", "tuner_type": "lora"}, {}), ({"tuner_type": "lora"}, {"torch_dtype": "float16"}),
    ({"torch_dtype": "float16", "deepspeed": "zero2"}, {}), ({"report_to": "tensorboard"}, {}),
    ({"model": "organisation/model"}, {"revision": "0123456789abcdef"}), ({"seed": 2**32 - 1}, {}),
    ({"eval_share": 0.1, "save_steps": 5, "dataloader_workers": 2, "trust_remote_code": True}, {}),
])  # fmt: skip
def test_what_can_work_passes(tmp_path, monkeypatch, section, top) -> None:
    assert sentences(tmp_path, monkeypatch, section, top) == []


def test_a_notebook_says_the_same() -> None:
    with pytest.raises(UserError, match="^In the parameters cell of 04_sft, processes is 2 and device is 'cuda:0'"):
        build(Sft, {"processes": 2, "device": "cuda:0"}, "the parameters cell of 04_sft")


def test_a_revision_belongs_to_a_hub_id_in_every_notebook_that_loads_one(tmp_path, monkeypatch) -> None:
    for name in ("06_eval", "08_stress", "10_schedule"):
        found = sentences(tmp_path, monkeypatch, {"revision": "v1", "base_model": "assets/tiny_world/vlm"}, {}, name)
        assert any("revision is 'v1', and the model is the folder" in one for one in found), found
