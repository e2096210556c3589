"""Stage 06: ask every variant about POPE and AMBER, and measure its answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from csp_utils.base.params import SHARDS, Compared, Named, Normalizing, Protocol, Resampling, with_parameters
from csp_utils.base.run import RunPaths
from csp_utils.models.vlm.variants import ENGINE_LIBRARIES, checkpoints_of
from csp_utils.results.cost import Cost, Known, ask
from csp_utils.results.stage import ComputeShard, Inputs, Job, Stage

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Eval(Compared, Resampling, Protocol, Normalizing, Named):
    """Parameters of notebook 06."""

    variants: list[Literal["base", "sft", "csp"]] = Field(
        ["base", "sft", "csp"], min_length=1, description="what to evaluate"
    )
    pope: str | None = Field(None, description="folder of coco_pope_*.json and images/; null for the run's own")
    amber: str | None = Field(None, description="folder of query_*, annotations.json, images/; null for the run's own")
    benchmarks: list[Literal["pope", "amber"]] = Field(["pope", "amber"], description="what is asked; pope always is")
    n_questions: int | None = Field(24, ge=1, description="first questions of each split; null for all")
    prompts: list[Literal["third_person", "first_person", "few_shot", "answer_then_confidence", "p_true"]] = Field(
        ["third_person"], description="ways to ask for a confidence; third_person is asked greedily in any case"
    )
    methods: list[Literal["greedy", "expected", "sampled"]] = Field(
        ["greedy"], min_length=1, description="ways to read it: the reply, its exact distribution, draws from it"
    )
    answer_rule: Literal["benchmark", "pope", "amber", "stated"] = Field(
        "benchmark", description="how plain answers are read: by each benchmark's own scoring code, or as stated"
    )
    n_samples: int = Field(5, ge=1, description="draws a prompt, for sampled")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the draws")
    blurs: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        [], description="blurs (sigma, % of the shorter side) under which the plain question is asked again"
    )
    engine: Literal["auto", "shared", "plain", "vllm"] = Field(
        "auto", description="shared computes once what prompts have in common; auto: where it can ask the model; "
        "vllm: on a GPU, compared with plain on 50 questions"
    )  # fmt: skip
    shards: int = Field(1, ge=1, description=SHARDS)

    @field_validator("benchmarks")
    @classmethod
    def _pope_is_asked(cls, benchmarks: list[str]) -> list[str]:
        if "pope" not in benchmarks:
            raise ValueError("pope has to be among them: the figures show its questions")
        return benchmarks


def reads(p: Eval, paths: RunPaths) -> Inputs:
    """Return the benchmarks and the variants' models."""
    amber: Inputs = {"amber": Path(p.amber or paths["data/amber"])} if "amber" in p.benchmarks else {}
    models = {"base_model" if name == "base" else f"checkpoint of {name}": model
              for name, model in checkpoints_of(p, paths).items()}  # fmt: skip
    return {"pope": Path(p.pope or paths["data/pope"])} | amber | models


def cost(p: Eval, paths: RunPaths, known: Known) -> Cost:
    """Count the questions, their prompts, draws and scored answers."""
    from csp_utils.asking.evaluation import plan

    pope = known.facts(p.pope or str(paths["data/pope"]))
    images = pope.get("images") or known.of(p.pope or paths["data/pope"])
    questions, splits = pope.get("questions", 18 * images), 3
    if "amber" in p.benchmarks:
        amber = known.facts(p.amber or str(paths["data/amber"]))
        more = amber.get("images") or known.of(p.amber or paths["data/amber"])
        questions, splits = questions + amber.get("questions", 18 * more), 5
        images += more
    if p.n_questions:
        questions = min(questions, splits * p.n_questions)
    model, what = known.facts(p.base_model, p.max_pixels), f"{questions:,} questions at most"
    return ask(plan(p).asked(images, questions), model, p, len(p.variants), what)


def schema() -> "pa.Schema":
    """Return the columns of the replies."""
    from csp_utils.asking.evaluation import SCHEMA

    return SCHEMA


def open_shard(job: Job[Eval]) -> ComputeShard:
    """Read the questions, and return the function that asks the prompts of a shard."""
    from functools import partial

    from csp_utils.asking.evaluation import ask, questions

    asking_about, models = questions(job.p, job.paths), checkpoints_of(job.p, job.paths)
    progress = partial(job.progress, unit="batch")
    return lambda shard, folder: ask(job.p, models, asking_about, job.paths["elicited"], progress, shard)


def compute(job: Job[Eval]) -> None:
    """Ask the questions, and write the tables of answers and of measures."""
    from csp_utils.asking.evaluation import answer_tables, questions
    from csp_utils.asking.readings import answer_rules, readings
    from csp_utils.asking.variants import write_settings_of_shards
    from csp_utils.base.files import write_parquet
    from csp_utils.results.shards import gather

    p = job.p
    replies = gather(job, job.out).to_pandas()
    if p.shards > 1:
        write_settings_of_shards(job.paths["elicited"], p.shards)
    responses, elicitations = answer_tables(replies, questions(p, job.paths), p)
    found = {"responses": responses, "elicitations": elicitations, "readings": readings(responses),
             "answer_rules": answer_rules(responses)} | measure(responses, elicitations, p)  # fmt: skip
    for name, table in found.items():
        write_parquet(with_parameters(table, p), job.out / f"{name}.parquet")


def measure(responses: "pd.DataFrame", elicitations: "pd.DataFrame", p: Eval) -> dict[str, "pd.DataFrame"]:
    """Return name -> table of measures."""
    from csp_utils.measures.methods import confidences_by_method
    from csp_utils.measures.metrics import Protocol, compute, compute_measures, compute_methods, risk_coverage_table

    protocol = Protocol(p.ties, p.ece_edges, p.n_bins, p.positive, p.seed)
    metrics, plain, differences = compute(responses, protocol, p.n_bootstrap)
    measures, measure_differences = compute_measures(responses, protocol, p.n_bootstrap)
    scored = confidences_by_method(responses, elicitations, p.seed)
    found, method_differences = compute_methods(scored, protocol, p.n_bootstrap)
    return {"metrics": metrics, "metrics_plain": plain, "differences": differences, "measures": measures,
            "measure_differences": measure_differences, "risk_coverage": risk_coverage_table(responses, protocol),
            "methods": found, "method_differences": method_differences}  # fmt: skip


STAGE = Stage(
    "06_eval", Eval, compute, reads=reads, open_shard=open_shard, schema=schema, gpu=True, cost=cost,
    libraries=ENGINE_LIBRARIES,
    makes=tuple(f"{name}.parquet" for name in (
        "responses", "elicitations", "metrics", "metrics_plain", "differences", "measures", "measure_differences",
        "risk_coverage", "methods", "method_differences", "readings", "answer_rules")),
)  # fmt: skip
