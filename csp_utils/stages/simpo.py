"""Stage 05: SimPO by ms-swift, from the SFT checkpoint (paper, sections 3.3 and B.1)."""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from csp_utils.base.params import Training
from csp_utils.base.run import RunPaths
from csp_utils.results.cost import Cost, Known, train
from csp_utils.results.stage import Inputs, Job, Stage
from csp_utils.training.results import COMPUTED_BY, FILES, PLUGIN_FILES, row_inputs, rows_file, scraps


class Simpo(Training):
    """Parameters of notebook 05."""

    rows_file: str | None = Field(None, description="simpo.jsonl of another run; null for the run's own")
    model: str | None = Field(None, description="model to start from; null for this run's SFT checkpoint")
    beta: float = Field(2.0, gt=0, description="scale of the reward")
    simpo_gamma: float = Field(1.0, ge=0, description="target margin (lambda in the paper's loss)")
    cpo_alpha: float = Field(0.0, ge=0, description="weight of the NLL term; 0 is SimPO")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="part of the steps that warms up")
    batch_size: int = Field(1, ge=1, description="pairs a step and device")
    gradient_accumulation_steps: int = Field(16, ge=1, description="steps an update")

    command: ClassVar[str] = "rlhf"
    folder: ClassVar[str] = "simpo"
    rows: ClassVar[str] = "perturbed/simpo.jsonl"

    def objective(self) -> dict[str, Any]:
        """Return SimPO's options; ms-swift's own default of ``cpo_alpha``, 1, would be CPO-SimPO, another loss."""
        return {"--rlhf_type": "simpo", "--beta": self.beta, "--simpo_gamma": self.simpo_gamma,
                "--cpo_alpha": self.cpo_alpha, "--warmup_ratio": self.warmup_ratio}  # fmt: skip

    def recorded_objective(self) -> dict[str, Any]:
        """Return what ms-swift records: it takes SimPO as a loss of its CPO trainer."""
        return {"rlhf_type": "cpo", "loss_type": "simpo", "beta": self.beta, "simpo_gamma": self.simpo_gamma,
                "cpo_alpha": self.cpo_alpha, "warmup_ratio": self.warmup_ratio}  # fmt: skip


def reads(p: Simpo, paths: RunPaths) -> Inputs:
    """Return the pairs with their images, and the model to start from."""
    model: str | Path = paths["sft/checkpoint"] if p.model is None else p.model
    return row_inputs(p, paths) | {"model": model}


def cost(p: Simpo, paths: RunPaths, known: Known) -> Cost:
    """Count two answers a row."""
    facts = known.facts(p.model or paths["sft/checkpoint"], p.max_pixels)
    if p.model:
        known.facts_of[str(paths["sft/checkpoint"])] = facts
    known.facts_of[str(paths["simpo/checkpoint"])] = facts
    return train(known.of(rows_file(p, paths)), facts, p, 2)


def compute(job: Job[Simpo]) -> None:
    """Train, and write the checkpoint with its command, arguments and log."""
    from csp_utils.training.run import train

    train(job)


STAGE = Stage("05_simpo", Simpo, compute, makes=tuple(f"simpo/{name}" for name in FILES), reads=reads, gpu=True,
              cost=cost, libraries=COMPUTED_BY, files=PLUGIN_FILES, scraps=scraps)  # fmt: skip
