"""A params file is checked completely before anything starts, and each fault is one sentence."""

import os
import re
import subprocess
import sys

import pytest
from conftest import MASKS_PARAMS as PARAMS
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from csp_utils.base.errors import UserError
from csp_utils.base.params import build, is_hub_id
from csp_utils.base.run import RunPaths
from csp_utils.pipeline import params_file
from csp_utils.results.stage import classes
from csp_utils.stages import stages
from csp_utils.stages.claims import Claims
from csp_utils.stages.correlation import Correlation
from csp_utils.stages.evaluate import Eval
from csp_utils.stages.mask import Mask
from csp_utils.stages.perturb import Perturb
from csp_utils.stages.schedule import Schedule
from csp_utils.stages.sft import Sft
from csp_utils.stages.stress import Stress


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
    assert found["03_perturb"].t_max == 5 and found["03_perturb"].gamma == Perturb().gamma


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
    ("01_extract:\n", "x:\n  n_rows: 3\n01_extract:\n",
     r"Unknown key 'x' at the top of mini.yaml; valid are: run, seed, "),
    ("01_extract:\n  n_rows: 3\n  keyword_model: some/model\n", "01_extract: 3\n",
     r"Section 01_extract of mini.yaml is 3, not keys with values; if it has none: \{\}"),
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
    with pytest.raises(UserError, match=r"^The params file tinny.yaml does not exist; see params/README.md.$"):
        params_file.load("tinny.yaml")
    (here / "params" / "paper").mkdir(parents=True)
    (here / "environment.yml").write_text("")  # is none
    for name in ("tiny.yaml", "demo.yml", "paper/all.yaml"):
        (here / "params" / name).write_text("run: x")
    with pytest.raises(UserError, match=r"tinny.yaml does not exist; did you mean 'params/tiny.yaml'\?$"):
        params_file.load("params/tinny.yaml")
    with pytest.raises(UserError, match=r"valid are: params/demo.yml, params/paper/all.yaml, params/tiny.yaml\.$"):
        params_file.load("qqq")


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
    for kind in ("grounding_dino", "sam", "vlm"):  # scored, not trained
        (here / "a" / "b" / "c" / kind).mkdir(parents=True)
    text = "run: w\n00_tiny_world:\n  models: a/b/c\n  train: [keyword_lm]\n01_extract:\n  keyword_model: a/b/c/{}\n"
    load(text.format("keyword_lm"))
    with pytest.raises(UserError, match="01_extract .* a/b/c/sum"):
        load(text.format("sum"))


def test_hub_ids_and_folders(here):
    (here / "assets" / "vlm").mkdir(parents=True)
    assert is_hub_id("Qwen/Qwen2-VL-7B-Instruct")
    for folder in ("assets/vlm", "assets/gone", "./vlm", "/a/b", "assets/tiny_world/vlm", "vlm"):
        assert not is_hub_id(folder), folder


def test_defaults_are_valid_and_have_a_description():
    for model in classes().values():
        model(**{key: field.default for key, field in model.model_fields.items()})
        assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize("name", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "params").rglob("*.yaml")))
def test_the_files_of_the_project_are_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert params_file.load(name)


@pytest.mark.parametrize("page", ["README.md", "params/README.md"])
def test_the_examples_of_the_documentation_are_valid(here, page):
    (here / "assets").symlink_to(ROOT / "assets")  # the models of a clone: a folder that is not there is an error
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        for path in re.findall(r": (data/\w+)", block):  # the files that a reader would have
            (here / path).mkdir(parents=True, exist_ok=True)
        wanted = [name for name in stages if f"\n{name}:" in block]
        assert list(load(block)) == wanted


def test_every_missing_folder_of_the_example_for_an_own_model_is_named(here):
    """README's example names a benchmark's folders and those of GroundingDINO and SAM, which look like hub ids."""
    (here / "assets").symlink_to(ROOT / "assets")
    block = next(block for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
                 if "run: my_model" in block)  # fmt: skip
    named = re.findall(r": (data/\w+)", block)
    assert named == ["data/pope", "data/amber", "data/grounding_dino", "data/sam"]
    found = faults(block)
    assert len(found) == len(named)
    assert all(any(f"reads {path}, which does not exist" in one for one in found) for path in named)


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.none() | st.integers() | st.text(max_size=5), min_size=1))
def test_no_section_can_raise_anything_but_a_sentence(values):
    try:
        build(Mask, values, "a test", classes())
    except UserError as error:
        assert str(error)


def test_command_line(here):
    (here / "bad.yaml").write_text(PARAMS.replace("n_rows", "n_row"))
    command = [sys.executable, "-m", "csp_utils.pipeline.params_file", "check", "bad.yaml"]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1 and "did you mean 'n_rows'?" in run.stderr


