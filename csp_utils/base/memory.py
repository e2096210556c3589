"""Keep models in memory: load each once for an example and a whole stage, and free it at the end."""

import gc
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable)
_loaders: list[Any] = []


def loads_once(function: F) -> F:
    """Decorate a function that loads a model, so that a second call with the same arguments returns the same model.

    Only the last model is kept.
    """
    loader = lru_cache(maxsize=1)(function)
    _loaders.append(loader)
    return loader  # type: ignore[return-value]


def free_models() -> None:
    """Drop the models that :func:`loads_once` keeps, and free the memory of all unused models."""
    for loader in _loaders:
        loader.cache_clear()
    gc.collect()  # a model and its engines form a reference cycle
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
