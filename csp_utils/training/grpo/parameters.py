"""Parameters of a training by GRPO with visual certainty, and the arms of VL-Calibration's ablation."""

import importlib.util
import json
from typing import Any, ClassVar, Literal

from pydantic import Field

from csp_utils.base.errors import UserError
from csp_utils.base.params import TINY_MODEL, Training
from csp_utils.training.grpo.settings import Settings, orm
from csp_utils.vlcal.choices import RELEASED, Choices, Entropy, Kl, Labels
from csp_utils.vlcal.perturbation import Kind, Perturbation

_OWN = ("--external_plugins", "--ref_model", "--ref_model_type", "--ref_model_revision", "--ref_adapters",
        "--max_steps", "--use_vllm", "--vllm_mode")  # fmt: skip
"""Options that the command has, or leaves out, for a reason; beside those of :meth:`Grpo.objective`."""


class Grpo(Training):
    """Parameters of GRPO. An update samples ``generations`` replies to each of its prompts and uses them once."""

    rows_file: str | None = Field(None, description="rows of another run; null for the run's own")
    model: str = Field(TINY_MODEL, description="model to start from: folder or hub id")
    epochs: int = Field(1, ge=1, description="passes over the rows, unless updates says otherwise")
    updates: int | None = Field(None, ge=1, description="updates in all; null for all passes over the rows")
    generations: int = Field(8, ge=2, description="replies to a prompt, whose mean reward is the baseline")
    batch_size: int = Field(8, ge=1, description="replies a pass and device")
    gradient_accumulation_steps: int = Field(8, ge=1, description="passes an update")
    max_new_tokens: int = Field(128, ge=1, description="token budget of a reply")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    rollouts: Literal["transformers", "vllm"] = Field("transformers", description="what samples the replies")
    learning_rate: float = Field(1.0e-6, gt=0, allow_inf_nan=False, description="constant")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    beta: float = Field(1.0e-4, ge=0, description="weight of the KL to the start model; 0 does not load it twice")
    loss_type: Literal["dapo", "grpo"] = Field(
        "dapo", description="dapo: mean over the tokens of the update; grpo: over those of a reply, then over replies"
    )
    train_vision: bool = Field(True, description="train the vision tower and its aligner, too")
    gradient_checkpointing: bool = Field(False, description="recompute activations")

    reply_format: Literal["decoupled", "holistic", "none", "released"] = Field(
        "decoupled", description="which confidences a reply states: two, one (RLCR) or none (RLVR)"
    )
    certainty: Literal["both", "kl", "entropy", "none"] = Field(
        "both", description="what makes the soft labels of the visual confidence; none: it has no reward of its own"
    )
    kl: Kl = Field("k3", description="divergence of a description: estimated, over the vocabulary, or as released")
    entropy: Entropy = Field("full", description="entropy of a description: of the distribution, or -log p")
    single_labels: Labels = Field("z_score", description="soft labels where certainty is kl or entropy alone")
    strength: float = Field(0.1, ge=0, le=1, description="of the token-level advantage reweighting; 0 is without")
    top_tokens: float = Field(1.0, gt=0, le=1, description="share of a reply's tokens that the loss covers")
    perturbation: Kind = Field("patches", description="what is done to the image for the second pass")
    mask_share: float = Field(0.8, ge=0, le=1, description="patches: probability of a patch to become black")
    mask_patch: int = Field(14, ge=1, description="patches: side of a patch, pixels")
    blur_radius: float = Field(10.0, ge=0, description="blur: standard deviation, pixels")
    noise_sigma: float = Field(189.0, ge=0, description="noise: standard deviation, in 8-bit steps")
    crop_side: float = Field(0.5, gt=0, le=1, description="crop: share of each side that is left")
    w_accuracy: float = Field(1.0, ge=0, description="weight of the reward for a right answer")
    w_calibration: float = Field(2.0, ge=0, description="weight of minus the Brier score")
    w_format: float = Field(0.4, ge=0, description="weight of the reward for the format")
    w_visual: float = Field(0.4, ge=0, description="weight of the reward for a visual confidence near its label")
    match_seconds: float = Field(5.0, gt=0, description="time limit for the comparison of one answer, seconds")

    command: ClassVar[str] = "rlhf"
    folder: ClassVar[str] = "grpo"
    rows: ClassVar[str] = "reasoned/grpo.jsonl"

    def settings(self) -> Settings:
        """Return what the plugin has to know. Raises UserError for parameters that do not fit together."""
        certainty = "both" if self.certainty == "none" else self.certainty  # which is not used then
        choices = Choices(self.reply_format, self.kl, self.entropy, certainty, self.single_labels, self.strength,
                          self.top_tokens)  # fmt: skip
        perturbation = Perturbation(self.perturbation, self.mask_share, self.mask_patch, self.blur_radius,
                                    self.noise_sigma, self.crop_side)  # fmt: skip
        return Settings(choices, self.certainty != "none", perturbation, self.match_seconds)

    @property
    def replies(self) -> int:
        """Replies an update."""
        return self.batch_size * self.gradient_accumulation_steps * self.processes

    def conflicts(self) -> list[str]:
        """Refuse, before anything runs, what ms-swift or its plugin would refuse or would silently do otherwise."""
        found = super().conflicts()
        own = set(_OWN)
        try:
            own |= self.objective().keys()
        except UserError as error:
            found.append(str(error).rstrip("."))
        if self.replies % self.generations:
            found.append(f"batch_size x gradient_accumulation_steps x processes is {self.replies}, which is no multiple"
                         f" of generations ({self.generations}), so a prompt would lack replies; change one of them")
        if self.top_tokens < 1 and self.loss_type != "dapo":
            found.append(f"top_tokens is {self.top_tokens} and loss_type {self.loss_type!r}, whose mean over a reply "
                         "would count the tokens that are left out; set loss_type: dapo")  # fmt: skip
        if self.eval_share:
            found.append("eval_share is not 0, and soft labels exist for the replies of an update only; set "
                         "eval_share: 0 and evaluate the checkpoint")  # fmt: skip
        if self.rollouts == "vllm" and importlib.util.find_spec("vllm") is None:
            found.append("rollouts is 'vllm', and the package vllm is not installed; set rollouts: transformers")
        if given := own & {word.partition("=")[0] for word in self.extra_args}:
            found.append(f"extra_args sets {', '.join(sorted(given))}, which the method depends on; use the parameters")
        return found

    def objective(self) -> dict[str, Any]:
        """Return the options of GRPO as VL-Calibration's released run has them (``examples/config.yaml``).

        ``teacher_kl_coef`` is 0 because ms-swift's default of 1 would add the log-ratio of true and perturbed images to
        every advantage.
        """
        rewards = self.settings().rewards
        options = {
            "--rlhf_type": "grpo", "--num_generations": self.generations, "--num_iterations": 1,
            "--steps_per_generation": self.gradient_accumulation_steps, "--max_completion_length": self.max_new_tokens,
            "--temperature": self.temperature, "--top_p": 1.0, "--loss_type": self.loss_type,
            "--scale_rewards": "group", "--epsilon": 0.2, "--epsilon_high": 0.3, "--delta": 3.0, "--beta": self.beta,
            "--teacher_kl_coef": 0.0,
            "--lr_scheduler_type": "constant", "--warmup_ratio": 0.0, "--weight_decay": self.weight_decay,
            "--adam_beta2": 0.999, "--max_grad_norm": 1.0, "--freeze_vit": not self.train_vision,
            "--freeze_aligner": not self.train_vision, "--log_completions": True,
            "--model_kwargs": json.dumps(self.settings().as_argument()),
            "--reward_funcs": [orm(name) for name in rewards],
            "--reward_weights": [float(getattr(self, f"w_{name}")) for name in rewards],
        }  # fmt: skip
        if self.rollouts == "vllm":
            options |= {"--use_vllm": True, "--vllm_mode": "colocate", "--sleep_level": 1}
        return options | ({"--max_steps": self.updates} if self.updates else {})

    def recorded_objective(self) -> dict[str, Any]:
        """Return the same as ms-swift records it: the settings of the plugin not as text."""
        return {name.removeprefix("--"): value for name, value in self.objective().items()} | {
            "model_kwargs": self.settings().as_argument()
        }


_WITHOUT = {"certainty": "none", "strength": 0.0}

ARMS: dict[str, dict[str, Any]] = {
    "rlvr": {"reply_format": "none", **_WITHOUT},
    "rlcr": {"reply_format": "holistic", **_WITHOUT},
    "decoupled": _WITHOUT,
    "entropy": {"certainty": "entropy", "strength": 0.0},
    "kl": {"certainty": "kl", "strength": 0.0},
    "both": {"strength": 0.0},
    "reweighted": {},
    "released": {"reply_format" if name == "format" else name: value for name, value in RELEASED.items()},
}
"""Arm of the ablation -> the parameters in which it differs from the defaults, which are the paper's whole method.

rlvr rewards answers and format alone, rlcr (arXiv 2507.16806) also one confidence, decoupled two confidences through
their harmonic mean. entropy, kl and both add soft labels; reweighted also the token weights. released is the published
code's."""
