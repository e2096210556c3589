"""Test that code which comes with a model's weights runs only if it is known or allowed, and is refused before that."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image
from small_families import FAMILIES, make
from stage_tools import job_of, run_stage

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_jsonl
from csp_utils.base.run import RunPaths
from csp_utils.data import sources
from csp_utils.models import families, remote_code
from csp_utils.models.vlm import load as vlm
from csp_utils.noise.training_rows import training_rows
from csp_utils.results.origin import source_digest
from csp_utils.stages.evaluate import Eval
from csp_utils.stages.sft import Sft
from csp_utils.training import command

TINY = ROOT / "assets" / "tiny_world" / "vlm"
REFUSED = "comes with Python code of its own .* read the code, then set trust_remote_code: true"
MARK = "from pathlib import Path\nPath({mark!r}).touch()\n"


def tiny(folder: Path, mark: Path, file: str = "config.json", key: str = "AutoConfig") -> Path:
    """Copy the tiny model and let one of its configurations name code that leaves ``mark`` when it runs."""
    shutil.copytree(TINY, folder)
    path = folder / file
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | {"auto_map": {key: "evil.Evil"}}))
    (folder / "evil.py").write_text(MARK.format(mark=str(mark)))
    return folder


@pytest.mark.parametrize("file, key", [
    ("config.json", "AutoConfig"), ("config.json", "AutoModelForCausalLM"), ("tokenizer_config.json", "AutoTokenizer"),
    ("preprocessor_config.json", "AutoImageProcessor"), ("processor_config.json", "AutoProcessor"),
    ("video_preprocessor_config.json", "AutoVideoProcessor"), ("config.4.0.0.json", "AutoConfig"),
])  # fmt: skip
@pytest.mark.parametrize("model_type", ["qwen2_vl", None])
def test_unknown_code_is_refused_before_it_runs(tmp_path: Path, file: str, key: str, model_type: str | None) -> None:
    """Formerly, ms-swift ran it without a word (default_trust_remote_code = True)."""
    folder = tiny(tmp_path / "m", tmp_path / "ran", file, key)
    with pytest.raises(UserError, match=REFUSED) as error:
        vlm.load_vlm(vlm.ModelChoice(str(folder), model_type, model_type, 12544))
    assert f"auto_map in {file}" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_function_that_would_replace_generate_is_refused(tmp_path: Path) -> None:
    """transformers loads it from a folder without any auto_map."""
    folder = shutil.copytree(TINY, tmp_path / "m")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(MARK.format(mark=str(tmp_path / "ran")))
    with pytest.raises(UserError, match="the folder custom_generate"):
        vlm.load_vlm(vlm.ModelChoice(str(folder), "qwen2_vl", "qwen2_vl", 12544))
    assert not (tmp_path / "ran").exists()


def test_the_base_model_of_an_adapter_is_looked_at(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base", tmp_path / "ran")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    with pytest.raises(UserError, match=f"^{base} {REFUSED}"):
        remote_code.check(str(tmp_path / "adapter"))
    remote_code.check(str(tmp_path / "adapter"), None, True)


def test_a_training_is_refused_before_ms_swift_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    paths = RunPaths("r", tmp_path / "out")
    Image.new("RGB", (112, 112)).save(tmp_path / "a.png")
    write_jsonl([training_rows("Is it?", "Yes", 90, str(tmp_path / "a.png"))[0]], paths["perturbed/sft.jsonl"])
    folder = tiny(tmp_path / "m", tmp_path / "ran")
    p = Sft(model=str(folder), device="cpu")
    with pytest.raises(UserError, match=REFUSED):
        run_stage(p, paths)
    assert not (tmp_path / "ran").exists() and not paths["sft"].exists()
    assert any("trust_remote_code" in sentence for sentence in families.problems_of([p, Eval(base_model=str(folder))]))
    assert families.problems_of([Sft(model=str(folder), trust_remote_code=True)]) == []


def test_models_without_code_pass(tmp_path: Path) -> None:
    for model in sorted((ROOT / "assets" / "tiny_world").iterdir()):
        if model.is_dir():
            remote_code.check(str(model))
    (tmp_path / "config.json").write_text("no JSON")
    (tmp_path / "vocab.json").write_text(json.dumps({"auto_map": 7}))  # a word of a vocabulary
    remote_code.check(str(tmp_path))
    remote_code.check(str(tmp_path / "missing"))  # what loads it says so


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a cache that holds the catalogue's InternVL2, a small one; return its folder."""
    monkeypatch.setenv("CSP_CACHE", str(tmp_path / "cache"))
    folder = make("internvl_chat", tmp_path / "cache" / "internvl2_8b")
    parts = sources.catalogue()["internvl2_8b"].parts
    files = {"config.json": (folder / "config.json").stat().st_size}
    (folder / sources.RECORD).write_text(json.dumps({"asked": parts, "parts": parts, "files": files}))
    return folder


