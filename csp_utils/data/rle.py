"""Masks as COCO's compressed run lengths (RLE), the form in which tables hold them."""

import numpy as np
from pycocotools import mask as coco


def encode_mask(mask: np.ndarray) -> str:
    """Encode a boolean mask (height, width) as COCO's compressed run lengths."""
    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii")


def decode_mask(counts: str, width: int, height: int) -> np.ndarray:
    """Decode what :func:`encode_mask` returned into a boolean mask (height, width)."""
    return coco.decode({"counts": counts.encode("ascii"), "size": [int(height), int(width)]}).astype(bool)
