"""Masks as COCO's compressed run lengths (RLE), the form in which tables hold them."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco


def encode_mask(mask: np.ndarray) -> str:
    """Encode a boolean mask (height, width) as COCO's compressed run lengths."""
    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii")


def decode_mask(counts: str, width: int, height: int) -> np.ndarray:
    """Decode what :func:`encode_mask` returned into a boolean mask (height, width)."""
    return coco.decode(_rle(counts, width, height)).astype(bool)


def union(masks: Sequence[str], width: int, height: int) -> str:
    """Unite at least one encoded mask of the same size, without decoding."""
    return coco.merge([_rle(counts, width, height) for counts in masks])["counts"].decode("ascii")


def area_fraction(counts: str, width: int, height: int) -> float:
    """Return the share of the image that an encoded mask covers, 0..1."""
    return float(coco.area(_rle(counts, width, height))) / (width * height)


def _rle(counts: str, width: int, height: int) -> dict:
    return {"counts": counts.encode("ascii"), "size": [int(height), int(width)]}
