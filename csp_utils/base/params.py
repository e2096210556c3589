"""Typed parameters: the base class of every notebook's, and the groups of fields that several notebooks share.

A notebook's class lies with its stage (``csp_utils/stages``). Fields and defaults are those of the notebook's
parameters cell (a test compares them), so that JupyterLab, papermill and a params file all check the same thing.
"""

import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from csp_utils.base.errors import UserError, nearest, short

Dtype = Literal["float32", "bfloat16", "float16"]
Level = Annotated[int, Field(ge=0, le=100)]
"""A level c, in percent."""

DEVICE = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
SHARDS = "shards that ./run_all.sh computes beside one another"
RLAIF_V = Field(None, description="RLAIF-V parquet file or folder; null for the run's own data/")
MASKS_FILE = Field(None, description="masks.parquet of another run; null for the run's own")

TINY_MODEL, TINY_NAME = "assets/tiny_world/vlm", "tiny-qwen2-vl"
LEAST_RESAMPLES = 40
"""Fewest resamples of a 95 % interval: with fewer, not even one lies in each 2.5 % outside of it, so that the interval
would be the range of all resamples and claim more than they show."""

WHERE_ONLY = frozenset({"run", "device", "shards", "trust_remote_code", "save_steps", "report_to",
                        "dataloader_workers"})  # fmt: skip
"""Parameters that say where and how something is computed; they change no result, and no origin holds them."""
PARAMETERS = "parameters"
"""Key of a table's attrs (the metadata of its Parquet file) under which it keeps the parameters that made it."""


class Params(BaseModel):
    """What every notebook has: strict types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    run: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100,
                     description="results go to outputs/<run>")  # fmt: skip
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of every random draw")  # numpy takes no larger one

    @field_validator("*")
    @classmethod
    def _each_once(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a list that holds a value twice; what it names would be asked, drawn or counted twice."""
        repeats = isinstance(value, list) and any(value.count(one) > 1 for one in value)
        if repeats and info.field_name != "extra_args":  # words of a command line
            raise ValueError("one stands in it twice")
        return value

    def conflicts(self) -> list[str]:
        """Return a sentence for each pair of parameters that cannot work together; [] if there is none."""
        return []


class Vlm(Params):
    """How a vision-language model is loaded."""

    model_type: str | None = Field("qwen2_vl", description="ms-swift's model type; null lets ms-swift find it")
    template: str | None = Field("qwen2_vl", description="ms-swift's template; null lets ms-swift find it")
    max_pixels: int | None = Field(12544, ge=784, description="ms-swift's MAX_PIXELS; null for its default")
    torch_dtype: Dtype = Field("float32", description="of the weights")
    device: str = DEVICE
    revision: str | None = Field(None, pattern=r"^[A-Za-z0-9][\w./-]*$",
                                 description="commit, tag or branch of a hub id; null for the newest")  # fmt: skip
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the weights of a model outside assets/sources.yaml"
    )

    def conflicts(self) -> list[str]:
        """Refuse a revision where the model is a folder, which has none."""
        named = [getattr(self, name) for name in ("model", "base_model") if getattr(self, name, None) is not None]
        if self.revision is None or not named or any(map(is_hub_id, named)):
            return []
        return [f"revision is {self.revision!r}, and the model is the folder {named[0]}; only a hub id "
                "(organisation/model) has revisions: remove it, or name the model by its id"]  # fmt: skip


class Asking(Vlm):
    """How a vision-language model is asked."""

    base_model: str = Field(TINY_MODEL, description="variant base: folder or hub id")
    batch_size: int = Field(32, ge=1, description="prompts a batch")
    max_new_tokens: int = Field(64, ge=1, description="token budget of a reply; a reply that it cuts is not read")
    engine: Literal["auto", "shared", "plain"] = Field(
        "auto", description="shared computes once what prompts have in common; auto: where it can ask the model"
    )


class Named(Asking):
    """How the tables name the model that is evaluated."""

    model_name: str = Field(TINY_NAME, description="name in the tables")

    @model_validator(mode="before")
    @classmethod
    def _of_its_own(cls, values: Any) -> Any:
        """Name another model by its folder or hub id if no name is given: the default is the tiny model's name."""
        model = values.get("base_model", TINY_MODEL)
        if values.get("model_name", TINY_NAME) != TINY_NAME or model == TINY_MODEL or not isinstance(model, str):
            return values
        return {**values, "model_name": model if is_hub_id(model) else Path(model).name or model}


