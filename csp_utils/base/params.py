"""Typed parameters of every notebook.

One pydantic model a notebook. Its fields and defaults are those of the notebook's parameters cell (a test compares
them), so that JupyterLab, papermill and the Snakefile all check the same thing. A params file (``params/*.yaml``) has
one section per notebook; a field at its top level (``run``, ``seed``, ``rlaif_v``, ``device`` ...) reaches every
notebook that has such a field.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from csp_utils.base.errors import UserError, nearest


class Stage(BaseModel):
    """What every notebook has: strict types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    run: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="results go to outputs/<run>")
    seed: int = Field(0, ge=0, description="seed of every random draw")


class TinyWorld(Stage):
    """Notebook 00: draws the tiny world's data; trains and scores its four models."""

    train: list[Literal["keyword_lm", "grounding_dino", "sam", "vlm"]] = Field(
        ["keyword_lm", "grounding_dino", "sam", "vlm"], description="models to train; [] only scores"
    )
    models: str | None = Field(
        None, description="folder of the models, written if trained, then scored; null: outputs/<run>/tiny_world"
    )
    n_train_scenes: int = Field(24, ge=1, description="scenes of the RLAIF-V file")
    rows_per_scene: int = Field(2, ge=1, description="RLAIF-V rows per scene")
    n_test_scenes: int = Field(8, ge=1, description="images of POPE and of AMBER, each")
    n_score_scenes: int = Field(16, ge=1, description="unseen scenes on which the models are scored")
    n_model_scenes: int = Field(48, ge=1, description="scenes that the models are trained on")
    keyword_lm_steps: int = Field(5, ge=1, description="training steps of the keyword model")
    grounding_dino_steps: int = Field(2, ge=1, description="training steps of GroundingDINO")
    sam_steps: int = Field(2, ge=1, description="training steps of SAM")
    vlm_tower_steps: int = Field(5, ge=1, description="training steps of the VLM's vision tower")
    vlm_steps: int = Field(5, ge=1, description="training steps of the VLM")


class Extract(Stage):
    """Notebook 01: the key object of each (question, answer)."""

    rlaif_v: str | None = Field(None, description="RLAIF-V parquet file or folder; null for the run's own data/")
    n_rows: int | None = Field(24, ge=1, description="first rows to use; null for all")
    pope: str | None = Field(
        None, description="POPE's folder: rows that show one of its pictures are left out; null looks at none"
    )
    keyword_model: str = Field("assets/tiny_world/keyword_lm", description="causal LM that answers prompt A.1")
    batch_size: int = Field(32, ge=1, description="prompts a batch")
    max_new_tokens: int = Field(8, ge=1, description="longest keyword, in tokens")
    shards: int = Field(1, ge=1, description="parts of the rows that ./run_all.sh computes beside one another")
    torch_dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")


class Mask(Stage):
    """Notebook 02: GroundingDINO boxes and SAM masks."""

    rlaif_v: str | None = Field(None, description="RLAIF-V parquet file or folder; null for the run's own data/")
    grounding_dino: str = Field("assets/tiny_world/grounding_dino", description="folder: config and checkpoint")
    sam: str = Field("assets/tiny_world/sam", description="folder: config and checkpoint")
    box_threshold: float = Field(0.35, ge=0, le=1, description="lowest score of a box")
    text_threshold: float = Field(0.25, ge=0, le=1, description="lowest score of a phrase's token")
    boxes: Literal["union", "top1"] = Field("union", description="which boxes make the mask")
    max_area_fraction: float = Field(0.6, gt=0, le=1, description="a larger mask drops its row")
    batch_size: int = Field(8, ge=1, description="images a batch")
    shards: int = Field(1, ge=1, description="parts of the rows that ./run_all.sh computes beside one another")
    torch_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="in which SAM's image encoder multiplies; all weights, and GroundingDINO, are float32"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")


