"""Stage 10: find the gamma for which the base model loses sight of the object evenly; it runs before 03 if used."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from csp_utils.base.params import MASKS_FILE, RLAIF_V, Asking
from csp_utils.base.run import RunPaths
from csp_utils.models.vlm.variants import ENGINE_LIBRARIES
from csp_utils.results.cost import Asked, Cost, Known, ask
from csp_utils.results.stage import Inputs, Job, Stage


class Schedule(Asking):
    """Parameters of notebook 10."""

    rlaif_v: str | None = RLAIF_V
    masks_file: str | None = MASKS_FILE
    n_rows: int | None = Field(16, ge=1, description="rows with a mask to look at, drawn by the seed; null for all")
    signals: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [1.0, 0.8, 0.6, 0.4, 0.25, 0.12, 0.06, 0.03, 0.015, 0.007, 0.003, 0.001], min_length=3,
        description="shares of the signal's variance that are left (alpha-bar) when it is asked",
    )  # fmt: skip
    t_max: int = Field(1000, ge=1, description="T_max, the diffusion steps of confidence 0")
    least_fall: float = Field(
        0.1, gt=0, lt=1, description="minimum drop in the share of Yes from no noise to most noise; below it: no fit"
    )


def reads(p: Schedule, paths: RunPaths) -> Inputs:
    """Return RLAIF-V, the masks and the model."""
    return {"rlaif_v": Path(p.rlaif_v or paths["data/rlaif_v/train.parquet"]),
            "masks_file": Path(p.masks_file or paths["masks.parquet"]), "base_model": p.base_model}  # fmt: skip


def cost(p: Schedule, paths: RunPaths, known: Known) -> Cost:
    """Count one question per row and signal."""
    rows = p.n_rows or known.of(p.masks_file or paths["masks.parquet"])
    images = rows * len(p.signals)
    return ask(Asked(images, images), known.facts(p.base_model, p.max_pixels), p, 1, f"{rows:,} images")


def compute(job: Job[Schedule]) -> None:
    """Ask the base model, and write schedule_curve.parquet and schedule.json."""
    from functools import partial

    from csp_utils.asking.schedule import ask, choose
    from csp_utils.base.files import read_parquet, write_json, write_parquet
    from csp_utils.data.rlaif_v import read_rlaif_v
    from csp_utils.noise.schedule import curve, fit

    p, paths = job.p, job.paths
    data = read_rlaif_v(p.rlaif_v or paths["data/rlaif_v/train.parquet"])
    rows = choose(read_parquet(p.masks_file or paths["masks.parquet"]), p.n_rows, p.seed)
    answers = ask(rows, data, p, paths["schedule"], partial(job.progress, unit="batch"))
    found = curve(answers)
    write_parquet(answers, job.out / "schedule_answers.parquet")
    write_parquet(found, job.out / "schedule_curve.parquet")
    write_json(fit(found, p.t_max, p.least_fall), job.out / "schedule.json")


STAGE = Stage("10_schedule", Schedule, compute,
              makes=("schedule.json", "schedule_curve.parquet", "schedule_answers.parquet"),
              reads=reads, gpu=True, cost=cost, libraries=ENGINE_LIBRARIES)  # fmt: skip