def test_a_model_of_the_catalogue_runs_its_code(catalogue: Path) -> None:
    remote_code.check(str(catalogue))
    vlm.load_vlm(vlm.ModelChoice(str(catalogue), "internvl_chat", FAMILIES["internvl_chat"], 12544))
    (catalogue / sources.RECORD).unlink()  # then it was not fetched
    with pytest.raises(UserError, match=REFUSED):
        remote_code.check(str(catalogue))


def test_a_checkpoint_of_it_runs_the_same_code_and_no_other(catalogue: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(catalogue, tmp_path / "checkpoint")
    (checkpoint / sources.RECORD).unlink()
    remote_code.check(str(checkpoint))
    code = next(checkpoint.glob("*.py"))
    code.write_text(code.read_text() + "\n# changed\n")
    with pytest.raises(UserError, match=REFUSED):
        remote_code.check(str(checkpoint))
    shutil.copy(catalogue / code.name, code)
    (checkpoint / "sub").mkdir()
    (checkpoint / "sub" / "more.py").write_text("1\n")
    with pytest.raises(UserError, match=REFUSED):
        remote_code.check(str(checkpoint))


def test_code_of_another_repository_is_not_that_of_the_catalogue(catalogue: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(catalogue, tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"]["AutoConfig"] = "evil/code--modeling_internvl_chat.InternVLChatConfig"
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=REFUSED):
        remote_code.check(str(checkpoint))


# ------------------------------------------------------------------------------------------------------------- the hub


PART = next(part for part in sources.catalogue()["internvl2_8b"].parts if part.get("repo"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a cache of the hub with the catalogue's InternVL2 in its revision, and another commit of it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CSP_CACHE", str(tmp_path / "none"))
    store = tmp_path / "hub" / f"models--{PART['repo'].replace('/', '--')}"
    for commit in (PART["revision"], "f" * 40):
        folder = store / "snapshots" / commit
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "code.Config"}}))
        (folder / "code.py").write_text(f"# of {commit}\n")
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text("f" * 40)
    fetched = []

    def snapshot(model: str, revision: str | None = None, **_: object) -> str:
        if model != PART["repo"]:
            raise OSError("no network here")
        fetched.append(revision)
        return str(store / "snapshots" / (revision or "f" * 40))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return store


def test_a_hub_id_is_known_in_the_catalogues_revision_alone(hub: Path) -> None:
    assert remote_code.check(PART["repo"], PART["revision"]) == PART["revision"]
    for revision in (None, "f" * 40):
        with pytest.raises(UserError, match=f"^{PART['repo']} {REFUSED}"):
            remote_code.check(PART["repo"], revision)
    assert remote_code.check(PART["repo"], None, True) is None
    with pytest.raises(UserError, match=r"^some/model in revision v1 cannot be looked at .*\(no network here\)"):
        remote_code.check("some/model", "v1")


def test_what_was_looked_at_is_what_ms_swift_loads(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def load(*_: object, **named: object) -> None:
        asked.update(named)
        raise OSError("enough")

    monkeypatch.setattr("swift.model.get_model_processor", load)
    (hub / "snapshots" / ("f" * 40) / "config.json").write_text("{}")
    with pytest.raises(UserError, match="enough"):
        vlm.load_vlm(vlm.ModelChoice(PART["repo"], "internvl_chat", "internvl2", 12544))
    assert asked["revision"] == "f" * 40


def test_a_revision_reaches_ms_swift_and_the_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = command.command(Sft(model="org/model", revision="v1"), "org/model", "d", "o")
    assert words[words.index("--model_revision") + 1] == "v1"
    assert "--model_revision" not in command.command(Sft(revision="v1"), str(TINY), "d", "o")
    assert source_digest("org/model", "a" * 40) == f"org/model@{'a' * 40}" != source_digest("org/model", "b" * 40)
    monkeypatch.chdir(ROOT)
    paths = RunPaths("r", tmp_path)
    one, other = (job_of(Sft(model="org/model", revision=c * 40), paths).origin for c in "ab")
    assert one.inputs["model"] == f"org/model@{'a' * 40}" and one.differences(other)


def test_what_changes_no_result_is_in_no_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    paths = RunPaths("r", tmp_path)
    origin = job_of(Sft(), paths).origin
    for more in ({"report_to": "tensorboard"}, {"dataloader_workers": 2}, {"save_steps": 5},
                 {"trust_remote_code": True}):  # fmt: skip
        assert job_of(Sft(**more), paths).origin == origin
    assert job_of(Sft(eval_share=0.1), paths).origin.differences(origin)
