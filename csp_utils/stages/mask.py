"""Stage 02: segment each row's key object (paper, section 3.2: GroundingDINO on the keyword, SAM on its boxes)."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationInfo, field_validator

from csp_utils.base.params import DEVICE, RLAIF_V, SHARDS, Dtype, Finder
from csp_utils.base.run import RunPaths
from csp_utils.results.cost import DETECTION_GB, Cost, Known, hours
from csp_utils.results.stage import ComputeShard, Inputs, Job, Stage

if TYPE_CHECKING:
    import pyarrow as pa


class Mask(Finder):
    """Parameters of notebook 02."""

    rlaif_v: str | None = RLAIF_V
    least_score: float = Field(0.15, ge=0, le=1, validate_default=True, description="lowest score of a box that is "
                               "kept with its mask, so that a box_threshold above it is a second look")  # fmt: skip
    batch_size: int = Field(8, ge=1, description="images a batch")
    most_share: float = Field(0.2, gt=0, le=1, description="largest share of the rows that one keyword may have")
    shards: int = Field(1, ge=1, description=SHARDS)
    torch_dtype: Dtype = Field(
        "float32", description="in which SAM's image encoder multiplies; all weights, and GroundingDINO, are float32"
    )
    device: str = DEVICE

    @field_validator("least_score")
    @classmethod
    def _are_kept(cls, least: float, info: ValidationInfo) -> float:
        if least > info.data.get("box_threshold", 1):
            raise ValueError(f"it is above box_threshold, {info.data['box_threshold']}: lower both")
        return least


def reads(p: Mask, paths: RunPaths) -> Inputs:
    """Return RLAIF-V, the keywords and the two models."""
    return {"rlaif_v": Path(p.rlaif_v or paths["data/rlaif_v/train.parquet"]), "keywords": paths["keywords.parquet"],
            "grounding_dino": Path(p.grounding_dino), "sam": Path(p.sam)}  # fmt: skip


def cost(p: Mask, paths: RunPaths, known: Known) -> Cost:
    """Count every image once through both models; this is too much if rows share an image."""
    rows = known.rows[str(paths["masks.parquet"])] = known.of(paths["keywords.parquet"])
    detector, sam, work = known.facts(p.grounding_dino), known.facts(p.sam), f"{rows:,} images at most"
    if "teraflops" not in detector or "teraflops" not in sam:
        return Cost(work, None, gpu_memory=None, parallel=p.shards)
    needed = hours(1e12 * detector["teraflops"] * rows, "float32") + hours(1e12 * sam["teraflops"] * rows,
                                                                          p.torch_dtype)  # fmt: skip
    return Cost(work, needed, disk=rows * 6000 / 1e9, gpu_memory=DETECTION_GB, parallel=p.shards)


def schema() -> "pa.Schema":
    """Return the columns of the table of all boxes."""
    from csp_utils.models.masks import BOXES_SCHEMA

    return BOXES_SCHEMA


def open_shard(job: Job[Mask]) -> ComputeShard:
    """Open the data, load the models, and return the function that computes a shard."""
    from csp_utils.base.files import read_parquet
    from csp_utils.data.rlaif_v import read_rlaif_v
    from csp_utils.models.masks import check_shares, find_boxes, load_models

    data = read_rlaif_v(job.p.rlaif_v or job.paths["data/rlaif_v/train.parquet"])
    keywords = read_parquet(job.paths["keywords.parquet"])
    check_shares(keywords, job.p.most_share)
    models = load_models(job.p)
    return lambda shard, folder: find_boxes(keywords, data, models, job.p, job.progress, shard)


def compute(job: Job[Mask]) -> None:
    """Write masks.parquet and funnel.parquet, from the boxes that are kept in ``outputs/<run>/boxes``."""
    import pyarrow as pa

    from csp_utils.base.files import write_parquet
    from csp_utils.models.masks import SCHEMA, decide_rows, funnel
    from csp_utils.results.shards import kept_rows

    masks = decide_rows(kept_rows(job).to_pandas(), job.p)
    write_parquet(pa.Table.from_pandas(masks, SCHEMA, preserve_index=False), job.out / "masks.parquet")
    write_parquet(funnel(masks), job.out / "funnel.parquet")


STAGE = Stage("02_mask", Mask, compute, makes=("masks.parquet", "funnel.parquet"), reads=reads, open_shard=open_shard,
              schema=schema, keeps="boxes", decides=("box_threshold", "boxes", "max_area_fraction", "most_share"),
              gpu=True, cost=cost)  # fmt: skip
