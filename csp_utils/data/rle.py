"""Masks as COCO's compressed run lengths, the form in which tables hold them."""

import numpy as np


def encode_mask(mask: np.ndarray) -> str:
    """COCO's compressed run lengths of a boolean mask (height, width)."""
    from pycocotools import mask as coco

    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii")


def decode_mask(counts: str, width: int, height: int) -> np.ndarray:
    """The boolean mask (height, width) that :func:`encode_mask` encoded."""
    from pycocotools import mask as coco

    return coco.decode({"counts": counts.encode("ascii"), "size": [int(height), int(width)]}).astype(bool)
