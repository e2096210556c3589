"""Supervised fine-tuning and SimPO by ms-swift (paper, sections 3.3 and B.1).

The training itself is ms-swift's: this module writes its command line, runs it as a subprocess and keeps what it
leaves (:mod:`csp_utils.training.run`). The paper's hyperparameters are the defaults of
:class:`csp_utils.stages.sft.Sft` and :class:`csp_utils.stages.simpo.Simpo`. What the paper does not mention is left at
ms-swift's default, as in the paper. "Full" training therefore leaves the vision tower and the aligner frozen.

SimPO's loss, as ms-swift 4.6 with trl 0.29 computes it (``--rlhf_type simpo --cpo_alpha 0``), is the mean over pairs of

    -log sigmoid(beta / |y_w| log p(y_w | x) - beta / |y_l| log p(y_l | x) - gamma),

where y are the tokens of the answer and of what ends the turn in ms-swift's template (Qwen2-VL: ``<|im_end|>`` and the
line break after it), and |y| is their number: "75%" with one token a digit has |y| = 5. So the end of the turn, which
both answers share, counts two fifths. An update whose accumulation is not full (the last one, if the number of pairs is
no multiple) is divided by the full number all the same: its gradient and its logged loss are that much smaller.
"""

import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from csp_utils.base.devices import pick_device
from csp_utils.base.errors import UserError
from csp_utils.base.files import portable
from csp_utils.base.params import Training, is_hub_id
from csp_utils.models import checkpoints, families
from csp_utils.training.results import DEEPSPEED_CPU, PLUGIN_FILES

DEEPSPEED = "deepspeed==0.18.9"
"""The version that ms-swift 4.6 names; not among this project's packages (scripts/try_deepspeed.sh adds it)."""


def model_arguments(p: Training, model: str) -> list[str]:
    """How ms-swift is told to start from ``model``: a whole model by ``--model``, an adapter by ``--adapters`` as well.

    Raises UserError if ``model`` was trained with another ``max_pixels``, is an adapter to be trained in full, or is of
    a family for which this environment lacks something.
    """
    checkpoints.check_max_pixels(model, p.max_pixels)
    base = checkpoints.adapter_base(model)
    if base and p.tuner_type == "full":
        raise UserError(
            f"{model} is a LoRA adapter, which cannot be trained in full; set tuner_type to lora, or merge "
            "it with `swift merge-lora` first."
        )
    families.check(p.model_type, base or model)
    arguments = ["--model", base or model]
    arguments += ["--adapters", model] if base else []
    arguments += ["--model_type", p.model_type] if p.model_type else []
    if (attention := families.attention(p.model_type, base or model)) is not None:
        arguments += ["--attn_impl", attention]
    return arguments + (["--template", p.template] if p.template else [])


def without_deepspeed(p: Any) -> str | None:
    """A sentence if DeepSpeed is asked for and not installed."""
    if getattr(p, "deepspeed", None) is None or importlib.util.find_spec("deepspeed") is not None:
        return None
    return (f"deepspeed is {p.deepspeed!r}, and the package is not installed (it is not among this project's own); "
            f"install it by `uv pip install --no-build-isolation {DEEPSPEED}`, or set deepspeed to null.")  # fmt: skip


def command(p: Training, model: str, data: str, output_dir: str) -> list[str]:
    """The command line of ms-swift.

    ``swift sft`` is a launcher that imports torch only to start this module; without it a run is four seconds shorter.
    With DeepSpeed or several processes (or NPROC_PER_NODE or NNODES set by hand) it is used, because it calls torchrun.

    Args:
        p: parameters of notebook 04 (SFT) or 05 (SimPO).
        model: folder or hub id of the model to start from.
        data: JSON lines in ms-swift's format.
        output_dir: where ms-swift works.

    Raises UserError as :func:`model_arguments`, and if DeepSpeed is asked for and not installed.
    """
    if missing := without_deepspeed(p):
        raise UserError(missing)
    spread = p.processes > 1 or p.deepspeed is not None or "NPROC_PER_NODE" in os.environ or "NNODES" in os.environ
    start = ["-m", "swift.cli.main", p.command] if spread else ["-m", f"swift.cli.{p.command}"]
    arguments = p.objective() | _arguments(p, data, output_dir) | _precision(p, spread)
    words = [sys.executable, *start, *model_arguments(p, model)]
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        words += [name, *(str(one).lower() if isinstance(one, bool) else str(one) for one in values)]
    return words + p.extra_args  # last, so that they win


