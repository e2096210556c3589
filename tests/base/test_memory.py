"""Models in memory: loaded once, and given back at the end of a notebook."""

import gc
import weakref

from csp_utils import notebook
from csp_utils.base.memory import loads_once


class Model:
    """Something that refers to itself, as models and their engines do."""

    def __init__(self, name: str) -> None:
        self.name, self.engine = name, self


def test_the_same_model_is_loaded_once_another_takes_its_place_and_the_end_frees_it():
    loaded = []

    @loads_once
    def load(name: str) -> Model:
        loaded.append(name)
        return Model(name)

    assert load("a") is load("a") and loaded == ["a"]
    first = weakref.ref(load("a"))
    load("b")
    gc.collect()
    assert first() is None and loaded == ["a", "b"]
    second = weakref.ref(load("b"))
    notebook.end()
    assert second() is None
