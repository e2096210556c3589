"""vLLM as an engine: what is refused, in what order a run goes, and what is asked of ms-swift's VllmEngine.

How its replies are made and read is tested in test_vlm_swift.py.
"""

import ast
import asyncio
import importlib.util
import inspect
import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from csp_utils.asking import evaluation
from csp_utils.asking import variants as asking
from csp_utils.base.errors import UserError
from csp_utils.models.vlm import load as vlm
from csp_utils.models.vlm import vllm as vlm_swift
from csp_utils.models.vlm.reply import Prompt, Reply
from csp_utils.stages.evaluate import Eval

HERE = importlib.util.find_spec("vllm") is not None

# ------------------------------------------------------------------------------------------------ what is refused first


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has the package."""
    monkeypatch.setattr(vlm_swift.importlib.util, "find_spec", lambda name: object())


def nothing_is_loaded(*_: Any, **__: Any) -> None:
    raise AssertionError("a model was loaded")


@pytest.mark.skipif(HERE, reason="vllm is installed")
def test_without_the_package_one_sentence_before_anything_is_loaded() -> None:
    with pytest.raises(UserError, match="needs the package vllm, which is not installed .*set engine to auto"):
        vlm.load_vlm("no/such-model", None, None, None, "float32", "cuda", "vllm")


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_without_the_first_gpu_one_sentence_before_anything_is_loaded(device: str, installed: None) -> None:
    with pytest.raises(UserError, match=f"first CUDA device that it sees, and device is '{device}'"):
        vlm.load_vlm("no/such-model", None, None, None, "float32", device, "vllm")


def test_an_adapter_is_refused_with_what_to_do(tmp_path: Path, installed: None) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    with pytest.raises(UserError, match=f"{tmp_path} is one; merge it"):
        vlm_swift.refuse_vllm(str(tmp_path), "cuda")


def questions(folder: Path, n: int) -> pd.DataFrame:
    """``n`` questions about one image."""
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    return pd.DataFrame([("pope_random", str(i), "a.png", f"Is there a star {i}?", "yes", "existence",
                          str(folder / "a.png")) for i in range(n)],
                        columns=["split", "question_id", "image", "question", "label", "kind", "path"])  # fmt: skip


def parameters(**changes: Any) -> Eval:
    return Eval(**{"base_model": "some/model", "engine": "vllm", "device": "cpu", **changes})


def test_expected_is_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "load_vlm", nothing_is_loaded)
    p = parameters(methods=["greedy", "expected"])
    with pytest.raises(UserError, match="methods: expected needs; set engine to auto, shared or plain"):
        evaluation.ask(p, {"base": "some/model"}, questions(tmp_path, 3), tmp_path / "kept")


def test_every_variant_is_looked_at_before_the_first_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                              installed: None) -> None:
    monkeypatch.setattr(asking, "load_vlm", nothing_is_loaded)
    monkeypatch.setattr(asking, "pick_device", lambda _: "cuda")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    variants = {"base": "some/model", "csp": str(tmp_path)}
    with pytest.raises(UserError, match="not offered for LoRA adapters"):
        evaluation.ask(parameters(), variants, questions(tmp_path, 3), tmp_path / "kept")


# ---------------------------------------------------------------------------------- the course of a run (no real model)


class Pretended(vlm.VLM):
    """Says the same to everything; as vLLM it says "other" to the questions whose numbers are in ``differs``."""

    def __init__(self, engine: str, differs: tuple[int, ...] = (), shift: float = 0.0):
        self.engine, self.why_not_shared, self._differs, self._shift = engine, "it is pretended", differs, shift
        self.engines = {engine: self}
        self.prompts: list[Prompt] = []
        self.closed = False
        self.itself = self  # a circle, as a model and its engines are

    def ask(self, prompts: list[Prompt], *_: Any, **__: Any) -> list[Reply]:
        self.prompts += prompts
        other = [any(f"star {i}?" in prompt.text for i in self._differs) for prompt in prompts]
        return [Reply("other" if o else "Yes", {"Yes": 0.6 + self._shift, "No": 0.2}) for o in other]

    def told(self) -> dict[str, Any]:
        return {"vllm": "0"}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs 60 questions: (the models in the order in which they were loaded, the record)."""
    monkeypatch.setattr(asking, "refuse_vllm", lambda *_: None)

    def run(differs: tuple[int, ...] = (), shift: float = 0.0, **changes: Any) -> tuple[list[Pretended], dict]:
        models, asked = [], []

        def load(_model: str, *arguments: Any) -> Pretended:
            engine = arguments[5]
            assert all(old() is None for old in asked), "the reference is still in memory"
            made = Pretended(engine) if engine == "plain" else Pretended(engine, differs, shift)
            if engine == "plain":
                asked.append(weakref.ref(made))
                models.append(made.prompts)
            else:
                models.append(made)
            return made

        monkeypatch.setattr(asking, "load_vlm", load)
        try:
            evaluation.ask(parameters(**changes), {"base": "some/model"}, questions(tmp_path, 60), tmp_path / "kept")
        finally:
            assert models[-1].closed
        return models, json.loads((tmp_path / "kept" / "settings.json").read_text())

    return run


