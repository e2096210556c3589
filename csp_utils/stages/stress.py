"""Stage 08: measure verbalized confidence while noise removes the evidence for an answer."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from csp_utils.base.params import Dtype, Finder, Level, Named, Normalizing, Resampling, with_parameters
from csp_utils.base.run import RunPaths
from csp_utils.models.vlm.variants import ENGINE_LIBRARIES, checkpoints_of
from csp_utils.results.cost import Asked, Cost, Known, ask
from csp_utils.results.stage import Inputs, Job, Stage


class Stress(Resampling, Finder, Normalizing, Named):
    """Parameters of notebook 08."""

    variants: list[Literal["base", "sft", "csp"]] = Field(
        ["base", "sft", "csp"], min_length=1, description="what to ask"
    )
    pope: str | None = Field(None, description="folder of coco_pope_*.json and images/; null for the run's own")
    n_images: int | None = Field(6, ge=1, description="images, with one present object each; null for all")
    t_max: int = Field(1000, ge=1, description="T_max, the diffusion steps of confidence 0")
    gamma: float = Field(0.005, gt=0, lt=1, description="variance that each step adds")
    levels: list[Level] = Field([100, 75, 50, 25, 0], min_length=2, description="levels of c to show, in percent")
    regions: list[Literal["object", "box", "elsewhere", "everywhere"]] = Field(
        ["object", "box", "elsewhere"], min_length=1,
        description="where the noise goes: the mask, the rectangles around it, the moved mask, all over"
    )  # fmt: skip
    torch_dtype: Dtype = Field("float32", description="of the weights; in it, SAM's image encoder multiplies")


def reads(p: Stress, paths: RunPaths) -> Inputs:
    """Return POPE, the models that find the objects, and the models of the variants."""
    models = {"base_model" if name == "base" else f"checkpoint of {name}": model
              for name, model in checkpoints_of(p, paths).items()}  # fmt: skip
    return {"pope": Path(p.pope or paths["data/pope"]), "grounding_dino": Path(p.grounding_dino),
            "sam": Path(p.sam)} | models  # fmt: skip


def cost(p: Stress, paths: RunPaths, known: Known) -> Cost:
    """Count three prompts per object, level and region."""
    images = known.facts(p.pope or str(paths["data/pope"])).get("images") or known.of(p.pope or paths["data/pope"])
    images = min(images, p.n_images or images)
    shown = images * len(p.levels) * len(p.regions)
    model, what = known.facts(p.base_model, p.max_pixels), f"{images:,} objects, {shown:,} images"
    return ask(Asked(shown, 3 * shown), model, p, len(p.variants), what)


def compute(job: Job[Stress]) -> None:
    """Ask the prompts, and write stress.parquet and its curves, correlations and differences."""
    from functools import partial

    from csp_utils.asking import stress
    from csp_utils.base.files import write_parquet
    from csp_utils.measures import stress_curves

    p, paths = job.p, job.paths
    objects = stress.objects_with_masks(stress.find_masks(p, paths, job.progress))
    table = stress.ask(objects, checkpoints_of(p, paths), p, paths["stress"], partial(job.progress, unit="batch"))
    correlation, differences = stress_curves.correlations(table, p.n_bootstrap, p.seed)
    found = {"stress": table, "stress_curves": stress_curves.curves(table, p.n_bootstrap, p.seed),
             "stress_correlation": correlation, "stress_differences": differences,
             "stress_example": stress.example(objects, table, p)}  # fmt: skip
    for name, made in found.items():
        write_parquet(with_parameters(made, p), job.out / f"{name}.parquet")


STAGE = Stage("08_stress", Stress, compute, reads=reads, gpu=True, cost=cost, libraries=ENGINE_LIBRARIES, makes=(
    "stress.parquet", "stress_curves.parquet", "stress_correlation.parquet", "stress_differences.parquet",
    "stress_example.parquet",
))  # fmt: skip
