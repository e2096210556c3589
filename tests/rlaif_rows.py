"""Rows of RLAIF-V for tests."""

import io

from PIL import Image


def png(color: tuple[int, int, int] = (1, 2, 3)) -> bytes:
    """Encode a small image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(buffer, "PNG")
    return buffer.getvalue()


def rlaif_row(index: int = 0, **changes) -> dict:
    """Make a row; the red value of its image is its index."""
    row = {
        "ds_name": "made", "image": {"bytes": png((index % 256, 0, 0)), "path": f"{index}.png"},
        "question": f"What is this {index}?", "chosen": "A kite.", "rejected": "A cat.",
        "origin_dataset": "made", "origin_split": "{}", "idx": index, "image_path": f"{index}.png",
    }  # fmt: skip
    return row | changes
