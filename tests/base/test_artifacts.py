"""Files are whole or absent, and a missing one is named with its maker."""

import errno
import json
import os

import pandas as pd
import pytest

from csp_utils.base import files, run
from csp_utils.base.errors import UserError
from csp_utils.base.params import NOTEBOOKS


@pytest.fixture
def paths(tmp_path):
    return run.RunPaths("r", tmp_path)


def test_every_path_lies_in_the_run_folder_once(paths):
    found = [value for name, value in vars(paths).items() if name not in ("run", "root")]
    assert all(paths.root in path.parents for path in found)
    assert len(set(found)) == len(found)


def test_every_notebook_makes_something_and_nothing_has_two_makers(paths):
    assert list(run.MAKES) == list(NOTEBOOKS)
    made = [getattr(paths, attribute) for attributes in run.MAKES.values() for attribute in attributes]
    assert len(set(made)) == len(made)


def test_missing_table_is_named_with_its_notebook(paths):
    with pytest.raises(UserError, match=r"masks\.parquet is missing; run notebook 02_mask .*run_all"):
        files.read_parquet(paths["masks.parquet"])


def test_file_inside_a_made_folder_has_its_maker(paths):
    assert run.maker_of(paths["sft/checkpoint"] / "config.json") == "04_sft"
    assert run.maker_of(paths.root / "other.txt") is None


def test_parquet_comes_back_as_written(paths):
    table = pd.DataFrame({"row_id": ["a", "b"], "boxes": [[[0.0, 1.0, 2.0, 3.0]], []], "keyword": ["x", None]})
    files.write_parquet(table, paths["masks.parquet"])
    back = files.read_parquet(paths["masks.parquet"])
    assert list(back.columns) == list(table.columns)
    assert back.keyword.isna().tolist() == [False, True]
    assert [list(map(list, boxes)) for boxes in back.boxes] == table.boxes.tolist()


def test_a_list_of_rows_is_a_table_too(paths):
    files.write_parquet([{"a": 1}, {"a": 2}], paths["funnel.parquet"])
    assert files.read_parquet(paths["funnel.parquet"], columns=["a"]).a.tolist() == [1, 2]


def test_truncated_parquet_is_one_sentence(paths):
    files.write_parquet([{"a": 1}], paths["funnel.parquet"])
    paths["funnel.parquet"].write_bytes(paths["funnel.parquet"].read_bytes()[:20])
    with pytest.raises(UserError, match="cannot be read as Parquet.*delete it"):
        files.read_parquet(paths["funnel.parquet"])


def test_interrupted_file_leaves_the_old_one_and_nothing_else(paths):
    files.write_text("old", paths["report.html"])
    with pytest.raises(KeyboardInterrupt), files.whole_file(paths["report.html"]) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in paths.root.iterdir()] == ["report.html"]
    assert paths["report.html"].read_text() == "old"


def test_interrupted_folder_leaves_the_old_one_and_nothing_else(paths):
    with files.whole_folder(paths["perturbed/dataset"]) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(ValueError), files.whole_folder(paths["perturbed/dataset"]) as folder:
        (folder / "b").write_text("half")
        raise ValueError
    assert [path.name for path in paths["perturbed"].iterdir()] == ["dataset"]
    assert [path.name for path in paths["perturbed/dataset"].iterdir()] == ["a"]


def test_files_of_a_folder_are_readable_as_the_user_wants(paths):
    with files.whole_folder(paths["sft"]) as temporary:
        (temporary / "model.safetensors").touch(mode=0o600)
    plain = paths.root / "plain"
    plain.touch()
    assert (paths["sft"] / "model.safetensors").stat().st_mode == plain.stat().st_mode


def test_a_new_folder_replaces_the_old_one_whole(paths):
    for name in ("a", "b"):
        with files.whole_folder(paths["perturbed/dataset"]) as folder:
            (folder / name).write_text("x")
    assert [path.name for path in paths["perturbed/dataset"].iterdir()] == ["b"]
    assert [path.name for path in paths["perturbed"].iterdir()] == ["dataset"]


@pytest.mark.parametrize("whole", [files.whole_file, files.whole_folder])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(paths, whole):
    with pytest.raises(UserError, match="The disk is full"), whole(paths.root / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(paths.root.iterdir()) == []


def test_json_lines(paths):
    files.write_jsonl([{"a": "é"}, {"a": 2}], paths["perturbed/sft.jsonl"])
    assert [json.loads(line) for line in paths["perturbed/sft.jsonl"].read_text("utf-8").splitlines()] == [{"a": "é"}, {"a": 2}]


def test_sha256_of_known_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("damage", ["change", "delete"])
def test_a_damaged_checkpoint_is_noticed(tmp_path, damage):
    weights = tmp_path / "vlm" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    files.write_json({"files": files.manifest_files(tmp_path)}, tmp_path / files.MANIFEST)
    files.check_manifest(weights.parent)
    weights.write_bytes(b"other") if damage == "change" else weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is .*restore it"):
        files.check_manifest(weights.parent)


def test_a_manifest_speaks_only_of_its_own_model(tmp_path):
    (tmp_path / "sam").mkdir()
    files.write_json({"files": {"vlm/model.safetensors": "0"}}, tmp_path / files.MANIFEST)
    files.check_manifest(tmp_path / "sam")
