"""The engine for GPU machines: with a pretended engine of ms-swift's, with its own on transformers, and with vLLM."""

import importlib.util
import math
import os
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from csp_utils.asking import elicitation
from csp_utils.asking import variants as asking
from csp_utils.base.errors import UserError
from csp_utils.base.memory import free_models
from csp_utils.data.views import Blurred
from csp_utils.models.vlm import load as vlm
from csp_utils.models.vlm import vllm as vlm_swift
from csp_utils.models.vlm.reply import Asking, Prompt
from csp_utils.models.vlm.vllm import SwiftEngine

# ---------------------------------------------------------------------------------------- requests (a pretended engine)


class Repeats:
    """An engine of ms-swift's interface that returns log-probabilities as vLLM does, and remembers the requests."""

    def __init__(self, returned: dict[int, float] | None, error: Exception | None = None):
        self.template = SimpleNamespace(decode_generate_ids=lambda ids: " ".join(map(str, ids)))
        self.asked: list[Any] = []
        self.engine = SimpleNamespace(shutdown=lambda: self.asked.append("shut down"))
        self._returned, self._error = returned, error

    async def infer_async(self, request: Any, config: Any) -> Any:
        if self._error is not None:
            raise self._error
        self.asked.append((request, config))
        ids = [5, 6, 99, 7] if config.seed is None else [config.seed]
        kept = None
        if config.logprobs and self._returned is not None:
            first = {i: SimpleNamespace(logprob=math.log(p)) for i, p in self._returned.items()}
            kept = [first] + [{5: SimpleNamespace(logprob=0.0)}] * (len(ids) - 1)
        first = self._get_logprobs(kept, ids, config.top_logprobs)
        choice = SimpleNamespace(token_ids=ids, finish_reason="length", logprobs=first)
        return SimpleNamespace(choices=[choice])


def swift(returned: dict[int, float] | None, error: Exception | None = None, seeded: bool = True) -> SwiftEngine:
    return SwiftEngine(Repeats(returned, error), [99], {"Yes": [1, 2], "No": [3]}, 3, seeded)


def test_a_draw_has_its_own_seed_whoever_else_is_asked() -> None:
    engine = swift({1: 0.5, 3: 0.1})
    prompts = [Prompt(None, "a", seeds=(2**63 + 11, 12)), Prompt(None, "b", seeds=(13,))]
    replies = engine.reply(engine.encode(prompts), prompts, Asking(1, 6, 0.7))
    assert [reply.text for reply in replies] == ["5 6", "5 6"]  # what stands behind the end of a reply is cut
    assert [reply.samples for reply in replies] == [("11", "12"), ("13",)]
    configs = [config for _, config in engine.engine.asked]
    assert [config.temperature for config in configs] == [0, 0, 0.7, 0.7, 0.7]
    for config in configs:  # a model's generation_config.json changes nothing
        assert (config.top_k, config.top_p, config.min_p, config.repetition_penalty, config.max_tokens) == (
            -1, 1, 0, 1, 6)  # fmt: skip
    asked = engine.engine.asked
    engine.close()
    assert asked[-1] == "shut down"
    with pytest.raises(UserError, match="takes no seed"):
        swift({1: 0.5, 3: 0.1}, seeded=False).reply([None] * 2, prompts, Asking(1, 6, 0.7))


def test_a_candidate_that_was_not_returned_has_0_and_its_bound_is_reported() -> None:
    prompts = [Prompt(None, "a")]
    for returned, first, outside, bound in (
        ({1: 0.25, 2: 0.5, 3: 0.1}, {"Yes": 0.5, "No": 0.1}, 0, 0),  # the likeliest spelling, as the plain engine
        ({2: 0.5, 3: 0.1, 7: 0.1}, {"Yes": 0.5, "No": 0.1}, 0, 0),  # a spelling less is likelier nowhere
        ({1: 0.5, 7: 0.1, 8: 0.05}, {"Yes": 0.5, "No": 0}, 1, 0.05),  # no more than the least that was returned
        ({1: 0.9, 7: 0.05, 8: 0.04}, {"Yes": 0.9, "No": 0}, 1, 0.01),  # no more than what is left over
        ({7: 0.6, 8: 0.4}, {"Yes": 0, "No": 0}, 1, 0),
    ):
        engine = swift(returned)
        assert engine.reply(engine.encode(prompts), prompts, Asking(1, 6))[0].first == pytest.approx(first)
        report = engine.report()
        assert report["prompts_with_a_candidate_outside"] == outside and report["top_logprobs"] == 3
        assert report["probability_outside_at_most"] == pytest.approx(bound)
        assert engine.report()["prompts_with_a_candidate_outside"] == 0  # counted from one call to the next


def test_what_the_engine_cannot_give_is_said() -> None:
    prompts = [Prompt(None, "a")]
    for engine, sentence in ((swift(None), "no log-probability of the first token after 'a'"),
                             (swift({1: 1.0}, ValueError("too long\nby 7")), r"cannot answer a prompt \(too long\)")):
        with pytest.raises(UserError, match=sentence):
            engine.reply(engine.encode(prompts), prompts, Asking(1, 6))
    with pytest.raises(UserError, match="no probabilities of whole replies"):
        swift({1: 1.0}).reply([None], [Prompt(None, "a", answers=("95%",))], Asking(1, 6))


# ---------------------------------------------------------------------------------------- a Qwen2-VL of random weights


def loaded(folder: Path) -> vlm.TransformersVLM:
    return vlm.load_vlm(vlm.ModelChoice(str(folder), "qwen2_vl", "qwen2_vl", 12544), "plain")


@pytest.fixture(scope="module")
def qwen(model_folder: Path) -> vlm.TransformersVLM:
    return loaded(model_folder)


