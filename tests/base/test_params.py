"""A params file is checked completely before anything starts, and each fault is one sentence."""

import os
import re
import subprocess
import sys

import pytest
from conftest import PARAMS, ROOT
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.base import params
from csp_utils.base.errors import UserError
from csp_utils.base.run import RunPaths
from csp_utils.pipeline import params_file


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the one file that the example names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a")
    return tmp_path


def load(text, name="mini.yaml"):
    with open(name, "w") as file:
        file.write(text)
    runs = params_file.load(name)
    assert len(runs) == 1
    return runs[0]


def test_shared_keys_reach_every_notebook_that_has_them(here):
    found = load(PARAMS + "seed: 7\n03_perturb:\n  t_max: 5\n")
    assert list(found) == ["01_extract", "02_mask", "03_perturb"]
    assert {p.seed for p in found.values()} == {7}
    assert {p.rlaif_v for p in found.values()} == {"rows.csv"}
    assert found["03_perturb"].t_max == 5 and found["03_perturb"].gamma == params.Perturb().gamma


def test_a_section_overrides_what_is_shared(here):
    found = load(PARAMS.replace("  n_rows: 3", "  n_rows: 3\n  seed: 9") + "seed: 7\n")
    assert (found["01_extract"].seed, found["02_mask"].seed) == (9, 7)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("  n_rows: 3", "  n_row: 3", r"Unknown parameter 'n_row' in section 01_extract of .*did you mean 'n_rows'\?"),
    ("  n_rows: 3", "  gamma: 0.1", r"Unknown parameter 'gamma' in section 01_extract.* belongs to 03_perturb"),
    ("02_mask:", "02_masks:", r"Unknown key '02_masks' at the top.*did you mean '02_mask'\?"),
    ("run: mini", "run: mini\nsead: 1", r"Unknown key 'sead' at the top.*did you mean 'seed'\?"),
    ("  n_rows: 3", "  n_rows: '3'", r"'n_rows' in section 01_extract .* is '3': input should be a valid int"),
    ("  n_rows: 3", "  n_rows: 0", r"'n_rows' .* is 0: input should be greater than or equal to 1"),
    ("  n_rows: 3", "  n_rows: 3.5", r"'n_rows' .* is 3\.5: "),
    ("run: mini", "run: mini\nseed: x", r"'seed' in the top of mini.yaml is 'x'"),
    ("run: mini", "run: a/b", r"'run' in the top of mini.yaml is 'a/b'"),
    ("run: mini\n", "", r"does not say 'run'"),
    ("  n_rows: 3", "  run: other", r"'run' stands in section 01_extract"),
    ("run: mini", "run: mini\nlearning_rate: 0.1", r"No notebook of mini.yaml has a parameter 'learning_rate'"),
    ("rows.csv", "gone.csv", r"01_extract of mini.yaml reads gone.csv, which does not exist: check the path"),
    ("some/model", "./model", r"01_extract of mini.yaml reads model, which does not exist"),
    ("rlaif_v: rows.csv\n", "", r"reads outputs/mini/data/rlaif_v/train.parquet, which 00_tiny_world makes"),
    ("02_mask:\n", "03_perturb: {}\n02_mask:\n  boxes: all\n", r"'boxes' .* is 'all': input should be 'union'"),
    ("run: mini", "run: mini\nrun: twice", r"not valid YAML in line 2: 'run' stands twice"),
    ("run: mini", "run: [mini", r"not valid YAML in line \d+"),
    ("01_extract:\n  n_rows: 3\n", "01_extract: 3\nx:\n", r"Unknown key 'x'"),
])
def test_a_fault_is_one_sentence(here, old, new, message):
    assert old in PARAMS
    with pytest.raises(UserError, match=message) as error:
        load(PARAMS.replace(old, new, 1))
    assert "\n" not in str(error.value)


def test_yaml_reads_1e_5_as_text_and_the_message_says_so(here):
    with pytest.raises(UserError, match=r"YAML reads 1e-5 as text.*1\.0e-5"):
        load("run: x\n04_sft:\n  learning_rate: 1e-5\n  model: a/b\n")


@pytest.mark.parametrize(("text", "message"), [
    ("", "is empty"), ("# only a comment", "is empty"), ("- a\n- b", "is a YAML list"), ("run: x", "no section"),
    ("run: x\n02_mask: 3", r"Section 02_mask of mini.yaml is 3, not keys with values"),
])
def test_a_file_without_sense(here, text, message):
    with pytest.raises(UserError, match=message):
        load(text)


def test_a_missing_file_names_one_like_it(here):
    (here / "tiny.yaml").write_text("")
    with pytest.raises(UserError, match=r"tinny.yaml does not exist; did you mean 'tiny.yaml'\?"):
        params_file.load("tinny.yaml")


def test_a_binary_file(here):
    (here / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid YAML"):
        params_file.load("x.yaml")


def test_an_earlier_notebook_makes_what_a_later_one_reads(here):
    load(PARAMS + "03_perturb: {}\n04_sft:\n  model: a/b\n05_simpo: {}\n")
    with pytest.raises(UserError, match=r"04_sft .*/sft\.jsonl, which 03_perturb makes: add that section before it"):
        load(PARAMS + "04_sft:\n  model: a/b\n")


def test_what_is_there_need_not_be_made(here):
    RunPaths("mini")["perturbed/sft.jsonl"].parent.mkdir(parents=True)
    RunPaths("mini")["perturbed/sft.jsonl"].write_text("{}")
    load("run: mini\n04_sft:\n  model: a/b\n")


def test_models_that_notebook_00_trains_need_not_be_there_yet(here):
    text = "run: w\n00_tiny_world:\n  models: a/b/c\n  train: [keyword_lm]\n01_extract:\n  keyword_model: a/b/c/{}\n"
    load(text.format("keyword_lm"))
    with pytest.raises(UserError, match="01_extract .* a/b/c/sam"):
        load(text.format("sam"))


def test_hub_ids_and_folders(here):
    (here / "assets" / "vlm").mkdir(parents=True)
    assert params.is_hub_id("Qwen/Qwen2-VL-7B-Instruct")
    for folder in ("assets/vlm", "assets/gone", "./vlm", "/a/b", "assets/tiny_world/vlm", "vlm"):
        assert not params.is_hub_id(folder), folder


def test_defaults_are_valid_and_have_a_description():
    for model in params.NOTEBOOKS.values():
        model(**{key: field.default for key, field in model.model_fields.items()})
        assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize("name", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "params").rglob("*.yaml")))
def test_the_files_of_the_project_are_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert params_file.load(name)


@pytest.mark.parametrize("page", ["README.md", "params/README.md"])
def test_the_examples_of_the_documentation_are_valid(here, page):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        for path in re.findall(r": (data/\w+)", block):  # the files that a reader would have
            (here / path).mkdir(parents=True, exist_ok=True)
        for name in ("keyword_lm", "grounding_dino", "sam", "vlm"):
            (here / "assets" / "tiny_world" / name).mkdir(parents=True, exist_ok=True)
        wanted = [name for name in params.NOTEBOOKS if f"\n{name}:" in block]
        assert list(load(block)) == wanted


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.none() | st.integers() | st.text(max_size=5), min_size=1))
def test_no_section_can_raise_anything_but_a_sentence(values):
    try:
        params.build("02_mask", values, where="a test")
    except UserError as error:
        assert str(error)


def test_command_line(here):
    (here / "bad.yaml").write_text(PARAMS.replace("n_rows", "n_row"))
    command = [sys.executable, "-m", "csp_utils.base.params", "check", "bad.yaml"]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1 and "did you mean 'n_rows'?" in run.stderr
