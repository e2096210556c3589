"""Record the image size of a training in its checkpoint, and check it when the checkpoint is loaded.

Qwen2-VL scales an image down to at most MAX_PIXELS. ms-swift reads this number from the environment and does not save
it, so training and evaluation could silently differ. We write it into the checkpoint folder and compare it on load. All
other environment variables by which ms-swift would change images are refused.
"""

import json
import os
from pathlib import Path

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_json

PREPROCESSING = "csp_preprocessing.json"
SHELL = ("IMAGE_MIN_TOKEN_NUM", "MIN_PIXELS", "IMAGE_FACTOR", "MAX_RATIO", "SPATIAL_MERGE_SIZE", "INPUT_SIZE",
         "MAX_NUM", "NUM_CROPS", "ROOT_IMAGE_DIR")
"""Environment variables of ms-swift 4.6 that change a model's image input, except those that :func:`image_variables`
sets: five for Qwen2-VL, two for InternVL2, one for Phi-3-Vision, and the root folder of the images."""


def record_max_pixels(checkpoint: Path | str, max_pixels: int | None) -> None:
    """Write MAX_PIXELS (None: ms-swift's default) into the checkpoint folder."""
    write_json({"max_pixels": max_pixels}, Path(checkpoint) / PREPROCESSING)


def check_max_pixels(checkpoint: Path | str, max_pixels: int | None) -> None:
    """Compare ``max_pixels`` with the value of the checkpoint's training. Raises UserError if they differ.

    A model that this project did not train (a hub id, or a folder without the record) passes.
    """
    path = Path(checkpoint) / PREPROCESSING
    if not path.is_file():
        return
    trained = json.loads(path.read_text(encoding="utf-8"))["max_pixels"]
    if trained != max_pixels:
        raise UserError(
            f"{checkpoint} was trained with max_pixels {_name(trained)}, but {_name(max_pixels)} is asked "
            f"for; set max_pixels to {_name(trained)}, or train again."
        )


def _name(max_pixels: int | None) -> str:
    return "null" if max_pixels is None else str(max_pixels)


def image_variables(max_pixels: int | None) -> dict[str, str]:
    """Return the environment variables that make ms-swift scale images to ``max_pixels``; none for its default.

    IMAGE_MAX_TOKEN_NUM = max_pixels // 784, in tokens of 28 x 28 pixels, is set explicitly, because ms-swift would keep
    a value from the shell. Raises UserError if the shell sets a variable that changes images: no file would record it.
    """
    mine = {} if max_pixels is None else {"MAX_PIXELS": max_pixels, "IMAGE_MAX_TOKEN_NUM": max_pixels // 784}
    for name in ("MAX_PIXELS", "IMAGE_MAX_TOKEN_NUM", *SHELL):
        if name in os.environ and name not in mine:
            raise UserError(f"{name} is {os.environ[name]} in this shell; it would change the images, and nothing would"
                            " record it: unset it. What scales images is the parameter max_pixels.")  # fmt: skip
    return {name: str(value) for name, value in mine.items()}


def adapter_base(checkpoint: Path | str) -> str | None:
    """Return the name or folder of a LoRA adapter's base model; None if ``checkpoint`` is a whole model."""
    path = Path(checkpoint) / "adapter_config.json"
    return json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"] if path.is_file() else None