class Perturb(Stage):
    """Notebook 03: confidence labels and diffusion noise."""

    rlaif_v: str | None = Field(None, description="RLAIF-V parquet file or folder; null for the run's own data/")
    masks_file: str | None = Field(None, description="masks.parquet of another run; null for the run's own")
    answers: Literal["confidence", "original"] = Field(
        "confidence", description="what is taught: to say c, or RLAIF-V's own answers to its own pictures (an ablation)"
    )
    t_max: int = Field(1000, ge=1, description="T_max, the diffusion steps of confidence 0")
    gamma: float = Field(0.005, gt=0, lt=1, description="variance that each step adds")
    sampler: Literal["closed_form", "chain"] = Field("closed_form", description="how v_T is drawn")
    schedule_file: str | None = Field(
        None, description="schedule.json of notebook 10, whose t_max and gamma take the place of these; null: none"
    )
    noise_region: Literal["mask", "global"] = Field("mask", description="where the noise goes (global: an ablation)")
    leave_out: list[str] = Field(
        [], description="words; rows that speak of one are not used (does what is taught carry over to it?)"
    )
    draws_per_row: int = Field(1, ge=1, le=101, description="levels of c drawn for each row")
    levels: list[Annotated[int, Field(ge=0, le=100)]] | None = Field(
        None, min_length=1, description="levels of c to draw from; null for 0..100"
    )
    images: Literal["files", "drawn"] = Field(
        "files", description="perturbed pictures: written as PNG files, or drawn anew whenever they are looked at"
    )
    shards: int = Field(1, ge=1, description="parts of the rows that ./run_all.sh computes beside one another")

    @field_validator("leave_out")
    @classmethod
    def _are_words(cls, words: list[str]) -> list[str]:
        if any(not re.fullmatch(r"\w+", word) for word in words):
            raise ValueError("not all of them are single words")
        return words

    @field_validator("levels")
    @classmethod
    def _enough_levels(cls, levels: list[int] | None, info: ValidationInfo) -> list[int] | None:
        draws = info.data.get("draws_per_row", 1)
        if levels is not None and len(set(levels)) != len(levels):
            raise ValueError("a level stands in it twice")
        if draws > (101 if levels is None else len(levels)):
            raise ValueError(f"these are fewer levels than draws_per_row, {draws}")
        return levels


class Sft(Stage):
    """Notebook 04: supervised fine-tuning by ms-swift."""

    rows_file: str | None = Field(None, description="sft.jsonl of another run; null for the run's own")
    model: str = Field("assets/tiny_world/vlm", description="base VLM: folder or hub id")
    model_type: str | None = Field("qwen2_vl", description="ms-swift's model type; null lets ms-swift find it")
    template: str | None = Field("qwen2_vl", description="ms-swift's template; null lets ms-swift find it")
    max_pixels: int | None = Field(12544, ge=784, description="ms-swift's MAX_PIXELS; null for its default")
    n_rows: int | None = Field(32, ge=1, description="training rows; null for all")
    tuner_type: Literal["full", "lora"] = Field("full", description="what is trained")
    learning_rate: float = Field(1.0e-5, gt=0, description="peak of the cosine schedule")
    batch_size: int = Field(2, ge=1, description="rows a step and device")
    gradient_accumulation_steps: int = Field(8, ge=1, description="steps an update")
    epochs: int = Field(1, ge=1, description="passes over the rows")
    processes: int = Field(1, ge=1, description="training processes, one a GPU (ms-swift's NPROC_PER_NODE)")
    deepspeed: Literal["zero2", "zero3"] | None = Field(
        None, description="ZeRO: zero2 divides gradients and Adam's state among processes, zero3 weights too"
    )
    gradient_checkpointing: bool = Field(True, description="recompute activations")
    torch_dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    extra_args: list[str] = Field([], description="further arguments of `swift sft`, as they are")


class Simpo(Stage):
    """Notebook 05: SimPO by ms-swift, from the SFT checkpoint."""

    rows_file: str | None = Field(None, description="simpo.jsonl of another run; null for the run's own")
    model: str | None = Field(None, description="model to start from; null for this run's SFT checkpoint")
    model_type: str | None = Field("qwen2_vl", description="ms-swift's model type; null lets ms-swift find it")
    template: str | None = Field("qwen2_vl", description="ms-swift's template; null lets ms-swift find it")
    max_pixels: int | None = Field(12544, ge=784, description="ms-swift's MAX_PIXELS; null for its default")
    n_rows: int | None = Field(32, ge=1, description="training rows; null for all")
    tuner_type: Literal["full", "lora"] = Field("full", description="what is trained")
    learning_rate: float = Field(1.0e-5, gt=0, description="peak of the cosine schedule")
    beta: float = Field(2.0, gt=0, description="scale of the reward")
    simpo_gamma: float = Field(1.0, ge=0, description="target margin (lambda in the paper's loss)")
    cpo_alpha: float = Field(0.0, ge=0, description="weight of the NLL term; 0 is SimPO")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="part of the steps that warms up")
    batch_size: int = Field(1, ge=1, description="pairs a step and device")
    gradient_accumulation_steps: int = Field(16, ge=1, description="steps an update")
    epochs: int = Field(1, ge=1, description="passes over the rows")
    processes: int = Field(1, ge=1, description="training processes, one a GPU (ms-swift's NPROC_PER_NODE)")
    deepspeed: Literal["zero2", "zero3"] | None = Field(
        None, description="ZeRO: zero2 divides gradients and Adam's state among processes, zero3 weights too"
    )
    gradient_checkpointing: bool = Field(True, description="recompute activations")
    torch_dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    extra_args: list[str] = Field([], description="further arguments of `swift rlhf`, as they are")