def _arguments(p: Training, data: str, output_dir: str) -> dict[str, Any]:
    """Return what every training is told, whatever it optimises and wherever it runs."""
    return {
        "--dataset": data,
        "--tuner_type": p.tuner_type,
        "--torch_dtype": p.torch_dtype,
        "--num_train_epochs": p.epochs,
        "--per_device_train_batch_size": p.batch_size,
        "--gradient_accumulation_steps": p.gradient_accumulation_steps,
        "--gradient_checkpointing": p.gradient_checkpointing,
        "--learning_rate": p.learning_rate,
        "--seed": p.seed,
        "--data_seed": p.seed,
        "--strict": True,  # a row that cannot be encoded stops the run; otherwise it would be dropped without a word
        "--split_dataset_ratio": 0,  # every row is for training
        "--eval_strategy": "no",
        "--logging_steps": 1,
        "--disable_tqdm": True,  # its bar and the log lines would overwrite each other in a file
        "--report_to": "none",
        "--save_strategy": "epoch",
        "--save_total_limit": 1,
        "--save_only_model": True,
        "--check_model": False,  # asks ModelScope's server for a newer version: 8 s without a network
        "--dataset_num_proc": 1,
        "--dataloader_num_workers": 0,
        "--external_plugins": plugins(p),
        "--add_version": False,
        "--output_dir": output_dir,
    }


def plugins(p: Training) -> list[str]:
    """Return the files that ms-swift loads by their paths."""
    more = [DEEPSPEED_CPU] if p.deepspeed and _without_gpu(p) else []
    return [portable(file) for file in (*PLUGIN_FILES, *more)]


def _precision(p: Training, spread: bool) -> dict[str, Any]:
    """Return the options of precision and spreading that depend on whether there is a GPU.

    That is asked only where it matters, because it imports torch, which takes four seconds.
    """
    arguments: dict[str, Any] = {}
    matters = spread or p.torch_dtype != "float32" or p.device == "cpu"
    without_gpu = matters and _without_gpu(p)
    if p.torch_dtype == "float32" or (p.deepspeed and without_gpu):
        arguments["--fp16"] = False  # else ms-swift trains float32 weights in float16 (mixed precision) on a GPU
    if without_gpu:
        # Without it bfloat16 is refused, and of several processes each trains a model of its own, which nothing says.
        arguments["--use_cpu"] = True
    if p.deepspeed:
        arguments["--deepspeed"] = p.deepspeed
    return arguments


def environment(p: Training, model: str, work: Path) -> dict[str, str]:
    """Environment variables of the run that matter to its result or its speed; they are part of command.txt.

    Raises UserError if ``device`` asks for a GPU that is not there, and as
    :func:`csp_utils.models.checkpoints.image_variables`.
    """
    base = checkpoints.adapter_base(model) or model
    variables = {"USE_HF": "1"}  # ids mean the Hugging Face hub, not ModelScope
    variables |= checkpoints.image_variables(p.max_pixels)
    if not is_hub_id(base):
        variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # nothing to look up: wait for no network
    if p.processes > 1 or p.deepspeed:
        variables["NPROC_PER_NODE"] = str(p.processes)
    if p.deepspeed and _without_gpu(p):
        variables["DS_ACCELERATOR"] = "cpu"
    variables["HF_DATASETS_CACHE"] = str(work / "cache")  # goes away with the work folder
    # Threads only get in each other's way on small matrices (five times slower on a busy machine with two cores), and
    # a GPU needs none; torchrun has the same default.
    variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    return variables | _device(p.device)


def _without_gpu(p: Training) -> bool:
    return p.device == "cpu" or pick_device("auto") == "cpu"


def _device(device: str) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES for "auto" (whatever is there), "cpu", "cuda" or "cuda:N"."""
    name, _, index = device.partition(":")
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    if name != "cuda":
        return {}
    pick_device(device)
    return {"CUDA_VISIBLE_DEVICES": index} if index else {}


def shell(words: list[str], variables: dict[str, str]) -> str:
    """The command with its environment variables, quoted for a shell, one option a line."""
    lines = [" ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())]
    for word in map(shlex.quote, words):
        if word.startswith("--") or len(lines) == 1:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n  ".join(lines) + "\n"


def recorded(args: dict[str, Any], p: Training) -> None:
    """Checks that ms-swift recorded the parameters that were asked for; ``args`` is its args.json.

    What ``extra_args`` changes on purpose is not compared. Raises UserError naming the first that differs.
    """
    names = {
        "tuner_type": p.tuner_type, "num_train_epochs": p.epochs, "per_device_train_batch_size": p.batch_size,
        "gradient_accumulation_steps": p.gradient_accumulation_steps, "learning_rate": p.learning_rate,
        "gradient_checkpointing": p.gradient_checkpointing, "seed": p.seed, "strict": True, "split_dataset_ratio": 0,
    }  # fmt: skip
    if p.torch_dtype == "float32":
        names["fp16"] = False
    names |= p.recorded_objective()
    given = {word.partition("=")[0] for word in p.extra_args}  # both --name value and --name=value
    for name, value in names.items():
        if f"--{name}" not in given and args.get(name) != value:
            raise UserError(f"ms-swift recorded {name} {args.get(name)!r}, not {value!r} as asked; is it ms-swift 4.6?")
