"""Elicitation: with a pretended model the bookkeeping, with a real Qwen2-VL of random weights the model's side."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from csp_utils.asking import elicitation, readings
from csp_utils.asking.tables import DTYPES, Rules, elicitations_table, responses_table
from csp_utils.base.errors import UserError
from csp_utils.data.views import Blurred, shown_areas
from csp_utils.measures.metrics import RESPONSE_COLUMNS, check_responses
from csp_utils.models.vlm import load as vlm
from csp_utils.models.vlm.reply import Asking, Prompt, Reply, until

TINY = Rules("tiny")

# ---------------------------------------------------------------------------------------------- bookkeeping (no model)


class Pretended:
    """Says 90% to "Yes", nothing readable to "No", and Yes to the plain question; remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[tuple[Path, str]] = []

    def ask(self, prompts: Sequence[Prompt], *_, **__) -> list[Reply]:
        self.prompts += [prompt[:2] for prompt in prompts]
        replies = []
        for _path, text, answers, seeds in prompts:
            raw = "Yes" if "How certain" not in text else ("90%" if "answer was Yes" in text else "very certain")
            levels = tuple(0.009 if "90%" in answer else 0.0 for answer in answers)
            replies.append(Reply(raw, {"Yes": 0.6, "No": 0.2}, levels, tuple(f"{seed % 101}%" for seed in seeds),
                                 samples_ended=(True,) * len(seeds)))
        return replies


