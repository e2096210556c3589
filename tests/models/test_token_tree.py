"""Sequences as a tree: what they share stands once, and each node sees its own sequence only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.asking.tables import distribution
from csp_utils.models.vlm.token_tree import sequence_log_probabilities, token_tree

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8)


@given(SEQUENCES)
def test_each_sequence_can_be_read_back_from_its_end(sequences: list[list[int]]) -> None:
    tree = token_tree(sequences)
    assert (tree.parents < np.arange(len(tree.tokens))).all()
    prefixes = {tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)}
    assert len(tree.tokens) == len(prefixes)  # each common beginning once
    for sequence, end in zip(sequences, tree.ends, strict=True):
        path = np.flatnonzero(tree.ancestors()[end])
        assert tree.tokens[path].tolist() == sequence and tree.depths[path].tolist() == list(range(len(sequence)))


@given(SEQUENCES)
def test_log_probabilities_add_up_along_a_sequence(sequences: list[list[int]]) -> None:
    tree = token_tree(sequences)
    each = np.log(np.arange(1, len(tree.tokens) + 1) / 100)
    whole = sequence_log_probabilities(tree, each)
    seen = tree.ancestors()
    assert np.allclose(whole, [each[seen[end]].sum() for end in tree.ends])


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        token_tree([[1], []])


def test_a_distribution_of_known_values() -> None:
    values = np.zeros(101)
    values[[40, 60]] = 0.1, 0.3
    found = distribution(values)
    assert (found.mean, found.mode, found.mass) == pytest.approx((55, 60, 0.4))
    assert found.spread == pytest.approx(np.sqrt(75)) and found.probabilities.sum() == pytest.approx(1)
    assert distribution(np.zeros(101)) is None
    with pytest.raises(ValueError, match="101"):
        distribution([1.0])