class Finder(Params):
    """How GroundingDINO and SAM find an object and its mask."""

    grounding_dino: str = Field("assets/tiny_world/grounding_dino", description="folder: config and checkpoint")
    sam: str = Field("assets/tiny_world/sam", description="folder: config and checkpoint")
    box_threshold: float = Field(0.35, ge=0, le=1, description="lowest score of a box")
    text_threshold: float = Field(0.25, ge=0, le=1, description="lowest score of a phrase's token")
    boxes: Literal["union", "top1"] = Field("union", description="which boxes make the mask")
    max_area_fraction: float = Field(0.6, gt=0, le=1, description="a larger mask drops its row or question")


class Training(Vlm):
    """How ms-swift trains (notebooks 04 and 05)."""

    n_rows: int | None = Field(32, ge=1, description="training rows, drawn by the seed; null for all")
    eval_share: float = Field(
        0.0, ge=0, lt=1, description="share of the rows, drawn by the seed, that is held out for a validation loss"
    )
    tuner_type: Literal["full", "lora"] = Field("full", description="what is trained")
    learning_rate: float = Field(1.0e-5, gt=0, allow_inf_nan=False, description="peak of the cosine schedule")
    epochs: int = Field(1, ge=1, description="passes over the rows")
    processes: int = Field(1, ge=1, description="training processes, one a GPU (ms-swift's NPROC_PER_NODE)")
    deepspeed: Literal["zero2", "zero3"] | None = Field(
        None, description="ZeRO: zero2 divides gradients and Adam's state among processes, zero3 weights too"
    )
    gradient_checkpointing: bool = Field(True, description="recompute activations")
    save_steps: int | None = Field(
        None, ge=1, description="updates between checkpoints from which an interrupted training resumes; null for none"
    )
    report_to: Literal["none", "tensorboard", "wandb", "swanlab", "trackio"] = Field(
        "none", description="what else shows the log: tensorboard reads <training's folder>/tensorboard"
    )
    dataloader_workers: int = Field(
        0, ge=0, description="processes that read images, for each training process; 0: the training process reads them"
    )
    extra_args: list[str] = Field([], description="further arguments of ms-swift's command, as they are")

    command: ClassVar[str] = "sft"
    """Of ms-swift: sft or rlhf."""
    folder: ClassVar[str] = "sft"
    """Where the results are, in the run's folder."""
    rows: ClassVar[str] = "perturbed/sft.jsonl"
    """The rows that notebook 03 makes for it."""

    def objective(self) -> dict[str, Any]:
        """Return the options of ms-swift's command that say what is optimised, by name."""
        return {}

    def conflicts(self) -> list[str]:
        """Refuse what ms-swift would refuse only after hours of other notebooks, and a logger that is not installed."""
        found = super().conflicts()
        if self.processes > 1 and self.device.startswith("cuda:"):
            found.append(f"processes is {self.processes} and device is {self.device!r}, which is one GPU; set device: "
                         "auto (and CUDA_VISIBLE_DEVICES to choose GPUs), or processes: 1")  # fmt: skip
        if self.torch_dtype == "float16" and self.device == "cpu":
            found.append("torch_dtype is 'float16', in which nothing can be trained on a CPU; set torch_dtype: float32")
        elif self.torch_dtype == "float16" and self.tuner_type == "full" and self.deepspeed is None:
            found.append("torch_dtype is 'float16' and tuner_type is 'full', and gradients of float16 weights cannot "
                         "be rescaled (Attempting to unscale FP16 gradients); set torch_dtype: bfloat16 or float32, or "
                         "tuner_type: lora")  # fmt: skip
        if self.report_to != "none" and importlib.util.find_spec(self.report_to) is None:
            found.append(f"report_to is {self.report_to!r}, and the package {self.report_to} is not installed; install "
                         f"it by `uv pip install {self.report_to}`, or set report_to: none")  # fmt: skip
        return found

    def recorded_objective(self) -> dict[str, Any]:
        """Return the same as ms-swift records it in args.json."""
        return {}


