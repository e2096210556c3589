"""Keywords are read from what chat models reply; what names nothing is dropped with its reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.words.keyword import KEYWORD_REASONS, is_foreign, read_keyword


@pytest.mark.parametrize(
    ("raw", "keyword"),
    [("dog", "dog"), (" Dog.\n\nExample 4: cat", "dog"), ('"Potato chips"', "potato chips"), ("The dog.", "dog"),
     ("a car", "car"), ("an umbrella!", "umbrella"), ("Keyword: star", "star"),
     ("**Keyword:** 'the red star'", "red star"),
     ("The most important keyword is: fruits", "fruits"), ("t-shirt", "t-shirt"), ("\n\nhorse", "horse"),
     ("antenna", "antenna"), ("theater", "theater"), ("女", "女"), ("dog’s tail", "dog's tail"), ("7up", "7up"),
     ("", None), ("  \n ", None), ("...", None), ("None", None), ("N/A", None), ("no keyword", None), ("42", None),
     ("Keyword:", None), ("the", "the"), ("Answer: dog", "dog"), ("Sure! Here is the keyword: dog", "dog"),
     ("Certainly! Keyword: traffic light", "traffic light"), ("The answer is a dog", "dog"), ("keyboard", "keyboard"),
     ("light yellow thin potato chips", "light yellow thin potato chips")],
)  # fmt: skip
def test_cleaning(raw, keyword):
    assert read_keyword(raw).keyword == keyword


@pytest.mark.parametrize(("raw", "ended", "reason"), [
    ("", True, "no_keyword"), ("None", True, "no_keyword"), ("Sure! Here is the keyword:", True, "no_keyword"),
    ("", False, "keyword_cut"), ("light yellow thin slice-shaped potato", False, "keyword_cut"),
    ("answer to the question is: the", False, "keyword_cut"), ("I'm sorry, but I", False, "keyword_refused"),
    ("I cannot see the image", True, "keyword_refused"), ("<think>", True, "keyword_thinking"),
    ("<think> Okay, the user", False, "keyword_thinking"), ("answer to the question is: no", True, "keyword_sentence"),
    ("The image shows a dog", True, "keyword_sentence"),
    ("dog on the sofa beside the large window", True, "keyword_sentence"),
])  # fmt: skip
def test_what_is_no_keyword_says_why(raw, ended, reason):
    read = read_keyword(raw, ended)
    assert (read.keyword, read.drop_reason) == (None, reason) and reason in KEYWORD_REASONS


@given(st.text(), st.booleans())
def test_any_reply_gives_a_keyword_or_a_reason(raw, ended):
    read = read_keyword(raw, ended)
    assert (read.keyword is None) == (read.drop_reason in KEYWORD_REASONS) and read.raw == raw


@pytest.mark.parametrize(("keyword", "foreign"), [
    ("dog", False), ("dogs", False), ("red dog", False), ("leash", True), ("horses", False), ("image", True),
])  # fmt: skip
def test_a_keyword_of_neither_text_is_foreign(keyword, foreign):
    assert is_foreign(keyword, "What does the Dog do?", "It runs beside a horse.") == foreign
