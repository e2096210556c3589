"""Check params files of many kinds with the command that checks them: each is valid, or one sentence says why not."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from csp_utils.base.errors import UserError
from csp_utils.pipeline import params_file

GOOD = "run: x\n00_tiny_world: {train: [], models: assets/tiny_world}\n"
EXTRACT = "01_extract: {rlaif_v: 'source:rlaif_v'}\n"


def laughs(start: str, level: str) -> str:
    """Return nine levels of lists, each of ten aliases of the one before it: a billion values."""
    names = "abcdefghij"
    first = f"{start}{level.format(name='a', items=', '.join('x' * 10))}\n"
    return first + "".join(f"{start}{level.format(name=name, items=', '.join([f'*{before}'] * 10))}\n"
                           for before, name in zip(names, names[1:], strict=False))  # fmt: skip


TEXTS = {
    # templates, keys that are no text, thousands
    "template": "run: {{ name }}\n", "template in a section": GOOD + "01_extract: {n_rows: {{ n }}}\n",
    "template of a key": GOOD + "{{ key }}: 3\n", "template block": "{% if x %}\n" + GOOD,
    "list as key": GOOD + "[a, b]: 3\n", "table as key": GOOD + "{a: b}: 3\n",
    "table as key in a section": GOOD + "01_extract:\n  ? {a: 1}\n  : 3\n",
    "thousands": GOOD + "01_extract: {n_rows: 1,000}\n", "thousands as text": GOOD + "01_extract:\n  n_rows: 1,000\n",
    **{f"key {key} in a section": GOOD + f"01_extract: {{{key}: 3}}\n" for key in ("no", "5", "~", "2020-01-01")},
    **{f"key {key} at the top": GOOD + f"{key}: 3\n" for key in ("no", "5", "~", "1.5", ".nan", "!!binary aGVsbG8=")},
    # values of a wrong type or form
    **{f"seed {value}": GOOD + f"seed: {value}\n" for value in (
        "2020-13-45", "!!int abc", "!!float abc", "!!bool abc", "!!timestamp abc", "!!map abc", "!!set abc", "!!seq a",
        "!!omap a", "!!binary a", "!!str {a: b}", "!!python/tuple [1]", "9" * 5000, "0x" + "f" * 5000, "*nothing",
        "[1, 2]", "'a", '"\\x"', '"\\UFFFFFFFF"', '"\\ud800"', "@x", "%x", "a: b", "-1", "1.5", ".inf")},
    **{f"run {value[:9]!r}": GOOD.replace("x", value, 1) for value in (
        "a" * 300, "a/b", "..", '"a\\0"', '"x\\n"', "5", "no", "~", "''", "[a]", "{a: b}", "é", '"\\ud800"')},
    **{f"rlaif_v {value[:9]!r}": GOOD + f"01_extract: {{rlaif_v: {value}}}\n" for value in (
        "a" * 300, "/tmp/" + "b/" * 3000, '"a\\0b"', '"\\n"', '"\\ud800"', "5", "[a]", "'source:nix'", "'source:'")},
    # aliases and depth
    "alias of itself": "run: x\n00_tiny_world: &a {train: *a}\n", "alias of the whole file": "&a\nrun: x\nseed: *a\n",
    "list in itself": "run: x\nseed: &a [*a]\n", "merge of itself": GOOD + "01_extract: &a {<<: *a}\n",
    "branch in itself": GOOD + "branches: &a {b: *a}\n", "source in itself": GOOD + "sources: &a {b: *a}\n",
    "deep list": GOOD + "seed: " + "[" * 1000 + "]" * 1000, "deep table": GOOD + "seed: " + "{a: " * 999 + "}" * 999,
    "deep blocks": GOOD + "01_extract:\n" + "\n".join("  " * level + "a:" for level in range(1, 1000)),
    "deep key": GOOD + "? " + "[" * 1000 + "]" * 1000 + "\n: 3\n", "deep and open": GOOD + "seed: " + "[" * 2000,
    "rather deep": GOOD + "seed: " + "[" * 90 + "]" * 90,
    "laughs at the top": laughs("", "{name}: &{name} [{items}]") + GOOD,
    "laughs in a section": GOOD + "01_extract:\n" + laughs("  ", "{name}: &{name} [{items}]"),
    "laughs under sources": GOOD + "sources:\n" + laughs("  ", "{name}: &{name} [{items}]"),
    "laughs of merges": GOOD + laughs("", "{name}: &{name} {{<<: [{items}]}}").replace("[x, x, x, x, x, x, x, x, x, x]",
                                                                                       "{k: 1}"),  # fmt: skip
    # sources
    **{f"sources {value}": GOOD + f"sources: {value}\n" + EXTRACT for value in (
        "5", "[a]", "text", "0", "false", "{5: {path: /}}", "{~: {path: /}}", "{no: {path: /}}", "{../x: {path: /}}",
        "{rlaif_v: 5}", "{rlaif_v: ~}", "{rlaif_v: [a]}", "{rlaif_v: text}", "{rlaif_v: {5: 3}}",
        *(f"{{rlaif_v: {{path: {path}}}}}" for path in ("5", "[a]", "{a: b}", "true", "1.5", "''", "~", "a" * 300)),
        *(f"{{rlaif_v: {{parts: {parts}}}}}" for parts in (
            "5", "~", "text", "{a: b}", "[5]", "[~]", "[{5: 3}]", "[{repo: 5}]", "[{url: 5, name: a}]", "[{name: a}]",
            "[{repo: a/b, files: 5}]", "[{repo: a/b, files: [5]}]")),
        "{rlaif_v: {gigabytes: text}}", "{rlaif_v: {gigabytes: .nan}}", "{rlaif_v: {gigabytes: true}}",
        "{rlaif_v: {facts: [a]}}", "{rlaif_v: {what: 5}}", "{rlaif_v: {licence: [a]}}")},
    # branches
    **{f"branches {text}": GOOD + text + "\n" for text in (
        "branches: [a]", "branches: ~",
        "branches: 0", "branches: {5: {}}", "branches: {a: 5}", "branches: {a: {no: 3}}",
        "branches: {a: {01_extract: 5}}", "branches: {a: {01_extract: {5: 3}}}", "branches: {'a\n': {}}",
        "branches: {" + "a" * 300 + ": {01_extract: {}}}",
        "seeds: 5\nbranches: {a: {}}", "branches: {a: {seeds: [1.5]}}",
        "each: 5\nbranches: {a: {}}", "each: {no: 3}\nbranches: {a: {}}", "branches: {a: {{ x }}}", "seeds: [1]",
        "11_claims: 5\nbranches: {a: {06_eval: {}}}", "11_claims: {runs: [5]}\nbranches: {a: {06_eval: {}}}")},
    # several documents, none, or no YAML
    "two documents": GOOD + "---\n" + GOOD, "an empty second document": GOOD + "---\n...\n",
    "another version": "%YAML 3.0\n---\n" + GOOD,
    "conflict": "<<<<<<< HEAD\n" + GOOD + "=======\n" + GOOD + ">>>>>>> other\n", "twice": GOOD + GOOD,
    "tab": "run: x\n00_tiny_world:\n\ttrain: []\n", "a list": "- a\n", "a word": "abc\n", "false": "false\n",
    "nothing": "", "blank": "\n \n", "comment": "# run: x\n", "a page": "<!DOCTYPE html><html></html>",
    "no-break spaces": GOOD.replace(": ", ":\u00a0"), "bell": GOOD.replace("x", "x\a"), "nul": GOOD.replace("x", "x\0"),
}  # fmt: skip
BYTES = {name: text.encode("utf-8", "surrogatepass") for name, text in TEXTS.items()} | {
    "utf-16": GOOD.encode("utf-16"), "utf-16 without a mark": GOOD.encode("utf-16-le"), "utf-32": GOOD.encode("utf-32"),
    "latin-1": ("# é\n" + GOOD).encode("latin-1"), "compressed": gzip.compress(GOOD.encode()), "zeros": bytes(1000),
    "an image": (ROOT / "docs" / "img" / "overview.png").read_bytes(),
    "a notebook": (ROOT / "notebooks" / "01_extract.ipynb").read_bytes(),
}  # fmt: skip
LEGAL = {
    "Windows line ends": GOOD.replace("\n", "\r\n").encode(),
    "old Macintosh line ends": GOOD.replace("\n", "\r").encode(),
    "byte order mark": b"\xef\xbb\xbf" + GOOD.encode(), "one document": f"---\n{GOOD}...\n".encode(),
    "version": b"%YAML 1.2\n---\n" + GOOD.encode(),
    "thousands with _": GOOD.encode() + b"01_extract: {n_rows: 1_000}\n",
    "JSON": b'{"run": "x", "00_tiny_world": {"train": [], "models": "assets/tiny_world"}}',
    "alias": GOOD.encode() + b"each: {00_tiny_world: {train: [], models: assets/tiny_world}}\n"
    b"branches: {a: {seeds: &s [1, 2]}, b: {seeds: *s}}\n",
}  # fmt: skip


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return a function that writes a params file and checks it as the command does, in the project's folder."""
    monkeypatch.chdir(ROOT)

    def check(content: bytes) -> str:
        (tmp_path / "p.yaml").write_bytes(content)
        return params_file.main(["check", str(tmp_path / "p.yaml")])

    return check