# ------------------------------------------------------------------------------------------- all faults in one answer


def faults(text):
    """The sentences about a params file, one a line."""
    with pytest.raises(UserError) as error:
        load(text)
    return str(error.value).splitlines()


def test_all_faults_are_said_at_once(here):
    text = PARAMS.replace("n_rows", "n_row").replace("sam: models/sam", "sam: models/sam\n  boxs: union")
    found = faults(text.replace("run: mini", "run: mini\nseed: -1\nsead: 2"))
    assert len(found) == 4
    assert found[0].startswith("Unknown key 'sead' at the top of mini.yaml; did you mean 'seed'?")
    assert any("'n_row' in section 01_extract of mini.yaml; did you mean 'n_rows'?" in one for one in found)
    assert any("'boxs' in section 02_mask of mini.yaml; did you mean 'boxes'?" in one for one in found)
    assert any("'seed' in the top of mini.yaml is -1" in one for one in found)  # once, though two notebooks take it


def test_faults_of_branches_and_of_the_main_run_are_said_at_once(here):
    found = faults(PARAMS.replace("n_rows: 3", "n_rows: 0") + "branches:\n  a: {02_mask: {boxs: top1}}\n"
                   "  b: {seeds: [1, 2], 01_extract: {batch: 3}}\n")  # fmt: skip
    assert len(found) == 3 and "is 0: " in found[0] and "'boxs'" in found[1] and "'batch'" in found[2]


def test_all_missing_files_are_said_at_once_each_with_its_first_reader(here):
    found = faults(PARAMS.replace("rows.csv", "gone.csv").replace("models/sam", "models/sum"))
    assert [re.sub(r", which .*", "", one) for one in found] == [
        "Notebook 01_extract of mini.yaml reads gone.csv", "Notebook 02_mask of mini.yaml reads models/sum"]


# --------------------------------------------------------------------------------------- what is no file, key or value


@pytest.mark.parametrize(("old", "new", "message"), [
    ("run: mini", "run: {{ name }}", r"mini.yaml is not valid YAML in line 1: a key cannot be a list or a table"),
    ("02_mask:", "{{ stage }}: 3\n02_mask:", r"mini.yaml is not valid YAML in line 6: a key cannot be a list or a tab"),
    ("02_mask:", "[1, 2]: 3\n02_mask:", r"mini.yaml is not valid YAML in line 6: a key cannot be a list or a table"),
    ("01_extract:\n  n_rows: 3\n  keyword_model: some/model", "01_extract: {n_rows: 1,000, keyword_model: some/model}",
     r"Unknown parameter 0 in section 01_extract of mini.yaml; .*[Tt]housands are written without a comma"),
    ("run: mini", "run: mini\nno: 1", r"The key False at the top of mini.yaml is no text; put it in quotes, or remove"),
    ("run: mini", "run: mini\n5: 1", r"The key 5 at the top of mini.yaml is no text; put it in quotes, or remove it"),
    ("run: mini", "run: mini\n~: 1", r"The key None at the top of mini.yaml is no text; put it in quotes, or remove"),
    ("  n_rows: 3", "  no: 3", r"Unknown parameter False in section 01_extract of mini.yaml"),
    ("  n_rows: 3", "  ~: 3", r"Unknown parameter None in section 01_extract of mini.yaml"),
    ("run: mini", f"run: {'x' * 300}", r"Parameter 'run' in the top of mini.yaml is 'x{300}': string should have at m"),
    ("run: mini", "run: mini\ndevice: mps", r"'device' in the top of mini.yaml is 'mps': .*auto, cpu, cuda or cuda:N"),
    ("run: mini", "run: mini\ndevice: gpu", r"'device' in the top of mini.yaml is 'gpu'"),
    ("sam: models/sam", "sam: models/sum", r"02_mask of mini.yaml reads models/sum, which does not exist: check"),
    ("models/dino", "models/dino_typo", r"reads models/dino_typo, which does not exist: check the path"),
    ("models/dino", "organisation/dino", r"reads organisation/dino, which does not exist: check"),  # no hub's model
])
def test_what_looks_like_yaml_or_a_value_and_is_none(here, old, new, message):
    assert old in PARAMS
    with pytest.raises(UserError, match=message) as error:
        load(PARAMS.replace(old, new, 1))
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize(("model", "values", "said"), [
    (Eval, {"variants": []}, "at least 1 item"),
    (Eval, {"variants": ["base", "base"]}, "one stands in it twice"),
    (Eval, {"methods": []}, "at least 1 item"),
    (Eval, {"methods": ["greedy", "sampled", "greedy"]}, "one stands in it twice"),
    (Eval, {"prompts": ["few_shot", "few_shot"]}, "one stands in it twice"),
    (Eval, {"blurs": [0.5, 0.5]}, "one stands in it twice"),
    (Eval, {"benchmarks": ["pope", "pope"]}, "one stands in it twice"),
    (Schedule, {"signals": [1.0, 0.5, 0.5]}, "one stands in it twice"),
    (Claims, {"runs": ["x.a.0", "x.a.0"]}, "one stands in it twice"),
    (Eval, {"n_bins": 102}, "less than or equal to 101"),
    (Claims, {"n_bins": 1000}, "less than or equal to 101"),
    *((model, {"n_bootstrap": n}, "greater than or equal to 40") for model in (Eval, Correlation, Stress, Claims)
      for n in (1, 39)),
    (Eval, {"benchmarks": ["amber"]}, "pope has to be among them"),
    (Eval, {"temperature": float("inf")}, "finite number"),
    (Eval, {"blurs": [float("nan")]}, "greater than 0|finite number"),
    (Stress, {"variants": []}, "at least 1 item"),
    (Stress, {"variants": ["csp", "csp"]}, "one stands in it twice"),
    (Stress, {"levels": [100, 50, 50]}, "one stands in it twice"),
    (Stress, {"regions": ["object", "object"]}, "one stands in it twice"),
    (Perturb, {"levels": [50, 50]}, "one stands in it twice"),
    (Perturb, {"levels": [50], "draws_per_row": 2}, "fewer levels than draws_per_row, 2"),
    (Sft, {"learning_rate": float("inf")}, "finite number"),
    (Sft, {"learning_rate": float("nan")}, "greater than 0|finite number"),
    (Sft, {"device": "mps"}, "match pattern"),
    (Sft, {"run": "x" * 300}, "at most 100 characters"),
    (Sft, {"run": "../x"}, "match pattern"),
])
def test_a_value_without_sense_is_one_sentence(model, values, said):
    (key,) = values.keys() - {"draws_per_row"}
    with pytest.raises(UserError, match=f"^Parameter '{key}' in a test is .*(?:{said}).*; {key} is: ") as error:
        build(model, values, "a test", classes())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", [Eval, Stress])
