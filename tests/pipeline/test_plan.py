"""Test the plan: its arithmetic, the problems of a machine that it reports, and that it changes nothing."""

import importlib.util
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from csp_utils.base.errors import UserError
from csp_utils.base.run import RunPaths
from csp_utils.pipeline import gpus, graph, params_file, plan
from csp_utils.pipeline import run as pipeline
from csp_utils.results import cost
from csp_utils.stages import stages
from csp_utils.stages.evaluate import Eval
from csp_utils.stages.extract import Extract
from csp_utils.stages.mask import Mask
from csp_utils.stages.perturb import Perturb
from csp_utils.stages.sft import Sft

QWEN = {"billions": {"language": 7.62, "vision": 0.68}, "tokens": {"language": 391, "vision": 1564}, "shared": True}


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CSP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(gpus, "installed", lambda: [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, find=importlib.util.find_spec:
                        find("json") if name == "deepspeed" else find(name))  # fmt: skip
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(10e12))


def jobs_of(path: str) -> list[plan.Job]:
    return plan.jobs(graph.steps(path), params_file.sources(path))


def lacks(path: str, **options) -> list[str]:
    return list(plan.lacks(jobs_of(path), params_file.sources(path), **options))


def test_rows_reach_the_trainings_of_every_branch():
    jobs = {job.step.title: job.cost for job in jobs_of("params/paper/all.yaml")}
    assert jobs["01_extract"].work == "83,132 rows" and jobs["03_perturb"].work == "83,132 images"
    update = 83132 // jobs_update("params/paper/all.yaml") + 1
    assert all(f"{update:,} updates" in work.work for title, work in jobs.items() if title.endswith("04_sft"))
    assert all(work.gpu_hours is not None for work in jobs.values())
    assert jobs["internvl2_8b.0 04_sft"].gpu_hours > 4 * jobs["qwen2_vl_7b.0 04_sft"].gpu_hours  # 3,328 image tokens


def jobs_update(path: str) -> int:
    p = next(job.p for job in jobs_of(path) if job.step.name == "04_sft")
    return p.batch_size * p.gradient_accumulation_steps * p.processes


def cost_of(name: str, rows: int, p) -> cost.Cost:
    """Return the cost of a stage whose inputs have ``rows`` rows each, with models of known size."""
    paths = RunPaths("r")
    made = ("data/rlaif_v/train.parquet", "keywords.parquet", "masks.parquet", "perturbed/sft.jsonl")
    facts = {Mask().grounding_dino: {"teraflops": 0.5}, Mask().sam: {"teraflops": 3.0},
             Extract().keyword_model: QWEN, Sft().model: QWEN}  # fmt: skip
    return stages[name].cost(p, paths, cost.Known(facts, {str(paths[one]): rows for one in made}))


@pytest.mark.parametrize("estimate", [
    lambda n: cost_of("01_extract", n, Extract(n_rows=None)),
    lambda n: cost_of("02_mask", n, Mask()),
    lambda n: cost_of("03_perturb", n, Perturb()),
    lambda n: cost_of("04_sft", n, Sft(n_rows=None)),
    lambda n: cost.train(n, QWEN, Sft(n_rows=None), 1),
    lambda n: cost.ask(cost.Asked(n, 3 * n), QWEN, Eval(), 3, "questions"),
])
def test_twice_the_rows_take_twice_as_much(estimate):
    one, two = estimate(1000), estimate(2000)
    for name in ("gpu_hours", "cpu_hours"):
        assert getattr(two, name) == pytest.approx(2 * getattr(one, name))
    assert two.gpu_memory == one.gpu_memory


def test_a_training_step_counts_eight_operations_a_weight_and_token():
    p = Sft(n_rows=None, torch_dtype="bfloat16")
    plain = {"billions": {"language": 1.0, "vision": 0.0}, "tokens": {"language": 100, "vision": 0}}
    hours = cost.train(1000, plain, p, 1).gpu_hours
    assert hours == pytest.approx(1000 * 8 * 1e9 * 300 / (312e12 * cost.TRAINING_SHARE) / 3600)
    assert cost.train(1000, plain, p, 2).gpu_hours == pytest.approx(2 * hours)  # SimPO reads two answers
    lora = cost.train(1000, plain, p.model_copy(update={"tuner_type": "lora"}), 1)
    assert lora.gpu_hours == pytest.approx(0.75 * hours) and lora.gpu_memory < cost.train(1000, plain, p, 1).gpu_memory


