"""Runs stages in tests: by their parameters, into a run's folder, without a notebook."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from csp_utils.base.params import Params
from csp_utils.base.run import RunPaths
from csp_utils.data.image_keys import image_keys
from csp_utils.data.rlaif_v import read_rlaif_v
from csp_utils.data.rle import encode_mask
from csp_utils.results.produce import origin_of, produce
from csp_utils.results.stage import Job, Stage
from csp_utils.stages import stages


def photographs() -> list[Path]:
    """Return photographs of any size and mode that come with scikit-learn and matplotlib."""
    home = {name: Path(importlib.util.find_spec(name).origin).parent for name in ("sklearn", "matplotlib")}
    found = [*home["sklearn"].glob("datasets/images/*.jpg"), *home["matplotlib"].glob("mpl-data/sample_data/*.jpg"),
             *home["matplotlib"].glob("mpl-data/sample_data/*.png")]  # fmt: skip
    assert len(found) >= 3
    return sorted(found)


def stage_of(p: Params) -> Stage:
    """Return the stage that the parameters belong to."""
    return next(stage for stage in stages.values() if stage.params is type(p))


def run_stage(p: Params, paths: RunPaths) -> list[str]:
    """Have the results of a stage computed, or used again; return the lines that it says."""
    said: list[str] = []
    produce(stage_of(p), p, paths, say=said.append)
    return said


def job_of(p: Params, paths: RunPaths, out: Path = Path("nowhere"), **more: Any) -> Job:
    """Return what a stage computes with, its origin as its inputs are now."""
    stage = stage_of(p)
    return Job(stage, p, paths, out, origin_of(stage, p, paths), **{"say": lambda line: None, **more})


def masks_of(rlaif_v: Path, n: int) -> pd.DataFrame:
    """Return rows like those of masks.parquet for the first ``n`` images, of 112 x 112 pixels: the diagonal."""
    data = read_rlaif_v(rlaif_v)
    mask = {"question": "Is it?", "answer": "Yes", "keyword": "k", "width": 112, "height": 112, "drop_reason": None,
            "boxes": [[0, 0, 112, 112]], "rle_counts": encode_mask(np.eye(112) > 0)}  # fmt: skip
    keys = image_keys(data, None)[["row_id", "image_sha1"]].to_dict("records")
    return pd.DataFrame([key | mask for key in keys[:n]])


def rlaif_row(i: int = 0, image: bytes = b"", **changes: Any) -> dict[str, Any]:
    """Return a row as :func:`csp_utils.data.rlaif_v.write_rlaif_v` takes it."""
    return {"ds_name": "d", "image": {"bytes": image, "path": f"{i}.png"}, "question": "Is it?", "chosen": "Yes.",
            "rejected": "No.", "origin_dataset": "o", "origin_split": "s", "idx": i, "image_path": f"{i}.png",
            **changes}  # fmt: skip
