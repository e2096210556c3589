"""Stage 00: make the tiny world's data, and train or score its four models."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from csp_utils.base.params import Params
from csp_utils.base.run import RunPaths
from csp_utils.results.cost import Cost, Known
from csp_utils.results.stage import Inputs, Job, Stage

MODELS = ("keyword_lm", "grounding_dino", "sam", "vlm")


class TinyWorld(Params):
    """Parameters of notebook 00."""

    train: list[Literal["keyword_lm", "grounding_dino", "sam", "vlm"]] = Field(
        list(MODELS), description="models to train; [] only scores"
    )
    models: str | None = Field(
        None, description="folder of the models, written if trained, then scored; null: outputs/<run>/tiny_world"
    )
    n_train_scenes: int = Field(24, ge=1, description="scenes of the RLAIF-V file")
    rows_per_scene: int = Field(2, ge=1, description="RLAIF-V rows per scene")
    n_test_scenes: int = Field(8, ge=1, description="images of POPE and of AMBER, each")
    test_split: Literal["benchmark", "dev"] = Field(
        "benchmark", description="scenes of POPE and of AMBER; dev: those on which choices are made"
    )
    first_test_scene: int = Field(0, ge=0, description="number of the first of these scenes")
    n_score_scenes: int = Field(16, ge=1, description="unseen scenes on which the models are scored")
    n_model_scenes: int = Field(48, ge=1, description="scenes that the models are trained on")
    keyword_lm_steps: int = Field(5, ge=1, description="training steps of the keyword model")
    grounding_dino_steps: int = Field(2, ge=1, description="training steps of GroundingDINO")
    sam_steps: int = Field(2, ge=1, description="training steps of SAM")
    vlm_tower_steps: int = Field(5, ge=1, description="training steps of the VLM's vision tower")
    vlm_steps: int = Field(5, ge=1, description="training steps of the VLM")


def models_folder(p: TinyWorld, paths: RunPaths) -> Path:
    """Return the folder of the models."""
    return Path(p.models) if p.models else paths["tiny_world"]


def reads(p: TinyWorld, paths: RunPaths) -> Inputs:
    """Return the models that are scored but not trained."""
    folder, trained = models_folder(p, paths), set(p.train)
    return {f"model {name}": folder / name for name in MODELS if name not in trained}


def also_makes(p: TinyWorld, paths: RunPaths) -> list[Path]:
    """Return the folders of the trained models."""
    return [models_folder(p, paths) / name for name in p.train]


def cost(p: TinyWorld, paths: RunPaths, known: Known) -> Cost:
    """Store the numbers of rows and images that later notebooks will have."""
    known.rows[str(paths["data/rlaif_v/train.parquet"])] = p.n_train_scenes * p.rows_per_scene
    known.rows[str(paths["data/pope"])] = known.rows[str(paths["data/amber"])] = p.n_test_scenes
    return Cost("trains " + ", ".join(p.train) if p.train else f"{p.n_train_scenes + p.n_test_scenes} drawn scenes")


def compute(job: Job[TinyWorld]) -> None:
    """Write the data, train the models named in ``train``, and score all four."""
    from csp_utils.base.files import write_parquet
    from csp_utils.tiny_world.models.quality import quality_table, score_models, train_models, write_manifest
    from csp_utils.tiny_world.world.data import write_world

    p, out = job.p, RunPaths(job.out.name, job.out.parent)
    tests_from = (p.test_split, p.first_test_scene)
    write_world(out, p.n_train_scenes, p.rows_per_scene, p.n_test_scenes, p.seed, tests_from)
    folder = models_folder(p, job.paths)
    steps = {name.removesuffix("_steps"): value for name, value in p.model_dump().items() if name.endswith("_steps")}
    train_models(folder, p.train, steps, p.n_model_scenes, p.seed, job.say)
    quality = score_models(folder, out["data"], p.n_score_scenes)
    write_parquet(quality_table(quality), out["tiny_world_quality.parquet"])
    if p.train:
        write_manifest(folder, quality, made_by=f"notebook 00_tiny_world, {p.model_dump_json()}")


STAGE = Stage(
    "00_tiny_world", TinyWorld, compute, reads=reads, also_makes=also_makes, cost=cost,
    makes=("data/rlaif_v/train.parquet", "data/pope", "data/amber", "data/truth/objects.parquet",
           "data/truth/keywords.parquet", "tiny_world_quality.parquet"),
)  # fmt: skip