def questions(folder: Path) -> pd.DataFrame:
    """Two questions about one image, the first of them in two splits."""
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    columns = ["split", "question_id", "image", "question", "label", "kind", "path"]
    rows = [
        ("pope_random", "1", "a.png", "Is there a star?", "yes", "existence", str(folder / "a.png")),
        ("pope_popular", "1", "a.png", "Is there a star?", "yes", "existence", str(folder / "a.png")),
        ("pope_popular", "2", "a.png", "Is there a moon?", "no", "existence", str(folder / "a.png")),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_a_question_of_several_splits_is_asked_once(tmp_path: Path) -> None:
    model = Pretended()
    asked = elicitation.elicit(model, questions(tmp_path), Asking(4, 8))
    assert len(model.prompts) == len(set(model.prompts)) == 2 * 3 == len(asked)
    assert any("Model's answer was No " in text for _, text in model.prompts)
    assert (tmp_path / "a.png", "Is there a star?") in model.prompts  # the plain question is the question itself


def test_the_responses_table_keeps_its_contract(tmp_path: Path) -> None:
    table = questions(tmp_path)
    responses = responses_table(elicitation.elicit(Pretended(), table, Asking(4, 8)), table, "base", TINY)
    more = ["reason", "ended", "mass", "internal_reason", "plain_raw", "plain_ended"]
    assert list(responses.columns) == RESPONSE_COLUMNS + more and len(responses) == 6
    assert responses["reason"].tolist() == ["number first", "none"] * 3 and np.allclose(responses["mass"], 0.8)
    assert check_responses(responses) is responses
    yes, no = (responses[responses["candidate"] == c] for c in ("Yes", "No"))
    assert yes["verbalized"].tolist() == [90] * 3 and no["verbalized"].isna().all()
    assert yes["label"].tolist() == [1, 1, 0] and no["label"].tolist() == [0, 0, 1]
    assert np.allclose(yes["internal"], 0.75) and np.allclose(no["internal"], 0.25)
    assert set(responses["plain_answer"]) == {"Yes"}


def test_the_elicitations_table_has_a_row_for_each_reply_draw_and_distribution(tmp_path: Path) -> None:
    table, names = questions(tmp_path), ("third_person", "first_person", "answer_then_confidence", "p_true")
    plan = elicitation.Plan(names, ("greedy", "expected", "sampled"), n_samples=2, blurs=(1, 2.5, 4))
    asked = elicitation.elicit(Pretended(), table, Asking(4, 8), plan)
    kept = tmp_path / "asked.parquet"
    asked.to_parquet(kept)
    found = elicitations_table(pd.read_parquet(kept), table, "base", TINY, (plan.prompts, plan.methods))
    assert list(found.columns) == list(DTYPES)
    rows = found.groupby(["prompt", "method"]).size() / len(table)
    assert rows.to_dict() == {
        ("answer_then_confidence", "expected"): 2, ("answer_then_confidence", "greedy"): 1,
        ("answer_then_confidence", "sampled"): 2, ("first_person", "expected"): 2, ("first_person", "greedy"): 2,
        ("first_person", "sampled"): 4, ("p_true", "first_token"): 2, ("plain", "blurred"): 3, ("plain", "sampled"): 2,
        ("third_person", "expected"): 2,
        ("third_person", "greedy"): 2, ("third_person", "sampled"): 4,
    }  # fmt: skip
    expected = found[found["method"] == "expected"]
    assert np.allclose(expected["value"], 90) and (expected["mode"] == 90).all()
    assert np.allclose(expected["mass"], 0.009)
    assert expected["probabilities"].map(sum).to_numpy() == pytest.approx(1) and (expected["spread"] < 1e-6).all()
    assert np.allclose(found.loc[found["method"] == "first_token", "value"], 75)
    own = found[(found["prompt"] == "answer_then_confidence") & (found["method"] == "greedy")]
    assert set(own["candidate"]) == {"Yes"} and own["label"].tolist() == [1, 1, 0] and own["value"].isna().all()
    drawn = found[(found["prompt"] == "answer_then_confidence") & (found["method"] == "sampled")]
    assert drawn["candidate"].isna().all() and drawn["label"].isna().all() and drawn["value"].isna().all()  # "42%"
    blurred = found[found["method"] == "blurred"]
    assert set(blurred["candidate"]) == {"Yes"} and blurred["value"].isna().all()
    assert blurred["label"].tolist() == [1] * 6 + [0] * 3 and blurred["draw"].tolist() == [0, 1, 2] * 3
    responses = responses_table(asked, table, "base", TINY)
    pd.testing.assert_frame_equal(responses, responses_table(
        elicitation.elicit(Pretended(), table, Asking(4, 8)), table, "base", TINY))


def test_below_the_least_mass_there_is_no_confidence(tmp_path: Path) -> None:
    """The first token is Yes or No with 0.8; a bare percentage is the reply with 0.009."""
    table, rules = questions(tmp_path), Rules("tiny", min_mass=0.81)
    plan = elicitation.Plan(("third_person", "p_true"), ("expected",))
    asked = elicitation.elicit(Pretended(), table, Asking(4, 8), plan)
    responses = responses_table(asked, table, "base", rules)
    assert responses["internal"].isna().all() and np.allclose(responses["mass"], 0.8)
    assert set(responses["internal_reason"]) == {"small mass"}
    for least, methods in ((0.01, {"expected"}), (0.81, {"expected", "first_token"})):
        found = elicitations_table(asked, table, "base", Rules("tiny", least), (plan.prompts, plan.methods))
        assert set(found.loc[found["value"].isna(), "method"]) == methods and found["mass"].notna().all()
        assert found.loc[found["value"].isna(), "probabilities"].isna().all()
        assert set(found.loc[found["value"].isna(), "reason"]) == {"small mass"}


class Cut(Pretended):
    """Its replies to the prompts about a confidence are cut within the number."""

    def ask(self, prompts: Sequence[Prompt], *_, **__) -> list[Reply]:
        replies = super().ask(prompts)
        return [replace(reply, text="My confidence is 9", ended=False) if "How certain" in prompt.text else reply
                for prompt, reply in zip(prompts, replies, strict=True)]  # fmt: skip


def test_a_cut_reply_is_a_parse_failure_and_no_number(tmp_path: Path) -> None:
    """Formerly, the stump of "My confidence is 95%" was read as 9 %."""
    table = questions(tmp_path)
    responses = responses_table(elicitation.elicit(Cut(), table, Asking(4, 8)), table, "base", TINY)
    assert responses["verbalized"].isna().all() and set(responses["reason"]) == {"cut"}
    assert not responses["ended"].any() and responses["plain_ended"].all()
    counts = readings.readings(responses)
    assert readings.unread_share(counts).iloc[0].to_dict() == {
        "model": "tiny", "variant": "base", "right": 1, "wrong": 1, "cut": 1}
    assert readings.unread_examples(responses)["raw"].unique().tolist() == ["My confidence is 9"]


def test_a_distribution_takes_four_bytes_a_percent(tmp_path: Path) -> None:
    """README's recipe elicits 8 of them a question: as Python's numbers they took 5 GB for POPE and AMBER."""
    import pyarrow.parquet as pq

    table, plan = questions(tmp_path), elicitation.Plan(methods=("expected",))
    asked = elicitation.elicit(Pretended(), table, Asking(4, 8), plan)
    found = elicitations_table(asked, table, "base", TINY, (plan.prompts, plan.methods))
    assert {values.nbytes for values in found["probabilities"]} == {4 * 101}
    assert {values.dtype for values in asked["levels"]} == {np.dtype("float32")}
    found.to_parquet(tmp_path / "found.parquet")
    assert str(pq.read_schema(tmp_path / "found.parquet").field("probabilities").type.value_type) == "float"


def test_a_draw_is_seeded_by_image_text_draw_and_seed_alone() -> None:
    plan = elicitation.Plan(("third_person",), ("sampled",), n_samples=3)
    seeds = plan.prompt("a/x.png", "Is there a star?", "third_person", "Yes").seeds
    assert len(set(seeds)) == 3 and seeds == plan.prompt("b/x.png", "Is there a star?", "third_person", "Yes").seeds
    others = [plan.prompt("a/y.png", "Is there a star?", "third_person", "Yes").seeds,
              plan.prompt("a/x.png", "Is there a star?", "third_person", "No").seeds,
              elicitation.Plan(seed=1, methods=("sampled",)).prompt("a/x.png", "Is there a star?", "third_person",
                                                                    "Yes").seeds]
    assert not any(set(seeds) & set(other) for other in others)


class Words:
    """A tokenizer with these tokens; a space belongs to the word after it, unknown words fall into letters."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens) + list(" YESNOyesno")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [self.tokens.index(text)] if text in self.tokens else [self.tokens.index(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.tokens[i] for i in ids)

    def get_vocab(self) -> dict[str, int]:
        return {token: self.tokens.index(token) for token in self.tokens}


def test_candidate_tokens_are_whole_words_where_there_are_any() -> None:
    tokenizer = Words("Yes", " Yes", "yes", "No", " No", "no")
    assert tokenizer.decode(vlm.candidate_tokens(tokenizer, "Yes")) == "Yes Yesyes"
    assert tokenizer.decode(vlm.candidate_tokens(tokenizer, "No")) == "No Nono"
    letters = Words()  # no word at all: first letters, but never the space that both answers may begin with
    assert sorted(letters.decode(vlm.candidate_tokens(letters, "Yes"))) == ["Y", "y"]


def test_another_max_pixels_in_the_same_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """qwen-vl-utils is told once per process: a second value would be ignored without a word."""
    monkeypatch.setitem(vlm.sys.modules, "qwen_vl_utils.vision_process", SimpleNamespace(_patch=True))
    monkeypatch.setenv("MAX_PIXELS", "12544")
    vlm._set_max_pixels(12544)
    with pytest.raises(UserError, match="already uses MAX_PIXELS 12544, not 50176"):
        vlm._set_max_pixels(50176)


def test_a_checkpoint_trained_with_another_max_pixels_is_refused(tmp_path: Path) -> None:
    from csp_utils.models.checkpoints import record_max_pixels

    (tmp_path / "config.json").write_text("{}")
    record_max_pixels(tmp_path, 50176)
    with pytest.raises(UserError, match="trained with max_pixels 50176"):
        vlm.load_vlm(vlm.ModelChoice(str(tmp_path), None, None, 12544))


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no config.json"):
        vlm.load_vlm(vlm.ModelChoice(str(tmp_path)))


# ---------------------------------------------------------------------------------------- a Qwen2-VL of random weights


@pytest.fixture(scope="module")
def qwen(model_folder: Path) -> vlm.VLM:
    return vlm.load_vlm(vlm.ModelChoice(str(model_folder), "qwen2_vl", "qwen2_vl", 12544))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Prompts of different lengths about images of different sizes and modes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = []
    for name, size, mode in (("a.png", (112, 112), "RGB"), ("b.png", (56, 84), "L"), ("c.png", (300, 200), "RGBA")):
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8), "RGBA").convert(mode)
        image.save(folder / name)
        paths.append(folder / name)
    asked = ("Is there a star in the image?", "Is the moon red in this image?")
    return [(p, elicitation.prompt_of(q, kind)) for p in paths for q in asked for kind in elicitation.KINDS]


@pytest.mark.slow
def test_the_batch_size_does_not_change_a_reply(qwen: vlm.VLM, prompts: list[tuple[Path, str]]) -> None:
    one, many = (qwen.ask(prompts, Asking(batch_size, 6)) for batch_size in (1, 7))
    assert [r.text for r in one] == [r.text for r in many]
    assert len({r.text for r in one}) > 1
    for a, b in zip(one, many, strict=True):
        assert a.first == pytest.approx(b.first, rel=1e-4)


@pytest.mark.slow
def test_replies_are_those_of_transformers_own_processor_and_generate(
    qwen: vlm.VLM, model_folder: Path, prompts: list[tuple[Path, str]]
) -> None:
    """The same prompt, written out by hand, through transformers alone."""
    import torch
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(model_folder)
    model = Qwen2VLForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
    same_size = [p for p in prompts if p[0].name == "a.png"]  # 112 x 112: nothing is resized on either way
    for (path, text), reply in zip(same_size, qwen.ask(same_size, Asking(4, 6)), strict=True):
        written = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
            f"<|vision_start|><|image_pad|><|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
        )
        inputs = processor(text=[written], images=[Image.open(path)], return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
            logits = model(**inputs).logits[0, -1].float()
        ends = {*model.generation_config.eos_token_id}
        own = processor.tokenizer.decode(until(tokens.tolist(), ends), spaces_between_special_tokens=False)
        assert reply.text == own
        yes = [processor.tokenizer.encode(w)[0] for w in ("Yes",)]
        assert reply.first["Yes"] >= torch.softmax(logits, -1)[yes].max().item() * 0.999


@pytest.mark.slow
def test_the_image_reaches_the_model(qwen: vlm.VLM, prompts: list[tuple[Path, str]]) -> None:
    """ms-swift's template knows only the full-size vocabulary's image token; see csp_utils.models.swift_plugins."""
    text = prompts[0][1]
    replies = qwen.ask([(path, text) for path in sorted({p for p, _ in prompts})], Asking(3, 2))
    assert len({round(r.first["Yes"], 9) for r in replies}) == 3
    encoded = qwen.engines["plain"].encode([Prompt(*prompts[0])])[0]
    assert encoded["input_ids"].count(qwen.tokenizer.convert_tokens_to_ids("<|image_pad|>")) == 16


@pytest.mark.slow
def test_without_an_image_the_model_is_shown_none(qwen: vlm.VLM, prompts: list[tuple[Path, str]]) -> None:
    """Mixed with others, whichever engine asks them, and as transformers alone has it."""
    import torch

    texts = list(dict.fromkeys(text for _, text in prompts))
    mixed = [one for text in texts for one in ((None, text), (prompts[0][0], text))]
    shared, plain = (qwen.ask(mixed, Asking(4, 6), engine=engine) for engine in ("shared", "plain"))
    assert [r.text for r in shared] == [r.text for r in plain]
    for text, reply, seeing in zip(texts, shared[::2], shared[1::2], strict=True):
        written = (f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n"
                   "<|im_start|>assistant\n")  # fmt: skip
        inputs = qwen.tokenizer(written, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            probabilities = torch.softmax(qwen.model(**inputs).logits[0, -1].float(), -1)
        assert reply.first["Yes"] == pytest.approx(
            probabilities[vlm.candidate_tokens(qwen.tokenizer, "Yes")].max().item(), rel=1e-3)
        assert reply.first != pytest.approx(seeing.first, rel=1e-3)


@pytest.mark.slow
def test_a_blurred_view_is_another_image(qwen: vlm.VLM, prompts: list[tuple[Path, str]]) -> None:
    path, text = prompts[-1]
    views = [path, Blurred(path, 0.5), Blurred(path, 20)]
    assert len({view.load().tobytes() for view in views[1:]}) == 2 and views[1].load().size == Image.open(path).size
    prompts = [(view, text) for view in views]
    shared, plain = (qwen.ask(prompts, Asking(4, 6), engine=engine) for engine in ("shared", "plain"))
    assert len({round(r.first["Yes"], 9) for r in shared}) == 3
    for one, two in zip(shared, plain, strict=True):
        assert one.first == pytest.approx(two.first, rel=1e-3) and one.text == two.text


@pytest.mark.slow
def test_a_truncated_image_is_named(qwen: vlm.VLM, prompts: list[tuple[Path, str]], tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(prompts[0][0].read_bytes()[:300])
    with pytest.raises(UserError, match="cut.png is damaged or truncated"):
        qwen.ask([(tmp_path / "cut.png", "What?")], Asking(1, 2))


def test_the_header_of_an_image_is_read_once_for_all_prompts_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                      ) -> None:
    """README's recipe makes 13 prompts a question; every file was opened for each of them, in every shard again."""
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for side, path in zip((28, 56), paths, strict=True):
        Image.new("RGB", (side, side)).save(path)
    opened, open_image = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, *more: (opened.append(path), open_image(path, *more))[1])
    views = [view for path in paths for view in (path, path, Blurred(path, 1), Blurred(path, 2))] + [None]
    areas = shown_areas(view for view in views for _ in range(5))
    assert sorted(opened) == sorted(paths)
    assert [areas[view] for view in views] == [28 * 28] * 4 + [56 * 56] * 4 + [-1]
