"""Stage 04: supervised fine-tuning by ms-swift (paper, sections 3.3 and B.1)."""

from pydantic import Field

from csp_utils.base.params import Training
from csp_utils.base.run import RunPaths
from csp_utils.results.cost import Cost, Known, train
from csp_utils.results.stage import Inputs, Job, Stage
from csp_utils.training.results import COMPUTED_BY, FILES, PLUGIN_FILES, row_inputs, rows_file, scraps


class Sft(Training):
    """Parameters of notebook 04."""

    rows_file: str | None = Field(None, description="sft.jsonl of another run; null for the run's own")
    model: str = Field("assets/tiny_world/vlm", description="base VLM: folder or hub id")
    batch_size: int = Field(2, ge=1, description="rows a step and device")
    gradient_accumulation_steps: int = Field(8, ge=1, description="steps an update")


def reads(p: Sft, paths: RunPaths) -> Inputs:
    """Return the rows with their images, and the model to start from."""
    return row_inputs(p, paths) | {"model": p.model}


def cost(p: Sft, paths: RunPaths, known: Known) -> Cost:
    """Count one answer a row."""
    facts = known.facts(p.model, p.max_pixels)
    known.facts_of[str(paths["sft/checkpoint"])] = facts
    return train(known.of(rows_file(p, paths)), facts, p, 1)


def compute(job: Job[Sft]) -> None:
    """Train, and write the checkpoint with its command, arguments and log."""
    from csp_utils.training.run import train

    train(job)


STAGE = Stage("04_sft", Sft, compute, makes=tuple(f"sft/{name}" for name in FILES), reads=reads, gpu=True, cost=cost,
              libraries=COMPUTED_BY, files=PLUGIN_FILES, scraps=scraps)  # fmt: skip