def through_ms_swift(model: vlm.TransformersVLM, top_logprobs: int) -> vlm.VLM:
    """The same model and template, asked through ms-swift's TransformersEngine."""
    from swift.infer_engine import TransformersEngine

    class Engine(TransformersEngine):
        def _infer_full(self, inputs: dict, **kwargs: Any) -> list:
            # With these positions of its own, generate of transformers 4.57 fails at the second token of a Qwen2-VL.
            inputs.pop("position_ids", None)
            return super()._infer_full(inputs, **kwargs)

    ends = vlm.end_tokens(model.template, model.model.generation_config.eos_token_id)
    engine = Engine(model.model, template=model.template, max_batch_size=5)
    return vlm.VLM({"vllm": SwiftEngine(engine, ends, vlm.first_tokens(model.tokenizer), top_logprobs, False)}, "vllm")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    """Prompts of different lengths about images of different sizes and modes, a blurred one, and none."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    shown: list[Any] = [None]
    for name, size, mode in (("a.png", (112, 112), "RGB"), ("b.png", (56, 84), "L"), ("c.png", (300, 200), "RGBA")):
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8), "RGBA").convert(mode)
        image.save(folder / name)
        shown.append(folder / name)
    shown.append(Blurred(folder / "c.png", 5))
    asked = ("Is there a star in the image?", "Is the moon red in this image?")
    return [Prompt(one, elicitation.prompt_of(q, kind)) for one in shown for q in asked for kind in elicitation.KINDS]


@pytest.mark.slow
def test_replies_and_probabilities_are_those_of_the_plain_engine(qwen: vlm.TransformersVLM, prompts: list[Prompt]
                                                                 ) -> None:
    other = through_ms_swift(qwen, len(qwen.tokenizer))
    one, two = qwen.ask(prompts, Asking(1, 6)), other.ask(prompts, Asking(7, 6))
    assert [reply.text for reply in one] == [reply.text for reply in two]
    assert len({reply.text for reply in one}) > 3
    for a, b in zip(one, two, strict=True):
        assert a.first == pytest.approx(b.first, rel=1e-4)
    found = asking.check_engine(other, prompts, Asking(4, 6), "float32", one)
    assert found["different_replies"] == 0 and found["largest_difference"] < 1e-5
    assert found["prompts_with_a_candidate_outside"] == 0 and found["prompts"] == len(prompts)


@pytest.mark.slow
def test_with_few_probabilities_the_bound_holds(qwen: vlm.TransformersVLM, prompts: list[Prompt]) -> None:
    other = through_ms_swift(qwen, 5)
    one, two = qwen.ask(prompts, Asking(8, 1)), other.ask(prompts, Asking(8, 1))
    report = other.engines["vllm"].report()
    absent = [(c, a, b) for a, b in zip(one, two, strict=True) for c in ("Yes", "No") if b.first[c] == 0]
    assert 0 < report["prompts_with_a_candidate_outside"] <= len(absent)
    assert max(a.first[c] for c, a, _ in absent) <= report["probability_outside_at_most"] < 1 / 5
    for a, b in zip(one, two, strict=True):
        for c in ("Yes", "No"):
            assert b.first[c] == 0 or b.first[c] == pytest.approx(a.first[c], rel=1e-4)


@pytest.mark.slow
def test_an_engine_that_sees_other_pictures_is_refused(qwen: vlm.TransformersVLM, prompts: list[Prompt],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    seeing = [prompt for prompt in prompts if prompt.image is not None]
    reference = qwen.ask(seeing, Asking(8, 6))
    other = through_ms_swift(qwen, len(qwen.tokenizer))
    monkeypatch.setattr(vlm_swift, "open_shown", lambda _: Image.new("RGB", (112, 112), "white"))
    with pytest.raises(UserError, match="engine vllm differs from engine plain by .*set engine to auto"):
        asking.check_engine(other, seeing, Asking(8, 6), "float32", reference)


@pytest.mark.slow
def test_a_reference_that_has_answered_leaves_the_memory(model_folder: Path, prompts: list[Prompt]) -> None:
    model = loaded(model_folder)
    model.ask(prompts[:3], Asking(3, 2))
    left = [weakref.ref(model.model), weakref.ref(model.model.lm_head.weight)]
    del model
    free_models()
    assert [ref() for ref in left] == [None, None]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_itself_agrees_with_the_plain_engine(model_folder: Path, prompts: list[Prompt],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, or on a build of vllm for the processor."""
    import torch

    if not torch.cuda.is_available():
        monkeypatch.setattr(vlm_swift, "refuse_vllm", lambda *_: None)
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"))
    plain = loaded(model_folder)
    monkeypatch.setattr(vlm_swift, "TOP_LOGPROBS", len(plain.tokenizer))  # all: a random model has no likely ones
    reference = plain.ask(prompts, Asking(8, 6))
    choice = vlm.ModelChoice(str(model_folder), "qwen2_vl", "qwen2_vl", 12544, "float32", "cuda")
    other = vlm.load_vlm(choice, "vllm", 8)
    try:
        found = asking.check_engine(other, prompts, Asking(8, 6), "float32", reference)
        assert found["different_replies"] == 0 and found["largest_difference"] < 1e-4
        seeded = [prompt._replace(seeds=(3, 4)) for prompt in prompts]
        whole, parts = other.ask(seeded, Asking(64, 6)), other.ask(seeded[::-1], Asking(5, 6))[::-1]
        assert [reply.samples for reply in whole] == [reply.samples for reply in parts]
        assert len({text for reply in whole for text in reply.samples}) > 10
    finally:
        other.engines["vllm"].close()
