"""Stage 03: make the training rows, each with its level c and its perturbed image (paper, sections 3.2 and 3.3)."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from csp_utils.base.params import MASKS_FILE, RLAIF_V, SHARDS, Level, Params
from csp_utils.base.run import RunPaths
from csp_utils.results.cost import IMAGE_PIXELS, IMAGE_SECONDS, ORIGINAL_BYTES, PNG_BYTES, Cost, Known
from csp_utils.results.stage import ComputeShard, Inputs, Job, Stage

if TYPE_CHECKING:
    import pyarrow as pa

    from csp_utils.noise.training_rows import Source


class Perturb(Params):
    """Parameters of notebook 03."""

    rlaif_v: str | None = RLAIF_V
    masks_file: str | None = MASKS_FILE
    answers: Literal["confidence", "original"] = Field(
        "confidence", description="what is taught: to say c, or RLAIF-V's own answers to its own images (an ablation)"
    )
    t_max: int = Field(1000, ge=1, description="T_max, the diffusion steps of confidence 0")
    gamma: float = Field(0.005, gt=0, lt=1, description="variance that each step adds")
    sampler: Literal["closed_form", "chain"] = Field("closed_form", description="how v_T is drawn")
    schedule_file: str | None = Field(
        None, description="schedule.json of notebook 10, whose t_max and gamma take the place of these; null: none"
    )
    noise_region: Literal["mask", "box", "global"] = Field(
        "mask", description="where the noise goes; box: also in the rectangles around the mask; global: an ablation"
    )
    leave_out: list[str] = Field(
        [], description="words; rows that speak of one are not used (does what is taught carry over to it?)"
    )
    draws_per_row: int = Field(1, ge=1, le=101, description="levels of c drawn for each row")
    levels: list[Level] | None = Field(None, min_length=1, description="levels of c to draw from; null for 0..100")
    images: Literal["files", "drawn"] = Field(
        "files", description="perturbed images: written as PNG files, or rendered anew whenever they are opened"
    )
    dataset: bool = Field(True, description="write the rows as a Hugging Face data set too, with the images once more")
    shards: int = Field(1, ge=1, description=SHARDS)

    @field_validator("leave_out")
    @classmethod
    def _are_words(cls, words: list[str]) -> list[str]:
        if any(not re.fullmatch(r"\w+", word) for word in words):
            raise ValueError("not all of them are single words")
        return words

    @field_validator("levels")
    @classmethod
    def _enough_levels(cls, levels: list[int] | None, info: ValidationInfo) -> list[int] | None:
        draws = info.data.get("draws_per_row", 1)
        if draws > (101 if levels is None else len(levels)):
            raise ValueError(f"these are fewer levels than draws_per_row, {draws}")
        return levels


def reads(p: Perturb, paths: RunPaths) -> Inputs:
    """Return RLAIF-V, the masks, and the schedule if one is named."""
    schedule: Inputs = {"schedule_file": Path(p.schedule_file)} if p.schedule_file else {}
    return {"rlaif_v": Path(p.rlaif_v or paths["data/rlaif_v/train.parquet"]),
            "masks_file": Path(p.masks_file or paths["masks.parquet"])} | schedule  # fmt: skip


def cost(p: Perturb, paths: RunPaths, known: Known) -> Cost:
    """Count an image for each row and level as a file, and once more in the Hugging Face data set if there is one."""
    rows = known.of(p.masks_file or paths["masks.parquet"])
    images = rows * (1 if p.answers == "original" else p.draws_per_row)
    for name in ("perturbed/sft.jsonl", "perturbed/simpo.jsonl"):
        known.rows[str(paths[name])] = images
    work = f"{images:,} images"
    if p.images == "drawn":
        return Cost(f"{work}, drawn when opened", disk=rows * ORIGINAL_BYTES / 1e9)
    return Cost(work, cpu_hours=images * IMAGE_SECONDS / 3600,
                disk=(1 + p.dataset) * images * IMAGE_PIXELS * PNG_BYTES / 1e9)  # fmt: skip


def schema() -> "pa.Schema":
    """Return the columns of rows.parquet."""
    from csp_utils.noise.training_rows import SCHEMA

    return SCHEMA


def _source(job: Job[Perturb]) -> "Source":
    from csp_utils.base.files import read_parquet
    from csp_utils.data.rlaif_v import read_rlaif_v
    from csp_utils.noise.training_rows import Source

    p, paths = job.p, job.paths
    return Source(read_parquet(p.masks_file or paths["masks.parquet"]),
                  read_rlaif_v(p.rlaif_v or paths["data/rlaif_v/train.parquet"]))  # fmt: skip


def open_shard(job: Job[Perturb]) -> ComputeShard:
    """Open the data, and return the function that computes a shard."""
    from csp_utils.noise.diffusion import scheduled
    from csp_utils.noise.training_rows import perturb_rows

    p, source = scheduled(job.p), _source(job)
    return lambda shard, folder: perturb_rows(source, job.paths, p, job.progress, shard, folder)


def compute(job: Job[Perturb]) -> None:
    """Write the folder ``perturbed``: images, rows.parquet, the rows for ms-swift, and a Hugging Face data set."""
    from csp_utils.noise.diffusion import scheduled
    from csp_utils.noise.rendered import write_recipe
    from csp_utils.noise.training_rows import IMAGES, rows_with_masks, write_rows
    from csp_utils.results.shards import gather

    folder, p = job.out / "perturbed", scheduled(job.p)
    (folder / IMAGES).mkdir(parents=True)
    rows = gather(job, folder)
    if p.images == "drawn":
        masks, data = _source(job)
        write_recipe(folder / IMAGES, rows_with_masks(masks, p.leave_out), data, p, job.progress)
    write_rows(rows, p, folder)


STAGE = Stage("03_perturb", Perturb, compute, makes=("perturbed",), reads=reads, open_shard=open_shard, schema=schema,
              cost=cost)  # fmt: skip