class Eval(Stage):
    """Notebook 06: elicitation on POPE and AMBER, metrics, figures."""

    base_model: str = Field("assets/tiny_world/vlm", description="variant base: folder or hub id")
    model_name: str = Field("tiny-qwen2-vl", description="name in the tables")
    model_type: str | None = Field("qwen2_vl", description="ms-swift's model type; null lets ms-swift find it")
    template: str | None = Field("qwen2_vl", description="ms-swift's template; null lets ms-swift find it")
    max_pixels: int | None = Field(12544, ge=784, description="ms-swift's MAX_PIXELS; null for its default")
    variants: list[Literal["base", "sft", "csp"]] = Field(["base", "sft", "csp"], description="what to evaluate")
    pope: str | None = Field(None, description="folder of coco_pope_*.json and images/; null for the run's own")
    amber: str | None = Field(None, description="folder of query_*, annotations.json, images/; null for the run's own")
    benchmarks: list[Literal["pope", "amber"]] = Field(["pope", "amber"], description="what is asked; pope always is")
    n_questions: int | None = Field(24, ge=1, description="first questions of each split; null for all")
    batch_size: int = Field(32, ge=1, description="prompts a batch")
    max_new_tokens: int = Field(8, ge=1, description="longest answer, in tokens")
    prompts: list[Literal["third_person", "first_person", "few_shot", "answer_then_confidence", "p_true"]] = Field(
        ["third_person"], description="ways to ask for a confidence; third_person is asked greedily in any case"
    )
    methods: list[Literal["greedy", "expected", "sampled"]] = Field(
        ["greedy"], min_length=1, description="ways to read it: the reply, its exact distribution, draws from it"
    )
    n_samples: int = Field(5, ge=1, description="draws a prompt, for sampled")
    temperature: float = Field(1.0, gt=0, description="of the draws")
    blurs: list[Annotated[float, Field(gt=0)]] = Field(
        [], description="blurs (sigma, % of the shorter side) under which the plain question is asked again"
    )
    engine: Literal["auto", "shared", "plain", "vllm"] = Field(
        "auto", description="shared computes once what prompts have in common; auto: where it can ask the model; "
        "vllm: on a GPU, compared with plain on 50 questions"
    )  # fmt: skip
    shards: int = Field(1, ge=1, description="parts of the prompts that ./run_all.sh asks beside one another")
    ties: Literal["wrong", "first", "random"] = Field("wrong", description="what two equal confidences predict")
    ece_edges: Literal["right", "left"] = Field("right", description="which edge an ECE bin contains")
    n_bins: int = Field(10, ge=1, description="ECE bins")
    positive: Literal["yes", "no"] = Field("yes", description="F1's positive class")
    n_bootstrap: int = Field(200, ge=1, description="resamples of the images behind an interval")
    torch_dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    paper_model: Literal["Qwen-VL-Chat", "Qwen2-VL-7B-Instruct", "InternVL2-8B", "Phi-3.5-vision-instruct"] = Field(
        "Qwen2-VL-7B-Instruct", description="model of the paper whose printed numbers stand beside ours"
    )

    @field_validator("benchmarks")
    @classmethod
    def _pope_is_asked(cls, benchmarks: list[str]) -> list[str]:
        if "pope" not in benchmarks:
            raise ValueError("pope has to be among them: the figures show its questions")
        return benchmarks


class Correlation(Stage):
    """Notebook 07: internal against verbalised confidence."""

    n_bootstrap: int = Field(200, ge=1, description="resamples of the images behind an interval")
    paper_model: Literal["Qwen-VL-Chat", "Qwen2-VL-7B-Instruct", "InternVL2-8B", "Phi-3.5-vision-instruct"] = Field(
        "Qwen2-VL-7B-Instruct", description="model of the paper whose printed numbers stand beside ours"
    )


