"""vLLM as an engine: what is refused, in what order a run goes, and what is asked of ms-swift's VllmEngine.

How its replies are made and read is tested in test_vlm_swift.py.
"""

import asyncio
import importlib
import importlib.util
import inspect
import json
import math
import sys
import weakref
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from csp_utils.asking import evaluation
from csp_utils.asking import variants as asking
from csp_utils.base.errors import UserError
from csp_utils.models.vlm import load as vlm
from csp_utils.models.vlm import vllm as vlm_swift
from csp_utils.models.vlm.reply import Asking, Prompt, Reply
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
        vlm.load_vlm(vlm.ModelChoice("no/such-model", None, None, None, "float32", "cuda"), "vllm")


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_without_the_first_gpu_one_sentence_before_anything_is_loaded(device: str, installed: None) -> None:
    with pytest.raises(UserError, match=f"first CUDA device that it sees, and device is '{device}'"):
        vlm.load_vlm(vlm.ModelChoice("no/such-model", None, None, None, "float32", device), "vllm")


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

    def report(self) -> dict[str, Any]:
        return {"vllm": "0"}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs 60 questions: (the models in the order in which they were loaded, the record)."""
    monkeypatch.setattr(asking, "refuse_vllm", lambda *_: None)

    def run(differs: tuple[int, ...] = (), shift: float = 0.0, **changes: Any) -> tuple[list[Pretended], dict]:
        models, asked = [], []

        def load(_choice: vlm.ModelChoice, *arguments: Any) -> Pretended:
            engine = arguments[0]
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


# ------------------------------------------------------------------- ms-swift's VllmEngine, on a pretended package vllm


class SamplingParams:
    """Holds what it is given, with the names of vLLM's class that ms-swift looks for."""

    n, seed, stop = 1, None, ()

    def __init__(self, **given: Any):
        self.given = given
        vars(self).update(given)


@pytest.fixture
def vllm_engine_class(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """ms-swift's own class VllmEngine; only the package vllm below it is pretended."""
    importlib.import_module("swift.infer_engine.transformers_engine")  # so that all it needs is imported without vllm
    names = {"vllm": ("AsyncEngineArgs", "AsyncLLMEngine", "EngineArgs", "LLMEngine"),
             "vllm.pooling_params": ("PoolingParams",), "vllm.sampling_params": ("StructuredOutputsParams",)}
    for variable in ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_ENGINE_ITERATION_TIMEOUT_S"):
        monkeypatch.setenv(variable, "")  # ms-swift sets them at import; so they are restored
    for name, classes in names.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update({one: type(one, (), {}) for one in classes}, SamplingParams=SamplingParams)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "swift.infer_engine.vllm_engine", raising=False)
    yield importlib.import_module("swift.infer_engine.vllm_engine").VllmEngine
    sys.modules.pop("swift.infer_engine.vllm_engine", None)


@pytest.mark.skipif(HERE, reason="vllm is installed: test_vlm_swift.py asks it itself")
def test_ms_swift_passes_on_what_is_asked_of_vllm(vllm_engine_class: type) -> None:
    """Seeds, token budget and log-probabilities reach vLLM's requests, and its tokens come back by their ids."""
    requests = []

    class Engine(vllm_engine_class):
        def __init__(self) -> None:
            meta = SimpleNamespace(stop_words=[])
            self.template = SimpleNamespace(
                template_meta=meta, agent_template=None, set_mode=lambda mode: None,
                encode=lambda request, _: {"input_ids": [1, 2], "template_inputs": SimpleNamespace(images=[])},
                decode_generate_ids=lambda ids, **_: " ".join(map(str, ids)))  # fmt: skip
            self.use_async_engine, self.task_type, self.reasoning_parser = True, None, None
            self.max_model_len, self.max_tokens_offset, self.model_name = 4096, 0, "some/model"
            self.generation_config, self.engine = SamplingParams(temperature=0.01, top_k=3), SimpleNamespace()
            self.processor = SimpleNamespace(tokenizer=None)

        async def _add_request(self, inputs: dict, sampling: SamplingParams, *_: Any, **__: Any) -> Any:
            requests.append(sampling.given)
            ids = [5, 99, 7] if sampling.seed is None else [sampling.seed, 99]
            first = {3: SimpleNamespace(logprob=-1.0), 8: SimpleNamespace(logprob=-2.0)}
            others = [{5: SimpleNamespace(logprob=0.0)}] * (len(ids) - 1)
            logprobs = [first, *others] if "logprobs" in sampling.given else None
            yield SimpleNamespace(prompt_token_ids=[1, 2], outputs=[SimpleNamespace(
                token_ids=ids, logprobs=logprobs, index=0, finish_reason="stop")])

    engine = vlm_swift.SwiftEngine(Engine(), [99], {"Yes": [3], "No": [8]}, 10, seeded=True)
    prompts = [Prompt(None, "Is there a star?", seeds=(11, 12))]
    (reply,) = engine.reply(engine.encode(prompts), prompts, Asking(1, 6, 0.7))
    engine.close()
    assert reply.text == "5" and reply.samples == ("11", "12")
    assert reply.first == pytest.approx({"Yes": math.exp(-1), "No": math.exp(-2)})
    same = {"max_tokens": 6, "top_k": -1, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert [request["seed"] for request in requests] == [None, 11, 12]
    assert [request["temperature"] for request in requests] == [0.0, 0.7, 0.7]
    assert all(same.items() <= request.items() for request in requests) and requests[0]["logprobs"] == 10


@pytest.mark.skipif(HERE, reason="vllm is installed: test_vlm_swift.py starts it itself")
def test_ms_swift_takes_the_arguments_of_the_engine(vllm_engine_class: type, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    info = SimpleNamespace(torch_dtype=torch.float32, max_model_len=4096)
    template = SimpleNamespace(processor=SimpleNamespace(model_info=info))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40, 80))
    arguments = vlm_swift.engine_arguments(template, 32)
    inspect.signature(vllm_engine_class).bind("some/model", **arguments)  # raises TypeError for a name it does not have
    assert arguments["gpu_memory_utilization"] == 0.475 and arguments["max_model_len"] == 4096


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
    with pytest.raises(UserError, match=r"cannot load some/model \(Engine core initialization failed.\); .*memory"):
        vlm_swift.vllm_engine("some/model", None, 8)


@pytest.mark.skipif(not HERE, reason="vllm is not installed")
def test_what_is_asked_of_vllm_exists_in_vllm() -> None:
    from vllm import AsyncEngineArgs, SamplingParams

    arguments = inspect.signature(AsyncEngineArgs).parameters
    assert {"max_logprobs", "logprobs_mode", "limit_mm_per_prompt", "max_num_seqs"} <= set(arguments)
    assert {"seed", "logprobs", "min_p"} <= set(inspect.signature(SamplingParams).parameters)