class Protocol(Params):
    """What counts as a prediction, and how ECE's bins are cut."""

    ties: Literal["wrong", "first", "random"] = Field("wrong", description="what two equal confidences predict")
    ece_edges: Literal["right", "left"] = Field("right", description="which edge an ECE bin contains")
    n_bins: int = Field(10, ge=1, le=101, description="ECE bins; a confidence is one of 101 whole percents")
    positive: Literal["yes", "no"] = Field("yes", description="F1's positive class")


class Normalizing(Params):
    """When probabilities make a confidence."""

    min_mass: float = Field(
        0.05, ge=0, le=1, description="least P(Yes) + P(No), or mass of 0% to 100%, that is normalised to a confidence"
    )


class Resampling(Params):
    """How many resamples are behind an interval."""

    n_bootstrap: int = Field(200, ge=LEAST_RESAMPLES, description="resamples of the images behind an interval")


class Compared(Params):
    """Beside which printed numbers ours are shown."""

    paper_model: Literal["Qwen-VL-Chat", "Qwen2-VL-7B-Instruct", "InternVL2-8B", "Phi-3.5-vision-instruct"] = Field(
        "Qwen2-VL-7B-Instruct", description="model of the paper whose printed numbers are shown beside ours"
    )


def recorded(p: Params) -> dict[str, Any]:
    """Return the parameters that decide a result, as its table keeps them in its file's metadata."""
    return p.model_dump(mode="json", exclude=set(WHERE_ONLY))


def with_parameters(table: Any, p: Params) -> Any:
    """Return a data frame that keeps the parameters that made it, so that its Parquet file does."""
    table.attrs = {PARAMETERS: recorded(p)}
    return table


def made_alike(tables: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check that tables were made with the same values of some parameters, as far as they record them.

    Args:
        tables: where a table is from -> the table.
        names: the parameters.

    Raises:
        UserError: two tables record different values.
    """
    known = {where: table.attrs[PARAMETERS] for where, table in tables.items() if PARAMETERS in table.attrs}
    for name in names:
        values = {where: made[name] for where, made in known.items() if name in made}
        first = next(iter(values), None)
        for where, value in values.items():
            if value != values[first]:
                raise UserError(f"{first} was made with {name} {values[first]!r} and {where} with {value!r}, so they "
                                "cannot be compared; evaluate both with the same parameters.")  # fmt: skip


def is_hub_id(name: str) -> bool:
    """Return True for "organisation/model" that is no folder here; anything of another form is a path."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return False
    return not Path(name).exists() and not Path(name).parent.is_dir()


def problems(model: type[Params], values: Mapping[str, Any], where: str, others: Mapping[str, type[Params]]
             ) -> list[str]:
    """Return a sentence for each unknown key, wrong type and value out of range; [] if ``values`` are valid.

    Args:
        model: class of the notebook's parameters.
        where: says in the sentences where the values are written.
        others: the classes of all notebooks, to say where an unknown key belongs.
    """
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        return [_sentence(model, found, where, others) for found in error.errors()]
    return []


def _sentence(model: type[Params], found: Mapping[str, Any], where: str, others: Mapping[str, type[Params]]) -> str:
    key, value = str(found["loc"][0]), found["input"]
    if found["type"] in ("extra_forbidden", "invalid_key"):
        elsewhere = [other for other in others if key in others[other].model_fields]
        hint = f"it belongs to {elsewhere[0]}." if elsewhere else nearest(key, model.model_fields)
        return f"Unknown parameter {key!r} in {where}; {hint}"
    message = found["msg"].rstrip(".")
    sentence = f"Parameter {key!r} in {where} is {short(value, 400)}: {message[:1].lower()}{message[1:]}"
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        sentence += f" (YAML reads {value} as text: write it with a point and a signed exponent, such as 1.0e-5)"
    return f"{sentence}; {key} is: {model.model_fields[key].description}."


def build(model: type[Params], values: Mapping[str, Any], where: str,
          others: Mapping[str, type[Params]] = {}) -> Any:  # noqa: B006
    """Return the checked parameters. Raises UserError with all :func:`problems`, one a line."""
    if found := problems(model, values, where, others):
        raise UserError("\n".join(found))
    p = model.model_validate(dict(values))
    if found := conflicts(p, where):
        raise UserError("\n".join(found))
    return p


def conflicts(p: Params, where: str) -> list[str]:
    """Return a sentence for each conflict between valid parameters that are written in ``where``."""
    return [f"In {where}, {sentence}." for sentence in p.conflicts()]