@pytest.mark.parametrize(("values", "name"), [
    ({}, "tiny-qwen2-vl"),
    ({"base_model": "organisation/model"}, "organisation/model"),
    ({"base_model": "/data/models/my_vlm"}, "my_vlm"),
    ({"base_model": "/data/models/my_vlm", "model_name": "tiny-qwen2-vl"}, "my_vlm"),  # as a parameters cell says it
    ({"base_model": "/data/models/my_vlm", "model_name": "mine"}, "mine"),
])
def test_only_the_tiny_model_is_named_as_the_tiny_model(model, values, name):
    assert build(model, values, "a test", classes()).model_name == name


def test_words_of_a_command_may_repeat():
    assert build(Sft, {"extra_args": ["--a", "1", "--b", "1"]}, "a test", classes())


def test_yaml_says_infinity_too(here):
    assert "'learning_rate' in section 04_sft of mini.yaml is inf" in faults(
        "run: x\n04_sft:\n  learning_rate: .inf\n  model: a/b\n")[0]  # fmt: skip


@pytest.mark.parametrize(("section", "valid", "typo"), [
    ("08_stress", "grounding_dino: {assets}/grounding_dino", "grounding_dino: weights/groundingdino_typo"),
    ("08_stress", "sam: {assets}/sam", "sam: weights/sam_typo"),
    ("08_stress", "base_model: {assets}/vlm", "base_model: ./vlm_typo"),
])
def test_a_mistyped_folder_is_refused_before_hours_of_other_notebooks(here, section, valid, typo):
    """Of GroundingDINO and SAM there are folders alone: "a/b" is a path, and no model of the hub."""
    assets = ROOT / "assets" / "tiny_world"
    (here / "data" / "pope").mkdir(parents=True)
    values = {line.split(":")[0]: line for line in (f"grounding_dino: {assets}/grounding_dino", f"sam: {assets}/sam",
                                                    f"base_model: {assets}/vlm")}  # fmt: skip
    head = f"run: x\n{section}:\n  variants: [base]\n  pope: data/pope\n"
    assert list(load(head + "".join(f"  {line}\n" for line in values.values()))) == [section]
    values[typo.split(":")[0]] = typo
    (sentence,) = faults(head + "".join(f"  {line}\n" for line in values.values()))
    assert "_typo, which does not exist: check the path" in sentence
