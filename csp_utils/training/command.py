"""Build the command line of ms-swift for supervised fine-tuning and SimPO (paper, sections 3.3 and B.1).

ms-swift does the training itself; :mod:`csp_utils.training.run` runs it as a subprocess. The paper's hyperparameters
are the defaults of :class:`csp_utils.stages.sft.Sft` and :class:`csp_utils.stages.simpo.Simpo`. Options that the paper
does not mention keep ms-swift's default, as in the paper. "Full" training therefore freezes the vision tower and the
aligner.

SimPO's loss, as ms-swift 4.6 with trl 0.29 computes it (``--rlhf_type simpo --cpo_alpha 0``), is the mean over pairs of

    -log sigmoid(beta / |y_w| log p(y_w | x) - beta / |y_l| log p(y_l | x) - gamma),

where y are the tokens of the answer and of the end of the turn in ms-swift's template (Qwen2-VL: ``<|im_end|>`` and the
line break after it), and |y| is their number: "75%" with one token per digit has |y| = 5. The end of the turn, which
both answers share, therefore has a weight of two fifths. The last update may have fewer pairs than a full accumulation,
but it is still divided by the full number: its gradient and its logged loss are smaller by that factor.
"""

import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from csp_utils.base.devices import name_of, pick_device
from csp_utils.base.errors import UserError
from csp_utils.base.files import portable
from csp_utils.base.params import Training, is_hub_id
from csp_utils.models import checkpoints, families
from csp_utils.results.updates import updates
from csp_utils.training.results import DEEPSPEED_CPU, PLUGIN_FILES, TENSORBOARD

DEEPSPEED = "deepspeed==0.18.9"
"""The version that ms-swift 4.6 names; it is not among the pinned packages (scripts/try_deepspeed.sh installs it)."""


EVALUATIONS = 10
"""How often the validation loss is computed in a training, at least."""


def model_arguments(p: Training, model: str) -> list[str]:
    """Return the options for the start model: ``--model`` for a whole model, and also ``--adapters`` for an adapter.

    Raises UserError if ``model`` was trained with another ``max_pixels``, is an adapter but all weights are to be
    trained, or belongs to a family that needs a package which is not installed.
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
    arguments += ["--model_revision", p.revision] if p.revision and is_hub_id(base or model) else []
    arguments += ["--adapters", model] if base else []
    arguments += ["--model_type", p.model_type] if p.model_type else []
    if (attention := families.attention(p.model_type, base or model)) is not None:
        arguments += ["--attn_impl", attention]
    return arguments + (["--template", p.template] if p.template else [])


def without_deepspeed(p: Any) -> str | None:
    """Return a sentence if DeepSpeed is asked for but not installed, else None."""
    if getattr(p, "deepspeed", None) is None or importlib.util.find_spec("deepspeed") is not None:
        return None
    return (f"deepspeed is {p.deepspeed!r}, and the package is not installed (it is not among this project's own); "
            f"install it by `uv pip install --no-build-isolation {DEEPSPEED}`, or set deepspeed to null.")  # fmt: skip


def command(p: Training, model: str, data: str, output_dir: str, held_out: str | None = None, rows: int = 0
            ) -> list[str]:
    """Return the command line of ms-swift.

    ``swift sft`` is a launcher that imports torch only to start this module; without the launcher a run is four seconds
    shorter. With DeepSpeed or several processes (or NPROC_PER_NODE or NNODES in the shell) the launcher is used,
    because it calls torchrun.

    Args:
        p: parameters of notebook 04 (SFT) or 05 (SimPO).
        model: folder or hub id of the start model.
        data: path of JSON lines in ms-swift's format.
        output_dir: ms-swift's work folder.
        held_out: path of the rows for the validation loss, in the same format; None for no validation.
        rows: number of training rows; the validation loss is computed about ten times.

    Raises UserError as :func:`model_arguments` does, and if DeepSpeed is asked for but not installed.
    """
    if missing := without_deepspeed(p):
        raise UserError(missing)
    spread = p.processes > 1 or p.deepspeed is not None or "NPROC_PER_NODE" in os.environ or "NNODES" in os.environ
    start = ["-m", "swift.cli.main", p.command] if spread else ["-m", f"swift.cli.{p.command}"]
    arguments = p.objective() | _arguments(p, data, output_dir) | _saving(p) | _precision(p, spread)
    if held_out is not None:
        arguments |= {"--val_dataset": held_out, "--eval_strategy": "steps",
                      "--eval_steps": max(1, updates(p, rows).total // EVALUATIONS),
                      "--per_device_eval_batch_size": p.batch_size}  # fmt: skip
    if p.report_to == "tensorboard":  # the work folder is deleted at the end
        arguments["--logging_dir"] = portable(Path(output_dir).parent / TENSORBOARD)
    words = [sys.executable, *start, *model_arguments(p, model)]
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        words += [name, *(str(one).lower() if isinstance(one, bool) else str(one) for one in values)]
    return words + p.extra_args  # last, so that they override the others


def _arguments(p: Training, data: str, output_dir: str) -> dict[str, Any]:
    """Return the options that do not depend on the objective or on the device."""
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
        "--strict": True,  # a row that cannot be encoded stops the run; otherwise ms-swift drops it silently
        "--split_dataset_ratio": 0,  # every row is for training
        "--eval_strategy": "no",
        "--logging_steps": 1,
        "--disable_tqdm": True,  # in a file, its progress bar and the log lines would overwrite each other
        "--report_to": p.report_to,
        "--check_model": False,  # the check asks ModelScope's server for a newer version: 8 s without a network
        "--dataset_num_proc": 1,
        "--dataloader_num_workers": p.dataloader_workers,
        "--external_plugins": plugins(p),
        "--add_version": False,
        "--output_dir": output_dir,
    }


def _saving(p: Training) -> dict[str, Any]:
    """Return the options of checkpoints: the weights at the end, or every ``save_steps`` also the optimizer's state."""
    if p.save_steps is None:
        return {"--save_strategy": "epoch", "--save_total_limit": 1, "--save_only_model": True}
    return {"--save_strategy": "steps", "--save_steps": p.save_steps, "--save_total_limit": 1,
            "--save_only_model": False}  # fmt: skip


