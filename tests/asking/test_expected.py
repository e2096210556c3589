"""The shared engine against the plain one, on a Qwen2-VL of random weights, with digits split and digits merged."""

import time
from pathlib import Path
from threading import current_thread, get_ident, main_thread
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from csp_utils.asking import elicitation
from csp_utils.asking import variants as asking
from csp_utils.asking.tables import distribution
from csp_utils.base.errors import UserError
from csp_utils.models.vlm import load as vlm
from csp_utils.models.vlm.reply import TOLERANCE, Asking, Draw, Prompt, draw_seed
from csp_utils.models.vlm.shared import why_not_shared
from csp_utils.words.confidence_prompts import CONFIDENCE_PROMPTS, LEVELS

MERGED = ["95", "100", "5%", "42%"]
"""Added tokens of the tokenizer that merges digits: "95%" is "95" "%", "15%" is "1" "5%", "42%" is one token."""


@pytest.fixture(scope="module", params=["split", "merged"])
def qwen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> vlm.VLM:
    import torch

    from csp_utils.tiny_world.models.vlm import new_vlm, save_vlm

    folder = tmp_path_factory.mktemp(request.param)
    model, tokenizer = new_vlm(folder, seed=1)
    if request.param == "merged":
        tokenizer.add_tokens(MERGED)
        tokenizer.save_pretrained(folder)
        model.resize_token_embeddings(len(tokenizer))
    percents = sorted({t for level in LEVELS for t in tokenizer.encode(level)})
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            parameter *= 3  # small random weights say one token for ever
        # Percents and the end of a turn are likely, so that the 101 answers have a mass worth comparing.
        head = model.lm_head
        model.lm_head = torch.nn.Linear(head.in_features, head.out_features)
        model.lm_head.weight.copy_(head.weight)
    save_vlm(model, folder)
    loaded = vlm.load_vlm(vlm.ModelChoice(str(folder), "qwen2_vl", "qwen2_vl", 12544))
    bias = torch.zeros(len(tokenizer))
    bias[[*percents, tokenizer.convert_tokens_to_ids("<|im_end|>")]] = 4.0
    loaded.model.lm_head.bias = torch.nn.Parameter(bias)
    return loaded


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    """All kinds of prompts about images of two sizes, with a draw each."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    plan = elicitation.Plan(tuple(CONFIDENCE_PROMPTS), ("sampled",), n_samples=1)
    found = []
    for name, size in (("a.png", (112, 112)), ("b.png", (84, 56))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
        question = "Is there a star in the image?"
        found += [plan.prompt(str(folder / name), question, *pair) for pair in plan.kinds()]
    return found


def answered(replies: list) -> list:
    return [(reply.text, reply.samples, reply.ended, reply.samples_ended) for reply in replies]


@pytest.mark.slow
def test_replies_are_those_of_generate_one_by_one(qwen: vlm.VLM, prompts: list[Prompt]) -> None:
    assert qwen.engine == "shared"
    one, tree = qwen.ask(prompts, Asking(1, 5), engine="plain"), qwen.ask(prompts, Asking(32, 5))
    assert answered(one) == answered(tree)
    assert len({reply.text for reply in one}) > 1 and len({text for reply in one for text in reply.samples}) > 3
    for a, b in zip(one, tree, strict=True):
        assert a.first == pytest.approx(b.first, rel=1e-4)


@pytest.mark.slow
def test_the_distribution_is_that_of_brute_force_over_all_101_strings(qwen: vlm.VLM, prompts: list[Prompt]) -> None:
    asked = [prompt._replace(answers=LEVELS, seeds=()) for prompt in (prompts[0], prompts[-1])]
    brute, tree = qwen.ask(asked, Asking(32, 1), engine="plain"), qwen.ask(asked, Asking(32, 1))
    for a, b in zip(brute, tree, strict=True):
        one, two = distribution(a.answers), distribution(b.answers)
        assert one.mass > 1e-4
        assert a.answers == pytest.approx(b.answers, rel=1e-3)
        assert two.probabilities.sum() == pytest.approx(1)
        assert np.allclose(one.probabilities, two.probabilities, atol=1e-5)
        assert (one.mean, one.spread) == pytest.approx((two.mean, two.spread), abs=1e-3) and one.mode == two.mode


@pytest.mark.slow
def test_in_16_bits_the_engines_agree_within_rounding(model_folder: Path, prompts: list[Prompt]) -> None:
    """As on a GPU: weights and attention masks in bfloat16, probabilities in float32."""
    loaded = vlm.load_vlm(vlm.ModelChoice(str(model_folder), "qwen2_vl", "qwen2_vl", 12544, "bfloat16"))
    some = [prompt._replace(answers=LEVELS) for prompt in prompts[:6]]
    found = asking.check_engine(loaded, some, Asking(4, 4), "bfloat16")
    assert loaded.engine == "shared" and 0 < found["largest_difference"] < 0.1
    for reply in loaded.ask(some, Asking(4, 4)):
        assert all(0 <= p <= 1 for p in (*reply.first.values(), *reply.answers)) and sum(reply.answers) <= 1 + 1e-5


@pytest.mark.slow
def test_neither_order_nor_batch_size_changes_a_reply(qwen: vlm.VLM, prompts: list[Prompt]) -> None:
    asked = [prompt._replace(answers=LEVELS[::10]) for prompt in prompts]
    whole, parts = qwen.ask(asked, Asking(64, 6)), qwen.ask(asked[::-1], Asking(5, 6))[::-1]
    assert answered(whole) == answered(parts)
    for a, b in zip(whole, parts, strict=True):
        assert a.answers == pytest.approx(b.answers, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["shared", "plain"])
def test_two_threads_never_use_the_tokenizer_at_a_time(qwen: vlm.VLM, prompts: list[Prompt], engine: str,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """One encodes ahead while the other scores answers and decodes replies; a fast tokenizer may fail at that."""
    busy, together = [], []

    def watched(function):
        def call(*arguments, **named):
            together.extend(other for other in busy if other != get_ident())
            busy.append(get_ident())
            time.sleep(0.0 if current_thread() is main_thread() else 0.1)  # so that both threads have work at a time
            try:
                return function(*arguments, **named)
            finally:
                busy.remove(get_ident())
        return call

    kind = type(qwen.template.tokenizer)
    for owner, name in ((qwen.template, "encode"), (qwen.template, "decode_generate_ids"), (kind, "__call__"),
                        (qwen.engines["plain"]._training, "encode")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    asked = [prompt._replace(answers=(f"{i}%", f"{i + 1}%"), seeds=()) for i, prompt in enumerate(prompts)]
    qwen.ask(asked, Asking(2, 2), engine=engine)
    assert together == [] and busy == []


@pytest.mark.slow
def test_engines_that_disagree_are_refused(qwen: vlm.VLM, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
                                           ) -> None:
    some = [prompt._replace(answers=LEVELS) for prompt in prompts[:2]]
    found = asking.check_engine(qwen, some, Asking(4, 4), "float32")
    assert found["different_replies"] == 0 and found["largest_difference"] < 1e-5 and found["prompts"] == 2
    shared = qwen.engines["shared"]
    positions = shared._positions
    monkeypatch.setattr(shared, "_positions", lambda *args: positions(*args) * 2)
    monkeypatch.setitem(TOLERANCE, "float32", 1e-4)  # random weights heed positions little, whatever the vocabulary
    with pytest.raises(UserError, match="engine shared differs from engine plain by .*set engine to plain"):
        asking.check_engine(qwen, some, Asking(4, 4), "float32")


def test_a_model_that_cannot_share_says_why() -> None:
    def model(kind: str, attention: str = "sdpa", layers: tuple[str, ...] = ("full_attention",)) -> SimpleNamespace:
        text = SimpleNamespace(_attn_implementation=attention, layer_types=layers)
        return SimpleNamespace(config=SimpleNamespace(model_type=kind, get_text_config=lambda: text))

    assert why_not_shared(model("qwen2_vl")) is None
    assert "internvl_chat" in why_not_shared(model("internvl_chat"))
    assert "flash_attention_2" in why_not_shared(model("qwen2_vl", "flash_attention_2"))
    assert "sliding" in why_not_shared(model("qwen2_vl", layers=("full_attention", "sliding_attention")))


def test_draws_follow_the_probabilities_and_their_seed() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.log(torch.tensor([0.5, 0.0, 0.3, 0.2]))
    tokens = [Draw(draw_seed("q", i), 1.0).token(logits) for i in range(2000)]
    assert np.bincount(tokens, minlength=4) / 2000 == pytest.approx([0.5, 0, 0.3, 0.2], abs=0.05)
    assert tokens[7] == Draw(draw_seed("q", 7), 1.0).token(logits)
    cold = {Draw(draw_seed("q", i), 0.01).token(logits) for i in range(50)}
    assert cold == {0}
