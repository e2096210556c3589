"""The keyword stage: any causal LM, results that depend on nothing but the row, and a tiny model that copies nouns."""

from pathlib import Path

import pytest
from stage_tools import rlaif_row

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_parquet
from csp_utils.data.image_keys import image_keys
from csp_utils.data.rlaif_v import read_rlaif_v, write_rlaif_v
from csp_utils.models.keyword_lm import COLUMNS, KeywordModel, extract_keywords
from csp_utils.models.vlm.reply import Decoded
from csp_utils.words import prompts

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "assets" / "tiny_world" / "keyword_lm"

PAIRS = [
    ("Is there a star in the image?", "Yes"),
    ("What color is the umbrella?", "The umbrella is red."),
    ("Is the anchor standing upright or lying on its side?", "The anchor is lying on its side."),
    ("How many towers are there in the image?", "There are two towers."),
    ("What kind of dog is lying on the sofa?", "It is a small brown dog. " * 9),
    ("Is it é, 漢字 or 🙂?", "No {braces}, 100 %."),
    ("Where is the crown?", "It is on the left."),
]


@pytest.fixture(scope="module")
def model() -> KeywordModel:
    return KeywordModel(SHIPPED, device="cpu")


def test_the_model_gets_the_papers_prompt(model):
    assert model.prompt("Is there a star?", "Yes") == prompts.keyword_prompt("Is there a star?", "Yes")


def test_a_chat_template_is_used_if_there_is_one(model):
    plain = model.tokenizer.chat_template
    try:
        model.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
        assert model.prompt("a?", "b") == f"<user>{prompts.keyword_prompt('a?', 'b')}<assistant>"
    finally:
        model.tokenizer.chat_template = plain


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_keywords_do_not_depend_on_batches_or_order(model, batch_size):
    together = model.extract(PAIRS, batch_size=32)
    assert model.extract(PAIRS, batch_size=batch_size) == together
    assert model.extract(PAIRS[::-1], batch_size=batch_size) == together[::-1]
    assert [model.extract([pair])[0] for pair in PAIRS] == together  # nothing but the one prompt is shared


def test_the_shared_beginning_changes_no_logit(model):
    """Keys and values that are computed once, then padding in the middle: the same logits as the whole prompt gives."""
    import torch

    encoded = model.tokenizer([model.prompt(*pair) for pair in PAIRS])["input_ids"]
    with torch.inference_mode():
        whole = torch.stack([model.model(torch.tensor([ids])).logits[0, -1] for ids in encoded])
    seen = []
    hook = model.model.register_forward_hook(lambda module, args, out: seen.append(out.logits[:, -1]))
    try:
        words = list(model.answer([model.prompt(*pair) for pair in PAIRS]))
    finally:
        hook.remove()
    assert len(words) == len(PAIRS)
    torch.testing.assert_close(seen[1], whole, rtol=1e-4, atol=1e-4)  # seen[0] is the beginning itself


def test_a_thinking_mode_is_switched_off(model):
    """Qwen3's template thinks by default; formerly, every keyword of such a model was "think"."""
    plain = model.tokenizer.chat_template
    try:
        model.tokenizer.chat_template = "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}"
        assert model.prompt("a?", "b") == "no"
    finally:
        model.tokenizer.chat_template = plain


def test_a_reply_that_the_budget_cuts_says_so(model):
    prompt = model.prompt("Is there a star in the image?", "Yes")
    (whole,) = model.answer([prompt])
    assert whole == Decoded("star", True)
    model.max_new_tokens, before = 1, model.max_new_tokens
    try:
        (cut,) = model.answer([prompt])
    finally:
        model.max_new_tokens = before
    assert not cut.ended and whole.text.startswith(cut.text)


def test_an_answer_ends_at_a_line_break(model):
    import torch

    line_break = model.tokenizer("star\nstar", return_tensors="pt")["input_ids"]
    stop = model._line_end(0)
    assert stop(line_break, None).tolist() == [True]
    assert stop(line_break[:, :1], None).tolist() == [False]
    leading = torch.cat([model.tokenizer("\n", return_tensors="pt")["input_ids"], line_break[:, :1]], dim=1)
    assert stop(leading, None).tolist() == [False]  # a line break before the first word ends nothing


def rows_of(folder):
    """The rows as stage 01 gives them to the model."""
    data = read_rlaif_v(folder / "train.parquet")
    return data.rows.merge(image_keys(data, None), on="row_id")


def test_table(model, tmp_path):
    pairs = [("Is there a star in the image?", "Yes"), ("What color is the crown?", "It is red.")]
    rows = [rlaif_row(i, question=q, chosen=a) for i, (q, a) in enumerate(pairs)]
    write_rlaif_v(tmp_path / "train.parquet", rows)
    table = extract_keywords(rows_of(tmp_path), model)
    assert list(table.columns) == COLUMNS
    assert table["row_id"].tolist() == ["000000", "000001"]
    assert table["keyword"].tolist() == ["star", "crown"]
    assert table["drop_reason"].isna().all()
    write_parquet(table, tmp_path / "keywords.parquet")