class Stress(Stage):
    """Notebook 08: spoken confidence while the evidence for an answer is taken away."""

    base_model: str = Field("assets/tiny_world/vlm", description="variant base: folder or hub id")
    model_name: str = Field("tiny-qwen2-vl", description="name in the tables")
    model_type: str | None = Field("qwen2_vl", description="ms-swift's model type; null lets ms-swift find it")
    template: str | None = Field("qwen2_vl", description="ms-swift's template; null lets ms-swift find it")
    max_pixels: int | None = Field(12544, ge=784, description="ms-swift's MAX_PIXELS; null for its default")
    variants: list[Literal["base", "sft", "csp"]] = Field(["base", "sft", "csp"], description="what to ask")
    pope: str | None = Field(None, description="folder of coco_pope_*.json and images/; null for the run's own")
    n_images: int | None = Field(6, ge=1, description="images, with one present object each; null for all")
    grounding_dino: str = Field("assets/tiny_world/grounding_dino", description="folder: config and checkpoint")
    sam: str = Field("assets/tiny_world/sam", description="folder: config and checkpoint")
    box_threshold: float = Field(0.35, ge=0, le=1, description="lowest score of a box")
    text_threshold: float = Field(0.25, ge=0, le=1, description="lowest score of a phrase's token")
    boxes: Literal["union", "top1"] = Field("union", description="which boxes make the mask")
    max_area_fraction: float = Field(0.6, gt=0, le=1, description="a larger mask drops its question")
    t_max: int = Field(1000, ge=1, description="T_max, the diffusion steps of confidence 0")
    gamma: float = Field(0.005, gt=0, lt=1, description="variance that each step adds")
    levels: list[Annotated[int, Field(ge=0, le=100)]] = Field(
        [100, 75, 50, 25, 0], min_length=2, description="levels of c to show, in percent"
    )
    regions: list[Literal["object", "elsewhere", "everywhere"]] = Field(
        ["object", "elsewhere"], min_length=1, description="where the noise goes: the mask, the moved mask, all over"
    )
    batch_size: int = Field(32, ge=1, description="prompts a batch")
    max_new_tokens: int = Field(8, ge=1, description="longest answer, in tokens")
    engine: Literal["auto", "shared", "plain"] = Field(
        "auto", description="shared computes once what prompts have in common; auto: where it can ask the model"
    )
    n_bootstrap: int = Field(200, ge=1, description="resamples of the images behind an interval")
    torch_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the weights; in it, SAM's image encoder multiplies"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")


class Schedule(Stage):
    """Notebook 10: the gamma with which the base loses sight of the object evenly; before 03 where it is used."""

    rlaif_v: str | None = Field(None, description="RLAIF-V parquet file or folder; null for the run's own data/")
    masks_file: str | None = Field(None, description="masks.parquet of another run; null for the run's own")
    base_model: str = Field("assets/tiny_world/vlm", description="the model that looks: folder or hub id")
    model_type: str | None = Field("qwen2_vl", description="ms-swift's model type; null lets ms-swift find it")
    template: str | None = Field("qwen2_vl", description="ms-swift's template; null lets ms-swift find it")
    max_pixels: int | None = Field(12544, ge=784, description="ms-swift's MAX_PIXELS; null for its default")
    n_rows: int | None = Field(16, ge=1, description="rows with a mask to look at, drawn by the seed; null for all")
    signals: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [1.0, 0.8, 0.6, 0.4, 0.25, 0.12, 0.06, 0.03, 0.015, 0.007, 0.003, 0.001], min_length=3,
        description="shares of the signal's variance that are left (alpha-bar) when it is asked",
    )  # fmt: skip
    t_max: int = Field(1000, ge=1, description="T_max, the diffusion steps of confidence 0")
    least_fall: float = Field(0.1, gt=0, lt=1, description="the accuracy must fall by as much, or nothing is fitted")
    batch_size: int = Field(32, ge=1, description="prompts a batch")
    max_new_tokens: int = Field(8, ge=1, description="longest answer, in tokens")
    engine: Literal["auto", "shared", "plain"] = Field(
        "auto", description="shared computes once what prompts have in common; auto: where it can ask the model"
    )
    torch_dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")


