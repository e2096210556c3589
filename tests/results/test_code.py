"""The code of a result: what can change a number changes the digest, and nothing else does."""

import ast
import json
from pathlib import Path

import pytest
from conftest import ROOT

from csp_utils.results import code as module
from csp_utils.results.code import code_of
from csp_utils.stages import stages

FILES = {
    "base/carry.py": "def write(table):\n    return table\n",
    "base/wording.py": "NAME = 'one'\nOTHER = 'other'\n\n\ndef said():\n    return NAME\n",
    "words/english.py": '''"""What words are."""
import json
from functools import cache

import numpy as np
import pandas

ENDING = "s"
UNUSED = 1
TABLE = {"a": 1}
TABLE["b"] = 2
LATER: int = 5


def plural(word: str, ending: str = ENDING) -> str:
    """Return the plural."""
    # a comment
    if not word:
        raise ValueError(f"no word but {word}")
    return np.char.add(word, ending)


def unused(x):
    return pandas.DataFrame(x)


def plot(x):
    return plural(x) + "drawn"


def table():
    return TABLE


def later():
    return LATER
''',
    "words/lazy.py": '''
def double(x):
    return 2 * x


def treble(x):
    return 3 * x
''',
    "words/classes.py": '''
from csp_utils.words.numbers import factor


class Base:
    def score(self):
        return factor()


class Scorer(Base):
    """A scorer."""

    weight = 7

    def __init__(self, x: int = 0):
        self.x: int = x

    def rarely(self):
        return "rarely"
''',
    "words/numbers.py": "def factor():\n    return 11\n\n\ndef other():\n    return 12\n",
    "words/decorators.py": '''
import functools


def twice(function):
    @functools.wraps(function)
    def run(*given):
        return function(*given) * 2
    return run
''',
    "words/through.py": "from csp_utils.words.lazy import double as again\n",
    "words/deep/inner.py": "def inside():\n    return 21\n",
    "words/parser.py": "import re\n\nPATTERN = re.compile('x')\nprint('at import')\n\n\n"
                       "def parse():\n    return PATTERN\n",
    "noise/work.py": '''"""A stage."""
from typing import TYPE_CHECKING

import csp_utils.words.parser as reader
from csp_utils.base import wording
from csp_utils.base.carry import write
from csp_utils.words import deep, lazy
from csp_utils.words import english as words
from csp_utils.words.classes import Scorer
from csp_utils.words.decorators import twice
from csp_utils.words.english import plural
from csp_utils.words.through import again

if TYPE_CHECKING:
    from csp_utils.words.numbers import other

try:
    import torch
except ImportError:
    torch = None

if torch is None:
    from csp_utils.words.lazy import treble as fallback


def compute(job: "other") -> None:
    """Compute."""
    from csp_utils.words.english import later

    write(job)
    wording.said()
    return helper(job), plural("x"), words.table(), reader.parse(), again(2), Scorer().score(), later()


@twice
def helper(job):
    def local():
        return fallback(job) + deep.inner.inside()
    return local()


def display(job):
    import matplotlib

    return matplotlib, lazy.double(job), plural
''',
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package csp_utils of its own; returns a function that edits a file of it."""
    def write(name: str, text: str) -> None:
        path = tmp_path / "csp_utils" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    for name, text in FILES.items():
        write(name, text)
        for folder in [tmp_path / "csp_utils" / Path(name).parent, *(tmp_path / "csp_utils" / name).parents][:2]:
            (folder / "__init__.py").touch()

    def edit(name: str, old: str, new: str) -> None:
        text = (tmp_path / "csp_utils" / name).read_text()
        assert text.count(old) == 1, (name, old)
        write(name, text.replace(old, new))
        module._module.cache_clear()

    monkeypatch.setattr(module, "PROJECT", tmp_path)
    module._module.cache_clear()
    yield edit
    module._module.cache_clear()


def now(**more) -> module.Code:
    return code_of(["csp_utils.noise.work:compute"], **more)


def test_it_names_the_modules_and_libraries_that_are_used_and_no_others(package):
    found = now()
    assert set(found.modules) == {f"csp_utils.{name}" for name in (
        "noise.work", "words.english", "words.lazy", "words.classes", "words.numbers", "words.decorators",
        "words.parser", "words.through", "words.deep.inner", "base.wording")}  # fmt: skip
    assert {"numpy", "functools", "re", "torch"} <= found.libraries
    assert not {"pandas", "matplotlib", "csp_utils", "json"} & found.libraries


@pytest.mark.parametrize(("file", "old", "new"), [
    ("words/english.py", "Return the plural.", "Return another plural."),
    ("words/english.py", '    """Return the plural."""\n', ""),
    ("words/english.py", '"""What words are."""\n', ""),
    ("words/english.py", "    # a comment\n", "\n\n"),
    ("words/english.py", "word: str, ending: str = ENDING) -> str:", "word, ending=ENDING):"),
    ("words/english.py", "LATER: int = 5", "LATER: float = 5"),
    ("words/english.py", "no word but {word}", "There is no word {word}; write one"),
    ("words/english.py", "return np.char.add(word, ending)", "return (np.char.add(\n        word,\n        ending))"),
    ("words/english.py", "UNUSED = 1", "UNUSED = 2"),
    ("words/english.py", "return pandas.DataFrame(x)", "return x"),
    ("words/english.py", '"drawn"', '"drawn in red"'),
    ("words/english.py", "import json\n", "import json\nimport csv\n"),
    ("words/english.py", "def table():", "def further():\n    return 1\n\n\ndef table():"),
    ("words/numbers.py", "return 12", "return 13"),
    ("words/classes.py", '    """A scorer."""\n', ""),
    ("words/classes.py", "x: int = 0", "x=0"),
    ("words/classes.py", "self.x: int = x", "self.x: float = x"),
    ("noise/work.py", "import matplotlib", "import seaborn as matplotlib"),
    ("noise/work.py", "lazy.double(job), plural", "lazy.treble(job)"),
    ("noise/work.py", "import other", "import factor as other"),
    ("base/wording.py", "'other'", "'another'"),
    ("base/carry.py", "return table", "return [table]"),  # base carries results and does not decide them
])
def test_what_changes_no_number_changes_no_digest(package, file, old, new):
    before = now()
    package(file, old, new)
    assert now() == before


@pytest.mark.parametrize(("file", "old", "new", "where"), [
    ("noise/work.py", "return helper(job), plural", "return 0, helper(job), plural", "noise.work"),
    ("words/english.py", 'ENDING = "s"', 'ENDING = "es"', "words.english"),  # a constant, used by a default
    ("words/english.py", "ending: str = ENDING", 'ending: str = "x"', "words.english"),  # a default
    ("words/english.py", "if not word:", "if word is None:", "words.english"),
    ("words/english.py", "raise ValueError", "raise KeyError", "words.english"),  # another branch may catch it
    ("words/english.py", "np.char.add(word, ending)", "np.char.add(ending, word)", "words.english"),
    ("words/english.py", '"a": 1', '"a": 3', "words.english"),  # module.function
    ("words/english.py", 'TABLE["b"] = 2', 'TABLE["b"] = 3', "words.english"),  # a statement about a constant
    ("words/english.py", "LATER: int = 5", "LATER: int = 6", "words.english"),  # imported in the function
    ("words/lazy.py", "return 2 * x", "return x + x", "words.lazy"),  # through a second module, under a third name
    ("words/lazy.py", "return 3 * x", "return x + x + x", "words.lazy"),  # imported under a condition
    ("words/classes.py", "return factor()", "return factor() + 1", "words.classes"),  # inherited
    ("words/classes.py", "weight = 7", "weight = 8", "words.classes"),
    ("words/classes.py", "x: int = 0", "x: int = 1", "words.classes"),
    ("words/classes.py", "self.x: int = x", "self.x: int = x + 1", "words.classes"),
    ("words/classes.py", 'return "rarely"', 'return "often"', "words.classes"),  # a method: who calls it is not known
    ("words/numbers.py", "return 11", "return 10", "words.numbers"),  # through a class
    ("words/decorators.py", "* 2", "* 3", "words.decorators"),
    ("words/parser.py", "compile('x')", "compile('y')", "words.parser"),
    ("words/parser.py", "print('at import')", "print('when imported')", "words.parser"),
    ("base/wording.py", "'one'", "'two'", "base.wording"),  # tables and pages show it
    ("words/deep/inner.py", "return 21", "return 22", "words.deep.inner"),  # package.module.function
    ("noise/work.py", "@twice\n", "", "noise.work"),
    ("noise/work.py", "torch = None", "torch = 0", "noise.work"),
    ("noise/work.py", "words.lazy import treble as fallback", "words.lazy import double as fallback", "words.lazy"),
])
def test_what_can_change_a_number_changes_the_digest_of_its_module(package, file, old, new, where):
    before = now().modules
    package(file, old, new)
    after = now().modules
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert f"csp_utils.{where}" in changed
    assert changed <= {f"csp_utils.{where}", "csp_utils.words.decorators", "csp_utils.noise.work"}


def test_another_function_of_the_same_module_has_another_digest(package):
    one, other = code_of(["csp_utils.words.english:plural"]), code_of(["csp_utils.words.english:table"])
    assert set(one.modules) == set(other.modules) and one.modules != other.modules


def test_functions_that_call_each_other_are_followed_once(package):
    package("words/numbers.py", "return 11", "return other()")
    package("words/numbers.py", "return 12", "return factor()")
    assert "csp_utils.words.numbers" in now().modules
    before = now()
    package("words/numbers.py", "return factor()", "return factor() + 1")
    assert now() != before


# ------------------------------------------------------------------------------------------------- files and notebooks


def test_a_plugin_counts_whole(package, tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text('"""A plugin."""\nfrom csp_utils.words.numbers import other\n\nprint(1)\n\n\n'
                      'def f():\n    return other\n')
    before = now(files=[plugin])
    assert "plugin.py" in before.modules and set(before.modules) - {"plugin.py"} == set(now().modules)
    for old, new in (("print(1)", "print(2)"), ("return other", "return 5")):
        plugin.write_text(plugin.read_text().replace(old, new))
        module._module.cache_clear()
        after = now(files=[plugin])
        assert after.modules["plugin.py"] != before.modules["plugin.py"]
        before = after
    plugin.write_text(plugin.read_text().replace("A plugin.", "Another docstring."))
    module._module.cache_clear()
    assert now(files=[plugin]) == before


def test_what_a_plugin_calls_counts(package, tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text("from csp_utils.words.numbers import other\n\n\ndef f():\n    return other()\n")
    before = now(files=[plugin])
    package("words/numbers.py", "return 12", "return 13")
    after = now(files=[plugin])
    assert after.modules.pop("csp_utils.words.numbers") != before.modules.pop("csp_utils.words.numbers")
    assert after == before


def test_a_notebooks_cells_count_and_what_they_call(package, tmp_path):
    def write(*cells):
        book = {"cells": [{"cell_type": "markdown", "source": ["# Not Python (at all"]},
                          *({"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells)]}
        (tmp_path / "x.ipynb").write_text(json.dumps(book))
        module._module.cache_clear()
        return code_of((), [tmp_path / "x.ipynb"]).modules

    cells = ["%matplotlib inline\n!ls\nfrom csp_utils.words.numbers import factor", "x = factor()\nx += 1"]
    first = write(*cells)
    assert set(first) == {"x.ipynb", "csp_utils.words.numbers"}
    assert write("%matplotlib inline\nfrom csp_utils.words.numbers import factor  # said", cells[1]) == first
    assert write(cells[0], "x = factor()\nx += 2")["x.ipynb"] != first["x.ipynb"]
    package("words/numbers.py", "return 11", "return 10")
    assert write(*cells)["csp_utils.words.numbers"] != first["csp_utils.words.numbers"]


# ------------------------------------------------------------------------------------------------------ this project


@pytest.mark.parametrize("name", ["06_eval", "07_correlation", "09_report"])
def test_the_printed_numbers_of_the_paper_are_part_of_what_shows_them(name, tmp_path, monkeypatch):
    """A corrected number in assets/published.yaml was shown by no notebook before something else had changed."""
    def now():
        functions = stages[name].functions if name == "09_report" else ()
        return code_of(functions, [ROOT / "notebooks" / f"{name}.ipynb"]).modules

    published = (ROOT / "assets" / "published.yaml").read_text()
    file = tmp_path / "published.yaml"
    monkeypatch.setattr(module, "READS", {"csp_utils.show.published": str(file)})
    file.write_text(published)
    before = now()
    file.write_text(published.replace("0.04", "0.05", 1))
    after = now()
    assert {key for key in before if before[key] != after[key]} == {"published.yaml"}
    assert "published.yaml" not in code_of(stages["08_stress"].functions, [ROOT / "notebooks/08_stress.ipynb"]).modules


def test_a_corrected_printed_number_makes_the_report_anew_but_computes_no_metric_again():
    assert "published.yaml" in code_of(stages["09_report"].functions).modules
    for name in ("06_eval", "07_correlation"):
        assert "published.yaml" not in code_of(stages[name].functions).modules


def test_a_function_that_is_not_there_is_an_error(package):
    """An empty digest would say for ever that nothing has changed."""
    for start in ("csp_utils.noise.work:computes", "csp_utils.gone:compute", "csp_utils.noise.work:<lambda>"):
        with pytest.raises(LookupError, match=start.split(":")[1]):
            code_of([start])


def test_the_package_imports_in_forms_that_are_followed():
    """Neither relative imports nor stars, nor modules by a computed name outside the declarations of the stages."""
    for file in sorted((ROOT / "csp_utils").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.level and node.names[0].name != "*", f"{file}: {ast.unparse(node)}"
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                assert file.name in ("stage.py", "__init__.py"), f"{file}: {ast.unparse(node)}"


COMPUTES = {
    "00_tiny_world": {"tiny_world.world.data", "tiny_world.models.quality"},
    "01_extract": {"models.keyword_lm", "words.prompts", "data.rlaif_v"},
    "02_mask": {"models.masks", "models.grounding_dino", "models.sam", "data.rlaif_v"},
    "03_perturb": {"noise.training_rows", "noise.diffusion", "words.prompts"},
    "04_sft": {"training.run", "training.command"},
    "05_simpo": {"training.run", "training.command"},
    "06_eval": {"asking.evaluation", "words.confidence", "measures.metrics", "measures.bootstrap"},
    "07_correlation": {"measures.metrics"},
    "08_stress": {"asking.stress", "noise.diffusion", "measures.stress_curves", "models.masks"},
    "10_schedule": {"asking.schedule", "noise.schedule"},
    "11_claims": {"measures.arms", "measures.verdicts"},
    "12_replies": {"replies.read", "replies.measure", "measures.counts", "words.confidence", "show.replies_page"},
}  # fmt: skip
LIBRARIES = {"01_extract": {"torch", "transformers"}, "02_mask": {"torch", "segment_anything"}, "06_eval": {"numpy"},
             "03_perturb": {"numpy"}}  # fmt: skip


@pytest.mark.parametrize("name", list(stages))
def test_each_stages_code_is_found_and_that_of_others_is_not(name):
    stage = stages[name]
    found = code_of(stage.functions, stage.files)
    modules = {one.removeprefix("csp_utils.") for one in found.modules}
    assert COMPUTES.get(name, {"show.report"}) <= modules
    assert LIBRARIES.get(name, set()) <= found.libraries
    if name not in ("09_report", "11_claims"):
        assert not {one for one in modules if one.startswith(("pipeline", "colab", "notebook", "show.report"))}
    if name in ("01_extract", "02_mask", "03_perturb", "04_sft", "05_simpo"):
        assert not {one for one in modules if one.startswith("measures")}


def test_of_base_only_what_is_shown_decides_a_result():
    found = {name: {one for one in code_of(stage.functions).modules if one.startswith("csp_utils.base")}
             for name, stage in stages.items()}  # fmt: skip
    assert set().union(*found.values()) == {"csp_utils.base.wording"}
    assert found["09_report"] and found["11_claims"] and not found["02_mask"]


@pytest.mark.parametrize("suffix", [".j2", ".css"])
def test_a_template_counts_by_its_bytes(package, tmp_path, suffix):
    template = tmp_path / f"page{suffix}"
    template.write_text("{{ title }}")
    before = now(files=[template])
    template.write_text("{{ title }} ")
    after = now(files=[template])
    assert before.modules.pop(template.name) != after.modules.pop(template.name) and before == after == now()