def test_a_row_without_keyword_is_kept_and_marked(model, tmp_path, monkeypatch):
    write_rlaif_v(tmp_path / "train.parquet", [rlaif_row(0), rlaif_row(1)])
    said = [Decoded("...", True), Decoded("kite", True)]
    monkeypatch.setattr(model, "answer", lambda asked, batch_size, shard: iter(said))
    table = extract_keywords(rows_of(tmp_path), model)
    assert table["keyword"].tolist() == [None, "kite"]
    assert table["drop_reason"].tolist() == ["no_keyword", None]
    assert table["raw"].tolist() == ["...", "kite"]


def test_a_row_with_an_image_of_the_benchmark_is_not_asked_about(model, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(model, "answer",
                        lambda texts, *_: iter([asked.append(text) or Decoded("kite", True) for text in texts]))
    write_rlaif_v(tmp_path / "train.parquet", [rlaif_row(0), rlaif_row(1), rlaif_row(2)])
    table = extract_keywords(rows_of(tmp_path).assign(in_benchmark=[False, True, None]), model)
    assert len(asked) == 2 and table["keyword"].tolist() == ["kite", None, "kite"]
    assert table["drop_reason"].tolist() == [None, "benchmark_image", None]


def test_a_text_that_names_a_file_of_the_chat_is_dropped_and_counted(model, tmp_path, monkeypatch):
    """ms-swift reads <image> in a text as a second image; formerly, one such row stopped notebook 03 for all."""
    monkeypatch.setattr(model, "answer", lambda texts, *_: iter([Decoded("kite", True) for _ in texts]))
    rows = [rlaif_row(0, question="Is <image> a kite?"), rlaif_row(1), rlaif_row(2, chosen="See <video>."),
            rlaif_row(3, rejected="<|image_pad|>")]  # fmt: skip
    write_rlaif_v(tmp_path / "train.parquet", rows)
    table = extract_keywords(rows_of(tmp_path), model)
    assert table["drop_reason"].tolist() == ["media_tag", None, "media_tag", "media_tag"]
    assert table["keyword"].tolist() == [None, "kite", None, None]


@pytest.mark.parametrize(("question", "answer"), [(" ", "Yes"), ("Is it?", " \n")])
def test_a_question_without_an_answer_is_one_sentence(model, question, answer):
    with pytest.raises(UserError, match="write one"):
        model.extract([(question, answer)])


def test_a_wrong_model_or_device_is_one_sentence(tmp_path):
    import torch

    with pytest.raises(UserError, match="cannot be loaded as a causal language model"):
        KeywordModel(tmp_path, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU can be used"):
            KeywordModel(SHIPPED, device="cuda")


@pytest.mark.slow
def test_training_is_deterministic_and_its_model_loads(tmp_path):
    from csp_utils.tiny_world.models.fit import Settings
    from csp_utils.tiny_world.models.keyword_lm import train

    for name in ("a", "b"):
        train(tmp_path / name, Settings(steps=2, seed=3, log=lambda line: None))
    files = [sorted((f.name, f.read_bytes()) for f in (tmp_path / name).iterdir()) for name in ("a", "b")]
    assert files[0] == files[1]
    assert len(KeywordModel(tmp_path / "a", device="cpu").extract(PAIRS)) == len(PAIRS)


def test_training_loss_is_that_of_the_whole_prompt(model):
    """The shared beginning is computed once in training, too; the loss must not notice."""
    import torch

    from csp_utils.tiny_world.models import keyword_lm as trainer

    rows = [(question, answer, "star") for question, answer in PAIRS]
    prefix = model.tokenizer(trainer.PREFIX)["input_ids"]
    batch = trainer.encode(model.tokenizer, rows)
    losses = []
    for ids, told in batch:
        whole = torch.tensor([prefix + ids])
        logits = model.model(whole).logits[0, -told - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, whole[0, -told:], reduction="none"))
    loss = trainer.keyword_loss(model.model, torch.tensor([prefix]), batch)
    torch.testing.assert_close(loss, torch.cat(losses).mean(), rtol=1e-4, atol=1e-4)


def test_tokenizer_covers_any_text(model):
    for question, answer in PAIRS:
        text = prompts.keyword_prompt(question, answer)
        assert model.tokenizer.decode(model.tokenizer(text)["input_ids"]) == text
    assert len(model.tokenizer("1234")["input_ids"]) == 4  # digits are single tokens, as Qwen2's


@pytest.mark.slow
def test_shipped_model_names_the_noun():
    from csp_utils.tiny_world.models.keyword_lm import quality

    found = quality(SHIPPED, n_scenes=60, split="test", seed=5)
    assert found["exact_match"] >= 0.98
