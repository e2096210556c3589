"""What a checkpoint of ms-swift does not say about itself, and how it is loaded.

Qwen2-VL scales an image down to at most MAX_PIXELS before the model sees it. ms-swift takes that number from the
environment and saves it nowhere, so that training and evaluation could silently differ. We write it beside the weights
and compare it on load. What else ms-swift reads from the environment about images is refused.
"""

import json
import os
from pathlib import Path

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_json

PREPROCESSING = "csp_preprocessing.json"
SHELL = ("IMAGE_MIN_TOKEN_NUM", "MIN_PIXELS", "IMAGE_FACTOR", "MAX_RATIO", "SPATIAL_MERGE_SIZE", "INPUT_SIZE",
         "MAX_NUM", "NUM_CROPS", "ROOT_IMAGE_DIR")
"""What ms-swift 4.6 reads from the environment, beside what :func:`image_variables` sets, that changes what a model
sees of an image: five for Qwen2-VL, two for InternVL2, one for Phi-3-Vision, and where the images are."""


def record_max_pixels(checkpoint: Path | str, max_pixels: int | None) -> None:
    """Writes MAX_PIXELS (None: ms-swift's default) into the checkpoint folder."""
    write_json({"max_pixels": max_pixels}, Path(checkpoint) / PREPROCESSING)


def check_max_pixels(checkpoint: Path | str, max_pixels: int | None) -> None:
    """Compares ``max_pixels`` with what the checkpoint was trained with.

    A model that this project did not train (a hub id, a folder without the record) has nothing to compare.
    Raises UserError if the two differ.
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
    """The environment variables by which ms-swift scales images; none for its default.

    The second is what it makes of the first, in tokens of 28 x 28 pixels, unless there is one already.
    Raises UserError if the shell sets what no parameter says and no file would record.
    """
    mine = {} if max_pixels is None else {"MAX_PIXELS": max_pixels, "IMAGE_MAX_TOKEN_NUM": max_pixels // 784}
    for name in ("MAX_PIXELS", "IMAGE_MAX_TOKEN_NUM", *SHELL):
        if name in os.environ and name not in mine:
            raise UserError(f"{name} is {os.environ[name]} in this shell; it would change the images, and nothing would"
                            " record it: unset it. What scales images is the parameter max_pixels.")  # fmt: skip
    return {name: str(value) for name, value in mine.items()}


def adapter_base(checkpoint: Path | str) -> str | None:
    """Name or folder of the model that an adapter (LoRA) belongs to; None if ``checkpoint`` is a whole model."""
    path = Path(checkpoint) / "adapter_config.json"
    return json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"] if path.is_file() else None