# ------------------------------------------------------------------------------ what the asking of a model costs

INTERN = {"billions": {"language": 7.74, "vision": 0.34}, "tokens": {"language": 3328, "vision": 13325}}
BENCHMARKS = {"data/pope": {"questions": 5127, "images": 500}, "data/amber": {"questions": 9292, "images": 1004}}


def own_model(model, **changed) -> tuple[Eval, cost.Cost]:
    """Return notebook 06's parameters in README's example "Measuring your own model", and its cost with ``model``."""
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
                 if "run: my_model" in b)  # fmt: skip
    content = yaml.safe_load(block)
    shared = {key: value for key, value in content.items() if key in Eval.model_fields}
    p = Eval(**shared | content["06_eval"] | changed)
    known = cost.Known(BENCHMARKS | {p.base_model: model})
    return p, stages["06_eval"].cost(p, RunPaths("r"), known)


def test_the_plan_counts_what_the_stage_asks():
    """The numbers of prompts, draws and scored answers are those of the prompts that notebook 06 makes."""
    from csp_utils.asking import evaluation

    p, found = own_model(INTERN)
    asked = [evaluation.plan(p).prompt("x.png", "Is there a dog?", *kind) for kind in evaluation.plan(p).kinds()]
    questions = 5127 + 9292
    assert f", {questions * len(asked):,} prompts" in found.work
    assert f", {questions * sum(len(prompt.seeds) for prompt in asked):,} draws" in found.work
    assert f", {questions * sum(len(prompt.answers) for prompt in asked):,} scored answers" in found.work
    assert (len(asked), sum(len(prompt.seeds) for prompt in asked)) == (13, 40)  # no draw of p_true, nor of a blur


def test_scored_answers_without_shared_prefixes_are_many_times_dearer_and_the_plan_says_so():
    _, dear = own_model(INTERN)
    _, cheap = own_model(INTERN, methods=["greedy", "sampled"])
    assert 10 < dear.gpu_hours / cheap.gpu_hours < 20  # 808 passes beside the 53 of prompts and draws
    assert "methods: expected" in dear.warning and "n_questions" in dear.warning and cheap.warning == ""
    _, greedy = own_model(INTERN, methods=["greedy"])
    _, expected = own_model(INTERN, methods=["greedy", "expected"])
    assert 50 < expected.gpu_hours / greedy.gpu_hours < 65  # 808 beside 13


def test_shared_prefixes_make_scored_answers_cheap_unless_the_plain_engine_is_asked_for():
    _, shared = own_model(QWEN)
    _, without = own_model(QWEN, methods=["greedy", "sampled"])
    assert shared.gpu_hours < 3 * without.gpu_hours and shared.warning == ""
    _, plain = own_model(QWEN, engine="plain")
    assert plain.gpu_hours > 10 * without.gpu_hours and "expected" in plain.warning


def test_a_model_of_unknown_size_is_warned_about_too():
    """README's example names a hub id, whose size and engine nobody knows before it is loaded."""
    _, found = own_model({})
    assert found.gpu_hours is None and "about 16 times as long unless the shared engine" in found.warning


def test_the_plan_prints_the_warning(monkeypatch, tmp_path):
    content = yaml.safe_load(Path("params/paper/internvl2_8b.yaml").read_text())
    content["each"]["06_eval"]["methods"] = ["greedy", "expected"]
    file = tmp_path / "expected.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.setattr(plan, "unreachable", lambda used: [])
    text = plan.written(str(file), jobs_of(str(file)), params_file.sources(str(file)))
    assert "06_eval: methods: expected scores" in text and "times as long" in text


def test_a_blurred_image_is_an_image_of_its_own():
    _, one = own_model(QWEN, methods=["greedy"], prompts=["third_person"], blurs=[])
    _, four = own_model(QWEN, methods=["greedy"], prompts=["third_person"], blurs=[0.5, 1.0, 1.5])
    assert four.gpu_hours > 2 * one.gpu_hours


