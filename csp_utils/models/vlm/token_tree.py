"""A prefix tree of token sequences: tokens that sequences share at their beginning are stored once.

A transformer reads the whole tree in one forward pass if each token attends to its ancestors only (a tree attention
mask) and has the position that it would have in its own sequence. Cai et al. 2024 (Medusa, arXiv 2401.10774) check
several continuations in this way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenTree:
    """A tree of N nodes, one token each; parents come before their children."""

    tokens: np.ndarray
    """int64 (N,): token ids."""
    parents: np.ndarray
    """int64 (N,): index of the preceding token's node; -1 for the first token of a sequence."""
    depths: np.ndarray
    """int64 (N,): position in the sequence, from 0."""
    ends: np.ndarray
    """int64 (S,): node of the last token of each sequence."""

    def ancestors(self) -> np.ndarray:
        """Return the attention mask, bool (N, N): row i is True at node i and at all its ancestors."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def token_tree(sequences: Sequence[Sequence[int]]) -> TokenTree:
    """Build the tree of S token sequences. Raises ValueError if one of them is empty."""
    nodes: dict[tuple[int, int], int] = {}
    tokens, parents, depths, ends = [], [], [], []
    for sequence in sequences:
        node = -1
        for depth, token in enumerate(sequence):
            parent, node = node, nodes.setdefault((node, token), len(tokens))
            if node == len(tokens):
                tokens.append(token)
                parents.append(parent)
                depths.append(depth)
        if node < 0:
            raise ValueError("an empty token sequence has no place in a tree")
        ends.append(node)
    return TokenTree(*(np.array(column, dtype=np.int64) for column in (tokens, parents, depths, ends)))


def sequence_log_probabilities(tree: TokenTree, token_log_probabilities: np.ndarray) -> np.ndarray:
    """Sum the tokens' log-probabilities along each sequence: float64 (S,).

    Args:
        token_log_probabilities: float (N,), log-probability of each node's token given its ancestors.
    """
    total = token_log_probabilities.astype(np.float64)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            total[node] += total[parent]
    return total[tree.ends]
