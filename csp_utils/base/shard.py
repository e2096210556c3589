"""Which part of a long list of batches is computed here."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Shard(NamedTuple):
    """Shard ``index`` (counted from 0) of ``of``."""

    index: int = 0
    of: int = 1

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this shard's items: every ``of``-th one. Together, all shards take every item once."""
        return list(items[self.index :: self.of])

    @property
    def name(self) -> str:
        """The shard's name in messages and folder names, for example 3of7."""
        return f"{self.index + 1}of{self.of}"


WHOLE = Shard()
"""The only shard of a list that is not divided."""