def test_only_a_model_that_shares_prefixes_is_taken_for_one(tmp_path):
    shutil.copytree("assets/tiny_world/vlm", tmp_path / "vlm")
    assert cost.Known().facts(tmp_path / "vlm", 12544)["shared"]
    config = tmp_path / "vlm/config.json"
    config.write_text(config.read_text().replace('"qwen2_vl"', '"internvl_chat"'))
    assert "shared" not in cost.Known().facts(tmp_path / "vlm", 12544)


def test_the_plan_and_the_shared_engine_mean_the_same_models():
    from csp_utils.models.vlm import shared

    assert shared.SUPPORTED == cost.SHARES_PREFIXES


def test_the_disk_of_the_perturbed_images():
    def disk(**parameters):
        return cost_of("03_perturb", 83132, Perturb(**parameters)).disk

    assert 50 < disk() < 120 and disk(dataset=False) == disk() / 2
    assert disk(images="drawn") == disk(images="drawn", draws_per_row=5) == pytest.approx(14, abs=0.5)  # the originals


def test_the_facts_of_qwen2_vl_are_those_of_its_code():
    from transformers import Qwen2VLConfig
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    facts = params_file.sources("params/paper/qwen2_vl_7b.yaml")[-1].facts
    height, width = smart_resize(480, 640, factor=28)
    assert facts["tokens"] == {"language": height * width // 28**2, "vision": height * width // 14**2}
    text = Qwen2VLConfig().text_config  # defaults of a larger model; the numbers of the 7B are from its card
    assert text.model_type == "qwen2_vl_text"


def test_a_folder_of_ones_own_is_measured_by_its_files():
    from safetensors.torch import load_file

    file = Path("assets/tiny_world/vlm/model.safetensors")
    weights = sum(tensor.numel() for tensor in load_file(file).values())
    assert cost.Known().facts(file.parent)["billions"]["language"] * 1e9 == pytest.approx(weights)
    jobs = {job.step.name: job.cost for job in jobs_of("params/tiny.yaml")}
    assert jobs["04_sft"].weights == pytest.approx(weights) and 0 < jobs["04_sft"].gpu_hours < 0.1


def test_the_tiny_world_lacks_nothing_and_the_paper_lacks_a_gpu():
    assert lacks("params/tiny.yaml") == [] == lacks("params/tiny_claims.yaml")
    (sentence,) = lacks("params/paper/qwen2_vl_7b.yaml")
    assert "No GPU can be used here" in sentence and "8.3 billion weights" in sentence
    assert lacks("params/paper/qwen2_vl_7b.yaml", elsewhere=True) == []


def test_too_few_and_too_small_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(gpus, "installed", lambda: [("0", 24.0)])
    found = lacks("params/paper/qwen2_vl_7b.yaml")
    assert any("04_sft" in sentence and "processes: 1" in sentence for sentence in found)
    single = tmp_path / "single.yaml"
    single.write_text(Path("params/paper/qwen2_vl_7b.yaml").read_text().replace("processes: 4", "processes: 1"))
    found = lacks(str(single))
    small = [sentence for sentence in found if "04_sft takes about" in sentence]
    assert len(small) == 1 and "has 26 GB" in small[0] and "lora" in small[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(gpus, "installed", lambda: [(str(i), 80.0) for i in range(4)])
    assert lacks("params/paper/all.yaml") == []


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = [sentence for sentence in lacks("params/paper/qwen2_vl_7b.yaml") if "deepspeed" in sentence]
    assert len(found) == 1 and "uv pip install --no-build-isolation deepspeed==" in found[0]


def test_a_small_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(60e9))
    found = [sentence for sentence in lacks("params/paper/qwen2_vl_7b.yaml") if "free" in sentence]
    assert len(found) == 1 and "60 GB free" in found[0] and "images: drawn" in found[0]


def test_plan_prints_and_does_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(plan, "unreachable", lambda used: [])
    before = {path for path in Path("outputs").glob("*")}
    assert pipeline.run("params/paper/qwen2_vl_7b.yaml", ["--plan"]) == 0
    said = capsys.readouterr().out
    for words in ("Downloads: 42", "rlaif_v", "CC BY-NC 4.0", "04_sft", "83,132 rows", "lacks: No GPU", "On 4 GPUs"):
        assert words in said
    assert {path for path in Path("outputs").glob("*")} == before and not (tmp_path / "cache").exists()


def test_a_run_that_cannot_end_well_does_not_begin(monkeypatch, tmp_path):
    fetched, started = [], []
    monkeypatch.setattr(pipeline, "fetch", lambda source: fetched.append(source.name))
    monkeypatch.setattr(pipeline, "snakemake", lambda *arguments: started.append(arguments) or 0)
    with pytest.raises(UserError, match="--anyway starts all the same.*\n.*No GPU"):
        pipeline.run("params/paper/qwen2_vl_7b.yaml", [])
    assert not fetched and not started and not (tmp_path / "cache").exists()
    assert pipeline.run("params/paper/qwen2_vl_7b.yaml", ["-n"]) == 0 and not fetched  # a dry run fetches nothing
    assert started and os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_server_that_does_not_answer_is_named_once(monkeypatch):
    """The message lists the sources of the server. A hub that is offline by a variable gives another message."""
    import requests

    def refuse(address, **_):
        raise requests.ConnectionError("long", request=requests.Request("HEAD", address).prepare())

    monkeypatch.setattr(requests, "head", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = list(plan.unreachable(params_file.sources("params/paper/qwen2_vl_7b.yaml")))
    assert len(found) == 6 and sum("HF_HUB_OFFLINE is set" in sentence for sentence in found) == 4
    assert found[-2].startswith("raw.githubusercontent.com cannot be reached, from which pope, grounding_dino_swin_t "
                                "would be fetched")  # fmt: skip
    assert "pope: {path: FOLDER}, grounding_dino_swin_t: {path: FOLDER}" in found[-2]
    assert found[-1].startswith("dl.fbaipublicfiles.com cannot be reached, from which sam_vit_h")


def test_a_run_asks_all_servers_before_it_fetches(monkeypatch):
    fetched = []
    monkeypatch.setattr(pipeline, "fetch", lambda source: fetched.append(source.name))
    monkeypatch.setattr(plan, "unreachable", lambda used: [f"{source.name} is gone." for source in used])
    with pytest.raises(UserError, match=r"(?s)^rlaif_v is gone.*qwen2_vl_7b is gone.$") as error:
        pipeline.run("params/paper/qwen2_vl_7b.yaml", ["--anyway"])
    assert str(error.value).count("\n") == 6 and not fetched


def test_the_least_hours_are_all_work_spread_evenly_or_the_longest_chain():
    todo = jobs_of("params/paper/internvl2_8b.yaml")
    total = sum(job.cost.gpu_hours or 0 for job in todo)
    least = [plan.hours(todo, cards) for cards in (1, 2, 4, 8, 64)]
    assert least[0] == pytest.approx(total) and least == sorted(least, reverse=True)
    by_name = {job.step.name: job.cost.gpu_hours for job in todo}
    trainings = (by_name["04_sft"] + by_name["05_simpo"]) / 4  # in four processes for any number of GPUs
    chain = by_name["01_extract"] / 4 + by_name["02_mask"] / 8 + trainings
    assert least[-1] == pytest.approx(chain + max(by_name["06_eval"] / 4, by_name["08_stress"]))  # in parallel


def test_what_a_training_that_can_resume_takes_and_who_reads_its_images():
    """Two checkpoints for a moment, each with weights (2 bytes) and DeepSpeed's state in float32 (12 bytes)."""
    p = Sft(n_rows=None, torch_dtype="bfloat16", deepspeed="zero2", processes=4, save_steps=200, dataloader_workers=4)
    found, known = cost_of("04_sft", 1000, p), QWEN["billions"]
    whole = 2 * (known["language"] + known["vision"]) + 12 * known["language"]
    assert found.scratch == pytest.approx(2 * whole) and cost_of("04_sft", 1000, Sft(n_rows=None)).scratch == 0
    assert "16 processes read images" in found.work and "read images" not in cost_of("04_sft", 1000, Sft()).work
    without = cost_of("04_sft", 1000, p.model_copy(update={"deepspeed": None})).scratch
    assert without == pytest.approx(2 * (whole - 8 * known["language"]))
    assert "100 rows held out" in cost_of("04_sft", 1000, Sft(n_rows=None, eval_share=0.1)).work
    shown = plan.written("x", jobs_of("params/paper/qwen2_vl_7b.yaml"), [])
    assert "its checkpoints (save_steps) take up to 216 GB more" in shown
