"""The tokens of a description are found from the sampled tokens, however these cut the text."""

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from csp_utils.vlcal.formats import FORMATS
from csp_utils.vlcal.reply import read_reply
from csp_utils.vlcal.spans import part_tokens, token_strings

TEXT = "So <vision>\nThe star, 1 \u00e9toile \u26a1 cloud.\n</vision>\n<reasoning>3</reasoning> \\boxed{7}"


@pytest.fixture(scope="module")
def tokenizer():
    """The tiny model's own tokenizer: byte-level BPE, which spells the tags in pieces."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "assets/tiny_world/vlm")


@pytest.fixture(scope="module")
def with_tags():
    """The same tokenizer with the tags as added tokens, as the tiny twin has them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets/tiny_world/vlm")
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in ("<vision>", "</vision>")])
    return tokenizer


@pytest.mark.parametrize("strings", [
    ["<", "vision", ">", "a", "b", "</", "vision", ">"],
    ["<vision>", "a", "b", "</vision>"],
    ["<vision", ">a", "b</", "vision>"],
    ["x", "<vision>", "\u010a", "a", "\u0120b", "\u0120", "</vision>", "y"],
])
def test_by_hand(strings):
    span = part_tokens(strings)
    assert "a" in strings[span.start] and "b" in strings[span.stop - 1] and len(span) == 2


def test_a_token_that_closes_a_tag_and_begins_the_text_belongs_to_the_text():
    assert part_tokens(["<vision", ">The", "</vision>"]) == range(1, 2)
    assert part_tokens(["<vision", ">\u010a", "The", "</vision>"]) == range(2, 3)
    assert part_tokens(["<vision>The</vision>"]) == range(0, 1)


@pytest.mark.parametrize("strings", [
    [], ["no tags"], ["<vision>", "a"], ["a", "</vision>"], ["</vision>", "a", "<vision>"], ["<vision>", "</vision>"],
    ["<vision>", "\u010a", "\u0120", "</vision>"], ["<vision>", "a", "<vision>", "b", "</vision>"],
])  # fmt: skip
def test_without_one_pair_of_tags_and_text_there_is_no_span(strings):
    assert part_tokens(strings) is None


def test_other_parts(tokenizer):
    strings = token_strings(tokenizer, tokenizer(TEXT)["input_ids"])
    assert [strings[i] for i in part_tokens(strings, "reasoning")] == ["3"]
    assert part_tokens(strings, "vision_confidence") is None


@pytest.mark.parametrize("which", ["tokenizer", "with_tags"])
def test_the_tokens_decode_to_the_description_that_is_read(which, request):
    tokenizer = request.getfixturevalue(which)
    ids = tokenizer(TEXT)["input_ids"]
    span = part_tokens(token_strings(tokenizer, ids))
    read = read_reply(TEXT, FORMATS["none"]).description
    assert tokenizer.decode(ids[span.start : span.stop]).strip() == read == "The star, 1 \u00e9toile \u26a1 cloud."


def test_sampled_tokens_that_no_tokenizer_would_make(tokenizer):
    """A reply in single bytes: its canonical tokens are fewer, so a span in those would be wrong."""
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "ab <vision>The cloud</vision>".replace(
        " ", "\u0120")]  # fmt: skip
    span = part_tokens(token_strings(tokenizer, letters))
    assert tokenizer.decode(letters[span.start : span.stop]) == "The cloud" and span == range(11, 20)
    canonical = tokenizer(tokenizer.decode(letters))["input_ids"]
    assert len(canonical) < len(letters)
    assert part_tokens(token_strings(tokenizer, canonical)) != span


@given(data=st.data())
def test_every_cut_of_the_text_gives_the_tokens_that_hold_the_description(data):
    seen = data.draw(st.text("ab<>/v ", max_size=12))
    text = f"x<vision>{seen}</vision>y"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
    strings = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    span = part_tokens(strings)
    if not seen.strip() or "<vision>" in seen or "</vision>" in seen:
        assert span is None
        return
    begin = text.index("<vision>") + 8 + len(seen) - len(seen.lstrip())
    end = begin + len(seen.strip())
    starts = [0, *cuts]
    expected = [i for i, s in enumerate(strings) if starts[i] < end and starts[i] + len(s) > begin]
    assert list(span) == expected


def test_unknown_ids_shift_nothing(tokenizer):
    ids = [10**6, *tokenizer("<vision>star</vision>")["input_ids"], 10**6]
    span = part_tokens(token_strings(tokenizer, ids))
    assert tokenizer.decode(ids[span.start : span.stop]) == "star"
