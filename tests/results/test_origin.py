"""The record of what a result was made from: what is in it, and what it says has changed."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import ROOT

from csp_utils.results import origin as module
from csp_utils.results.digest import digest
from csp_utils.results.origin import (
    Origin,
    code_and_libraries,
    hub_commit,
    plain,
    read_record,
    source_digest,
    write_record,
)

FIRST = Origin("02_mask", {"n": 1, "boxes": "union", "levels": [1, 2]}, {"rlaif_v": "a1", "sam": "b2"},
               {"csp_utils.models.masks": "c3"}, {"torch": "2.11.0", "python": "3.11"})  # fmt: skip


@pytest.fixture
def versions(monkeypatch):
    """Versions of libraries that a test can change."""
    changed, real = {}, module._version
    monkeypatch.setattr(module, "_version", lambda name: changed.get(name, real(name)))
    return changed


def test_a_record_comes_back_as_it_was_written(tmp_path):
    write_record(tmp_path / "x.json", FIRST, made="today", results={"a": "b"})
    assert read_record(tmp_path / "x.json") == (FIRST, {"key": FIRST.key, "made": "today", "results": {"a": "b"}})
    assert FIRST.differences(read_record(tmp_path / "x.json")[0]) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"origin": 3}', '{"origin": {"key": 1}}', "\udcff"])
def test_what_is_no_record_is_none(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text.encode(errors="surrogateescape"))
    assert read_record(tmp_path / "x.json") is None and read_record(tmp_path / "gone.json") is None


def test_the_key_is_the_same_for_the_same_origin_alone():
    other_order = Origin("02_mask", dict(reversed(FIRST.parameters.items())), dict(reversed(FIRST.inputs.items())),
                         FIRST.code, FIRST.libraries)  # fmt: skip
    assert other_order.key == FIRST.key and len(FIRST.key) == 16
    keys = {replace(FIRST, **{name: value}).key for name, value in (
        ("what", "x"), ("parameters", {"n": 2}), ("inputs", {"rlaif_v": "a2"}), ("code", {}), ("libraries", {}))}
    assert len(keys | {FIRST.key}) == 6


@pytest.mark.parametrize(("part", "value", "said"), [
    ("parameters", FIRST.parameters | {"n": 2}, ["n was 1 and is 2"]),
    ("parameters", FIRST.parameters | {"boxes": "x" * 60}, ["boxes changed"]),
    ("parameters", FIRST.parameters | {"more": 5}, ["more was None and is 5"]),
    ("parameters", {"n": 1, "levels": [1, 2]}, ["boxes was 'union' and is None"]),
    ("parameters", FIRST.parameters | {"levels": [2, 1], "n": 3}, ["levels was [1, 2] and is [2, 1]",
                                                                   "n was 1 and is 3"]),
    ("inputs", {"rlaif_v": "a1", "sam": "b3"}, ["sam changed"]),
    ("inputs", {"rlaif_v": "a1"}, ["sam changed"]),
    ("code", {"csp_utils.models.masks": "c4", "plugin.py": "d"}, ["the code of models.masks changed",
                                                                 "the code of plugin.py changed"]),
    ("libraries", {"torch": "2.12.0", "python": "3.11"}, ["torch was 2.11.0 and is 2.12.0"]),
    ("what", "03_perturb", ["it is a result of something else"]),
])  # fmt: skip
def test_it_says_what_differs(part, value, said):
    now = replace(FIRST, **{part: value})
    assert FIRST.differences(now) == said and now.differences(FIRST) != [] and now.differences(now) == []


def test_an_origin_of_a_part_has_another_name_and_further_parameters():
    part = FIRST.but("02_mask, shard 1of2", shard="1of2", folder=Path("a"))
    assert part.parameters == FIRST.parameters | {"shard": "1of2", "folder": "a"} and part.inputs == FIRST.inputs
    assert FIRST.differences(part) == ["folder was None and is 'a'", "shard was None and is '1of2'"]
    assert FIRST.parameters == {"n": 1, "boxes": "union", "levels": [1, 2]}


def test_it_is_plain_json_without_times_or_places():
    values = {"path": Path("a/b"), "tuple": (1, 2), "float": 0.1, "none": None}
    assert plain(values) == json.loads(json.dumps(asdict(Origin("x", plain(values)))))["parameters"]
    assert plain(values) == {"path": "a/b", "tuple": [1, 2], "float": 0.1, "none": None}


# ------------------------------------------------------------------------------------------------------------- inputs


def test_a_file_and_a_folder_count_by_their_content(tmp_path):
    (tmp_path / "x").write_text("1")
    assert source_digest(tmp_path / "x") == source_digest(str(tmp_path / "x")) == digest(tmp_path / "x")
    assert source_digest(tmp_path) == digest(tmp_path) != digest(tmp_path / "x")
    assert source_digest(tmp_path / "gone") == source_digest(str(tmp_path / "gone")) == "missing"


def test_a_model_of_the_hub_counts_by_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert source_digest("Qwen/Qwen2-VL-7B") == "Qwen/Qwen2-VL-7B@not fetched"
    for commit in ("abc", "def"):
        reference = tmp_path / "models--Qwen--Qwen2-VL-7B" / "refs" / "main"
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(f"{commit}\n")
        assert hub_commit("Qwen/Qwen2-VL-7B") == commit
        assert source_digest("Qwen/Qwen2-VL-7B") == f"Qwen/Qwen2-VL-7B@{commit}"


# ---------------------------------------------------------------------------------------------------------- libraries


def test_libraries_that_compute_are_recorded_and_others_are_not():
    code, libraries = code_and_libraries(["csp_utils.stages.mask:compute", "csp_utils.stages.mask:open_shard"])
    assert "csp_utils.models.masks" in code
    assert {"torch", "numpy", "segment-anything", "python"} <= set(libraries)
    assert libraries["python"] == "3.11"
    assert not set(libraries) & module.NOT_COMPUTING and not {"matplotlib", "snakemake", "ms-swift"} & set(libraries)


def test_a_library_behind_a_command_line_is_recorded_where_it_is_installed(versions):
    starts = ["csp_utils.stages.sft:compute"]
    assert "deepspeed" not in code_and_libraries(starts, libraries=["deepspeed-that-is-not-installed"])[1]
    assert "ms-swift" not in code_and_libraries(starts)[1]
    versions["ms-swift"] = "9.9"
    assert code_and_libraries(starts, libraries=["ms-swift"])[1]["ms-swift"] == "9.9"


def test_another_version_is_a_difference(versions):
    starts = ["csp_utils.stages.mask:open_shard"]
    before = Origin("x", libraries=code_and_libraries(starts)[1])
    versions["torch"] = "9.9"
    after = Origin("x", libraries=code_and_libraries(starts)[1])
    (said,) = before.differences(after)
    assert said == f"torch was {before.libraries['torch']} and is 9.9"


def test_every_library_that_is_left_out_is_one_of_the_list():
    pinned = {line.split("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert module.NOT_COMPUTING - {"packaging"} <= pinned
