"""Token sequences as a tree, in which what sequences have in common at their beginning stands once.

A transformer reads such a tree in one pass if every token sees its ancestors only (a tree attention mask) and stands at
the position that it has in its own sequence: Cai et al. 2024 (Medusa, arXiv 2401.10774) check several continuations so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenTree:
    """N nodes, parents before their children."""

    tokens: np.ndarray
    """int64 (N,)"""
    parents: np.ndarray
    """int64 (N,): index of the node before; -1 at the beginning of a sequence."""
    depths: np.ndarray
    """int64 (N,): 0 at the beginning of a sequence."""
    ends: np.ndarray
    """int64 (S,): the node of each sequence's last token."""

    def ancestors(self) -> np.ndarray:
        """bool (N, N): row i is True at node i and at every node before it in its sequences."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def token_tree(sequences: Sequence[Sequence[int]]) -> TokenTree:
    """The tree of S token sequences, none of them empty."""
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
    """float64 (S,): of each whole sequence, from float (N,), that of each node's token after its ancestors."""
    total = token_log_probabilities.astype(np.float64)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            total[node] += total[parent]
    return total[tree.ends]
