"""Notebook 06 from its first cell to its last one, on a tiny world: which engine asks its example, if any."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Project

from csp_utils.asking import variants
from csp_utils.base.run import RunPaths
from csp_utils.models.vlm.load import load_vlm
from csp_utils.stages.evaluate import Eval
from csp_utils.tiny_world.world.data import write_world


@pytest.fixture
def notebook(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the code cells with changed parameters and returns the names that they define."""
    for name in ("csp_utils", "assets"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    write_world(RunPaths("mine"), 1, 1, 3, 0)
    cells = json.loads((ROOT / "notebooks" / "06_eval.ipynb").read_text(encoding="utf-8"))["cells"]
    parameters = {"run": "mine", "base_model": str(model_folder), "variants": ["base"], "n_questions": 2,
                  "device": "cpu", "n_bootstrap": 40, "max_new_tokens": 4}  # fmt: skip

    def run(**changed: Any) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "__main__"}
        for cell in cells:
            code = "".join(cell["source"])
            if cell["cell_type"] == "code":
                exec(compile(code, f"06_eval cell {cells.index(cell)}", "exec"), names)
            if re.match(r"run: str", code):
                names.update(parameters | changed)
        return names

    return run


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the engines that models are loaded with, in order."""
    found: list[str] = []
    monkeypatch.setattr(variants, "load_vlm", lambda choice, engine, *more: (
        found.append(engine), load_vlm(choice, engine, *more))[1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["plain", "auto"])
def test_the_example_is_asked_by_the_engine_of_the_parameters(notebook: Callable, loaded: list[str], engine: str,
                                                              capsys: pytest.CaptureFixture) -> None:
    names = notebook(engine=engine)
    assert loaded == [engine, engine]  # for the example, and for all questions
    said = capsys.readouterr().out
    assert f"engine {'plain' if engine == 'plain' else 'shared'}" in said and "internal confidence in Yes:" in said
    row, all_of_them = names["row"], names["responses"]
    of = all_of_them[all_of_them["split"] == row["split"]].set_index(["question", "candidate"])["raw"]
    assert [reply.text for reply in names["replies"][:2]] == [of[row["question"], c] for c in ("Yes", "No")]


@pytest.mark.slow
def test_with_shards_the_notebook_loads_no_model_for_its_example(notebook: Callable, loaded: list[str],
                                                                 capsys: pytest.CaptureFixture) -> None:
    names = notebook(shards=2)
    assert loaded == ["auto"] * 2 and names["replies"] == []  # one a shard, as nothing has asked the shards before
    assert "The example is not asked: the 2 shards load the model" in capsys.readouterr().out
    assert len(names["responses"]) > 0


def test_with_vllm_no_second_model_is_loaded(loaded: list[str]) -> None:
    said: list[str] = []
    assert variants.load_example(Eval(engine="vllm"), "model", said.append) is None
    assert loaded == [] and len(said) == 1 and "vLLM" in said[0]


@pytest.mark.slow
def test_the_pipeline_asks_the_shards_and_the_notebook_combines_them(project: Project, model_folder: Path) -> None:
    (project.folder / "assets").symlink_to(ROOT / "assets")
    (project.folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "06_eval.ipynb", project.folder / "notebooks")
    data = RunPaths("data", project.folder / "outputs")
    write_world(data, 1, 1, 3, 0)
    section = {"base_model": str(model_folder), "variants": ["base"], "pope": str(data["data/pope"]), "device": "cpu",
               "amber": str(data["data/amber"]), "n_questions": 2, "n_bootstrap": 40, "max_new_tokens": 4,
               "batch_size": 8, "shards": 2}  # fmt: skip
    project.params.write_text(yaml.safe_dump({"run": "mini", "06_eval": section}))
    run = project.run("--cores", "2")
    assert run.returncode == 0 and all(f"06_eval shard {i} of 2" in run.stdout for i in (1, 2)), run.stdout
    paths = RunPaths("mini", project.folder / "outputs")
    copy = json.loads((paths.notebooks / "06_eval.ipynb").read_text())
    said = "".join("".join(output.get("text", "")) for cell in copy["cells"] for output in cell.get("outputs", []))
    assert "The example is not asked: the 2 shards" in said and "2 of 2 shards are there" in said
    told = json.loads((paths["elicited"] / "settings.json").read_text())["base"]
    assert list(told["shards"]) == ["1of2", "2of2"] and told["asked_by"]["check"]["largest_difference"] < 1e-3