@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_is_not_valid_is_said_in_sentences_that_name_it_or_its_value(check, name):
    with pytest.raises(UserError) as error:
        check(BYTES[name])
    lines = str(error.value).split("\n")
    assert all(lines) and len(lines) == 1 or name in ("a notebook",)  # one for each of its keys
    assert str(error.value).isprintable() or len(lines) > 1
    assert "p.yaml" in str(error.value) or "There is no source" in str(error.value) or "A part of" in str(error.value)


@pytest.mark.parametrize("name", LEGAL)
def test_what_yaml_allows_is_read(check, name):
    assert "p.yaml: run x: 00_tiny_world" in check(LEGAL[name])


@pytest.mark.parametrize(("place", "said"), [
    ("params", "params is a folder; name a params file: params/"),
    ("/dev/null", "/dev/null is empty"),
    ("a" * 300, "cannot be read (File name too long)"),
    ("README.md/x.yaml", "README.md/x.yaml does not exist"),
])
def test_a_place_that_holds_no_params_file_is_one_sentence(monkeypatch, place, said):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        params_file.main(["check", place])
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["deep list", "laughs at the top", "alias of itself", "utf-16", "run '\"\\\\ud800\"'"])
def test_the_command_says_so_on_one_line_and_fails(tmp_path, name):
    (tmp_path / "p.yaml").write_bytes(BYTES[name])
    command = [sys.executable, "-m", "csp_utils.pipeline.params_file", "check", str(tmp_path / "p.yaml")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.count("\n") == 1 and "Traceback" not in run.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_one_sentence(check, tmp_path):
    Path(tmp_path / "p.yaml").write_text(GOOD)
    Path(tmp_path / "p.yaml").chmod(0)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        params_file.main(["check", str(tmp_path / "p.yaml")])