def test_the_first_50_questions_are_compared_one_model_in_memory_at_a_time(run: Any) -> None:
    (reference, vllm), record = run(differs=(7,), torch_dtype="bfloat16")
    assert len(reference) == 3 * 50 and vllm.prompts[: 3 * 50] == reference
    assert len(vllm.prompts) == 3 * 50 + 3 * 60
    found = record["base"]["asked_by"]
    assert found["engine"] == "vllm" and found["vllm"] == "0"
    assert found["check"] == {"prompts": 150, "replies": 150, "different_replies": 3, "largest_difference": 0.0,
                              "vllm": "0"}  # fmt: skip


def test_too_many_different_replies_stop_the_run(run: Any) -> None:
    with pytest.raises(UserError, match=r"engine vllm gives 3 of 150 replies otherwise .*\(float32\); set engine to"):
        run(differs=(7,), torch_dtype="float32")
    with pytest.raises(UserError, match="gives 18 of 150 replies otherwise"):
        run(differs=(1, 2, 3, 4, 5, 6), torch_dtype="bfloat16")


def test_another_probability_stops_the_run(run: Any) -> None:
    assert run(shift=0.0005)[1]["base"]["asked_by"]["check"]["largest_difference"] == pytest.approx(0.0005)
    with pytest.raises(UserError, match="engine vllm differs from engine plain by 0.002 in a probability"):
        run(shift=0.002, seed=1)


def test_draws_are_not_compared() -> None:
    prompt = Prompt(None, "Is there a star?", seeds=(1, 2))
    assert asking.checked_prompts("vllm", [prompt])[0].seeds == ()
    assert asking.checked_prompts("shared", [prompt])[0].seeds == (1,)


# -------------------------------------------------------------------------------------- ms-swift's VllmEngine, as it is


def test_what_is_asked_of_vllm_exists_in_ms_swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from the source: importing it would import vllm."""
    import torch

    source = Path(importlib.util.find_spec("swift").origin).parent / "infer_engine" / "vllm_engine.py"
    text = source.read_text(encoding="utf-8")
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == "VllmEngine"]
    methods = {node.name: node for node in classes[0].body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    info = SimpleNamespace(torch_dtype=torch.float32, max_model_len=4096)
    template = SimpleNamespace(processor=SimpleNamespace(model_info=info))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40, 80))
    arguments = vlm_swift.engine_arguments(template, 32)
    assert set(arguments) <= {argument.arg for argument in methods["__init__"].args.kwonlyargs}
    assert arguments["gpu_memory_utilization"] == 0.475 and arguments["max_model_len"] == 4096
    # The hook for the numbers of tokens, a seed for each request, and its tokens, are where they are looked for.
    response = ast.unparse(methods["_create_chat_completion_response"])
    assert "self._get_logprobs(output.logprobs, output.token_ids, request_config.top_logprobs)" in response
    assert "output.token_ids if request_config.return_details else None" in response
    assert "seed" not in ast.unparse(methods["infer_async"]) and "'seed'" in ast.unparse(
        methods["_prepare_generation_config"])  # fmt: skip
    assert [argument.arg for argument in methods["infer_async"].args.args][1:] == ["infer_request", "request_config"]


def test_vllm_is_made_outside_a_notebooks_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made inside, it would wait for the loop, and the loop for the cell."""
    import swift.infer_engine
    import torch

    def made(_model: str, **_: Any) -> bool:
        try:
            return asyncio.get_running_loop() is not None
        except RuntimeError:
            return False

    async def cell() -> Any:
        return vlm_swift.vllm_engine("some/model", template, 8)

    info = SimpleNamespace(torch_dtype=torch.float32, max_model_len=None)
    template = SimpleNamespace(processor=SimpleNamespace(model_info=info))
    monkeypatch.setitem(vars(swift.infer_engine), "VllmEngine", made)
    assert asyncio.run(cell()) is False


def test_what_vllm_cannot_load_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import swift.infer_engine

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Engine core initialization failed.\nSee above.")

    monkeypatch.setitem(vars(swift.infer_engine), "VllmEngine", fails)
    monkeypatch.setattr(vlm_swift, "engine_arguments", lambda *_: {})
    with pytest.raises(UserError, match=r"vLLM cannot load some/model \(Engine core initialization failed.\); set e"):
        vlm_swift.vllm_engine("some/model", None, 8)


@pytest.mark.skipif(not HERE, reason="vllm is not installed")
def test_what_is_asked_of_vllm_exists_in_vllm() -> None:
    from vllm import AsyncEngineArgs, SamplingParams

    arguments = inspect.signature(AsyncEngineArgs).parameters
    assert {"max_logprobs", "logprobs_mode", "limit_mm_per_prompt", "max_num_seqs"} <= set(arguments)
    assert {"seed", "logprobs", "min_p"} <= set(inspect.signature(SamplingParams).parameters)
