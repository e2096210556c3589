"""README's example "Measuring your own model", executed: all prompts and methods, one question a split."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from stage_tools import run_stage

from csp_utils.base.run import RunPaths
from csp_utils.measures.methods import METHODS
from csp_utils.stages.correlation import Correlation
from csp_utils.stages.evaluate import Eval
from csp_utils.stages.report import Report
from csp_utils.tiny_world.world.data import write_world


@pytest.mark.slow
def test_the_example_of_an_own_model_gives_every_method_and_a_page(tmp_path: Path, model_folder: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    block = next(block for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
                 if "run: my_model" in block)  # fmt: skip
    content = yaml.safe_load(block)
    data, paths = RunPaths("data", tmp_path), RunPaths("my_model", tmp_path)
    write_world(data, 1, 1, 3, 0)
    here = {"base_model": str(model_folder), "model_type": "qwen2_vl", "template": "qwen2_vl", "max_pixels": 12544,
            "torch_dtype": "float32", "device": "cpu", "pope": str(data["data/pope"]), "amber": str(data["data/amber"]),
            "n_questions": 1, "n_bootstrap": 40}  # fmt: skip
    shared = {key: value for key, value in content.items() if key in Eval.model_fields}
    run_stage(Eval(**shared | content["06_eval"] | here), paths)
    found = pd.read_parquet(paths["elicitations.parquet"])
    assert found.groupby("prompt")["method"].unique().map(sorted).to_dict() == {
        "answer_then_confidence": ["expected", "greedy", "sampled"], "few_shot": ["expected", "greedy", "sampled"],
        "first_person": ["expected", "greedy", "sampled"], "p_true": ["first_token"], "plain": ["blurred", "sampled"],
        "third_person": ["expected", "greedy", "sampled"]}  # fmt: skip
    assert set(pd.read_parquet(paths["methods.parquet"])["method"]) == set(METHODS)
    assert set(pd.read_parquet(paths["metrics.parquet"])["variant"]) == {"base"}
    run_stage(Correlation(run="my_model", n_bootstrap=40), paths)
    run_stage(Report(run="my_model", **content["09_report"]), paths)
    page = paths["report.html"].read_text()
    assert "<title>My model</title>" in page and "my model" in page and "trained once" not in page
