"""Choose a random subset that does not depend on any order."""

import hashlib
from collections.abc import Sequence


def subset(keys: Sequence[str], n: int | None, seed: int, use: str = "subset") -> list[int]:
    """Return the positions of ``n`` items (None: of all), drawn by the seed, in the order of the items.

    The items with the smallest SHA-256 of seed, use and key are drawn. Another order of the items draws the same ones,
    and a larger ``n`` adds to a smaller one.

    Args:
        keys: name of each item.
        use: what the subset is for; subsets for different uses are independent.
    """
    if n is None or n >= len(keys):
        return list(range(len(keys)))
    order = [hashlib.sha256(f"{seed}\0{key}\0{use}".encode()).digest() for key in keys]
    return sorted(sorted(range(len(keys)), key=order.__getitem__)[:n])