def plugins(p: Training) -> list[str]:
    """Return the files that ms-swift loads by path."""
    more = [DEEPSPEED_CPU] if p.deepspeed and _without_gpu(p) else []
    return [portable(file) for file in (*PLUGIN_FILES, *more)]


def _precision(p: Training, spread: bool) -> dict[str, Any]:
    """Return the options of precision and distribution, which depend on whether there is a GPU.

    This is checked only if it matters, because it imports torch, which takes four seconds.
    """
    arguments: dict[str, Any] = {}
    matters = spread or p.torch_dtype != "float32" or p.device == "cpu"
    without_gpu = matters and _without_gpu(p)
    if p.torch_dtype == "float32" or (p.deepspeed and without_gpu):
        arguments["--fp16"] = False  # otherwise ms-swift trains float32 weights in float16 (mixed precision) on a GPU
    if without_gpu:
        # Without it ms-swift refuses bfloat16, and each of several processes silently trains its own model.
        arguments["--use_cpu"] = True
    if p.deepspeed:
        arguments["--deepspeed"] = p.deepspeed
    return arguments


def environment(p: Training, model: str, work: Path) -> dict[str, str]:
    """Return the environment variables that affect the result or the speed of a training; command.txt includes them.

    Raises UserError if ``device`` names a GPU that does not exist, and as
    :func:`csp_utils.models.checkpoints.image_variables` does.
    """
    base = checkpoints.adapter_base(model) or model
    variables = {"USE_HF": "1"}  # ids refer to the Hugging Face hub, not to ModelScope
    variables |= checkpoints.image_variables(p.max_pixels)
    if not is_hub_id(base):
        variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # do not wait for a network
    if p.processes > 1 or p.deepspeed:
        variables["NPROC_PER_NODE"] = str(p.processes)
    if p.deepspeed and _without_gpu(p):
        variables["DS_ACCELERATOR"] = "cpu"
    variables["HF_DATASETS_CACHE"] = str(work / "cache")  # is deleted with the work folder
    # On small matrices threads only slow each other down (five times on a busy machine with two cores), and a GPU
    # does not need them; torchrun has the same default.
    variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    return variables | _device(p.device)


def _without_gpu(p: Training) -> bool:
    return p.device == "cpu" or pick_device("auto") == "cpu"


def _device(device: str) -> dict[str, str]:
    """Return CUDA_VISIBLE_DEVICES for "auto" and "cuda" (not set), "cpu", or "cuda:N", the N-th of the visible GPUs."""
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    if device != "auto":
        pick_device(device)
    return {"CUDA_VISIBLE_DEVICES": name_of(device)} if device.startswith("cuda:") else {}


def shell(words: list[str], variables: dict[str, str]) -> str:
    """Return the command with its environment variables, quoted for a shell, one option per line."""
    lines = [" ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())]
    for word in map(shlex.quote, words):
        if word.startswith("--") or len(lines) == 1:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n  ".join(lines) + "\n"


def recorded(args: dict[str, Any], p: Training) -> None:
    """Check that ms-swift recorded the given parameters; ``args`` is the content of its args.json.

    Options in ``extra_args`` are not compared. Raises UserError that names the first difference.
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
