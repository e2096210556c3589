"""English grammar of the questions about nouns."""

import pytest

from csp_utils.words.english import article, is_there


@pytest.mark.parametrize(("words", "said"), [
    ("red star", "a red star"), ("anchor", "an anchor"), ("Owl", "an Owl"), ("hour", "an hour"),
    ("unicorn", "a unicorn"), ("European car", "a European car"), ("unidentified object", "an unidentified object"),
    ("one-way sign", "a one-way sign"),
])
def test_article(words, said):
    assert article(words) == said


@pytest.mark.parametrize("noun", ["potato chips", "pandas", "people", "women", "children", "glasses", "puppies"])
def test_a_question_about_several_things(noun):
    """Formerly notebook 10 asked "Is there a potato chips in the image?", and fitted its schedule to the answers."""
    assert is_there(noun) == f"Are there {noun} in the image?"


@pytest.mark.parametrize("noun", ["glass", "bus", "gas", "tennis racket", "cactus", "dress", "canvas", "gear"])
def test_a_question_about_one_thing(noun):
    assert is_there(noun) == f"Is there a {noun} in the image?"
