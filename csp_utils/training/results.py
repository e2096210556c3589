"""What a training reads and leaves, and what computes it: for the declarations of stages 04 and 05."""

from pathlib import Path

from csp_utils.base.params import Training
from csp_utils.base.run import PROJECT, RunPaths
from csp_utils.results.stage import Inputs

WORK = ".work"
UNCHECKED = "checkpoint.unchecked"
TENSORBOARD = "tensorboard"
"""Folder of the events for TensorBoard, beside the results; it is kept."""
FILES = ("checkpoint", "command.txt", "args.json", "log.parquet", "swift.log", "summary.json")
"""What a training leaves in ``outputs/<run>/sft`` or ``simpo``."""

COMPUTED_BY = ("ms-swift", "transformers", "torch", "trl", "peft", "accelerate", "deepspeed", "qwen-vl-utils")
"""Distributions of the trainer, which runs behind a command line and is imported by nothing here."""

PACKAGE = PROJECT / "csp_utils"
PLUGIN_FILES = (PACKAGE / "models/swift_plugins/image_tokens.py", PACKAGE / "training/swift_plugins/rendered_images.py",
                PACKAGE / "models/swift_plugins/remote_code.py")  # fmt: skip
"""What ms-swift loads by its path in every training."""
DEEPSPEED_CPU = PACKAGE / "training/swift_plugins/deepspeed_cpu.py"
"""What it loads as well for DeepSpeed without a GPU."""


def rows_file(p: Training, paths: RunPaths) -> Path:
    """Return the file of the training rows."""
    return Path(p.rows_file) if p.rows_file else paths[p.rows]


def row_inputs(p: Training, paths: RunPaths) -> Inputs:
    """Return the training rows and their images, or what these are rendered from when they are opened."""
    rows = rows_file(p, paths)
    images = rows.parent / "images"
    return {"rows_file": rows} | ({"images": images} if images.is_dir() else {})


def scraps(p: Training, paths: RunPaths) -> list[Path]:
    """Return the folders that hold the weights while the results are not published."""
    return [paths[p.folder] / UNCHECKED, paths[p.folder] / WORK]
