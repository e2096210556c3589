"""Choose at random by the seed and an item's own name, so that the choice does not depend on any order."""

import hashlib
from collections.abc import Sequence


def place(seed: int, key: str, purpose: str) -> float:
    """Return a number in [0, 1) for an item: the first 48 bits of the SHA-256 of seed, key and purpose."""
    text = f"{seed}\0{key}\0{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48  # exact in float64


def subset(keys: Sequence[str], n: int | None, seed: int, purpose: str = "subset") -> list[int]:
    """Return the positions of ``n`` items (None: of all), drawn by the seed, in the order of the items.

    The items with the least :func:`place` are drawn. Another order of the items draws the same ones, and a larger ``n``
    adds to a smaller one.

    Args:
        keys: name of each item; of items with the same name, the first are drawn first.
        purpose: what the subset is for; subsets for different purposes are independent.
    """
    if n is None or n >= len(keys):
        return list(range(len(keys)))
    places = [place(seed, key, purpose) for key in keys]
    return sorted(sorted(range(len(keys)), key=lambda i: (places[i], i))[:n])