class Claims(Stage):
    """Notebook 11: the paper's claims, judged by what the runs of a params file measured."""

    runs: list[str] = Field(
        [], description="runs to compare, <run>.<branch>.<seed>; ./run_all.sh gives those of the params file"
    )
    leave_out: list[str] = Field([], description="words that a branch left out of its training (notebook 03)")
    title: str = Field("CSP: the paper's claims in miniature", min_length=1, description="title of the page")
    ties: Literal["wrong", "first", "random"] = Field("wrong", description="what two equal confidences predict")
    ece_edges: Literal["right", "left"] = Field("right", description="which edge an ECE bin contains")
    n_bins: int = Field(10, ge=1, description="ECE bins")
    positive: Literal["yes", "no"] = Field("yes", description="F1's positive class")
    n_bootstrap: int = Field(200, ge=1, description="resamples of images and seeds behind an interval")


class Report(Stage):
    """Notebook 09: one HTML page of all that was measured."""

    title: str = Field("CSP on the tiny world", min_length=1, description="title of the page")
    examples: int = Field(3, ge=0, description="example rows on the page")
    paper_model: Literal["Qwen-VL-Chat", "Qwen2-VL-7B-Instruct", "InternVL2-8B", "Phi-3.5-vision-instruct"] = Field(
        "Qwen2-VL-7B-Instruct", description="the paper's model whose direction of change is compared"
    )


NOTEBOOKS: dict[str, type[Stage]] = {
    "00_tiny_world": TinyWorld,
    "01_extract": Extract,
    "02_mask": Mask,
    "10_schedule": Schedule,
    "03_perturb": Perturb,
    "04_sft": Sft,
    "05_simpo": Simpo,
    "06_eval": Eval,
    "07_correlation": Correlation,
    "08_stress": Stress,
    "09_report": Report,
    "11_claims": Claims,
}
"""Each notebook and the model of its parameters, in the order in which they run."""

MODEL_FIELDS = ("keyword_model", "grounding_dino", "sam", "model", "base_model")
"""Parameters that name a model: a folder, or an id on the Hugging Face hub."""

DATA_FIELDS = ("rlaif_v", "pope", "amber")
"""Parameters that name data: a file or a folder; null means what the run itself holds."""


def is_hub_id(name: str) -> bool:
    """True for "organisation/model" that is not a folder here; anything with another form is a path."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return False
    return not Path(name).exists() and not Path(name).parent.is_dir()


def models(p: Stage) -> list[str]:
    """The models that ``p`` names."""
    return [value for field in MODEL_FIELDS if (value := getattr(p, field, None)) is not None]


def hub_models(p: Stage) -> list[str]:
    """Those of :func:`models` that are ids on the hub."""
    return [name for name in models(p) if is_hub_id(name)]


def local_models(p: Stage) -> list[str]:
    """Those of :func:`models` that are local folders."""
    return [name for name in models(p) if not is_hub_id(name)]


def build(name: str, values: Mapping[str, Any], where: str) -> Any:
    """The parameters of notebook ``name`` from ``values``.

    ``where`` says in the error where the values stand. Raises UserError for the first unknown key, wrong type or value
    out of range.
    """
    model = NOTEBOOKS[name]
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
    key, value = str(first["loc"][0]), first["input"]
    if first["type"] == "extra_forbidden":
        elsewhere = [other for other in NOTEBOOKS if key in NOTEBOOKS[other].model_fields]
        hint = f"it belongs to {elsewhere[0]}." if elsewhere else nearest(key, model.model_fields)
        raise UserError(f"Unknown parameter {key!r} in {where}; {hint}")
    sentence = f"Parameter {key!r} in {where} is {value!r}: {_lower(first['msg'])}"
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        sentence += f" (YAML reads {value} as text: write it with a point and a signed exponent, such as 1.0e-5)"
    described = model.model_fields[key].description
    raise UserError(f"{sentence}; {key} is: {described}.")


def _lower(message: str) -> str:
    message = message.rstrip(".")
    return message[:1].lower() + message[1:]


if __name__ == "__main__":
    import sys

    from csp_utils.pipeline import params_file

    if len(sys.argv) != 3 or sys.argv[1] != "check":
        sys.exit("usage: python -m csp_utils.base.params check FILE")
    try:
        for run in params_file.load(sys.argv[2]):
            print(f"{sys.argv[2]}: run {next(iter(run.values())).run}: {', '.join(run)}: all parameters are valid")
    except UserError as error:
        sys.exit(str(error))
