"""English grammar of the questions about nouns."""

import pytest

from csp_utils.words.english import article


@pytest.mark.parametrize("words, said", [("red star", "a red star"), ("anchor", "an anchor"), ("Owl", "an Owl")])
def test_article(words, said):
    assert article(words) == said
