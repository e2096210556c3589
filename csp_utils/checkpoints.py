"""What a checkpoint of ms-swift does not say about itself, and how it is loaded.

Qwen2-VL scales an image down to at most MAX_PIXELS before the model sees it. ms-swift takes that number from the
environment and saves it nowhere, so that training and evaluation could silently differ. We write it beside the weights
and compare it on load.
"""

import json
from pathlib import Path

from csp_utils.artifacts import write_json
from csp_utils.errors import UserError

PREPROCESSING = "csp_preprocessing.json"


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


def adapter_base(checkpoint: Path | str) -> str | None:
    """Name or folder of the model that an adapter (LoRA) belongs to; None if ``checkpoint`` is a whole model."""
    path = Path(checkpoint) / "adapter_config.json"
    return json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"] if path.is_file() else None
