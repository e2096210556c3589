"""Say which options of ms-swift a training by GRPO with visual certainty does not work with, and why.

With most of them ms-swift would not call the plugin's hooks, or would call them with other tensors, and would train all
the same. The plugin checks the options that ms-swift has at the end, wherever they come from.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from csp_utils.training.grpo.settings import Settings, orm

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
"""Losses of ms-swift 4.6 in which each token has its own advantage."""

Check = Callable[[Any], bool]

_OTHER_TEXTS = "replies would be sampled from another distribution than the one that is trained"

CHECKS: dict[str, tuple[Check, str]] = {
    "sequence_parallel_size": (lambda v: (v or 1) > 1, "it splits replies, and descriptions are found in whole ones"),
    "padding_free": (bool, "it joins replies into one row, and the descriptions are found in single ones"),
    "use_liger_kernel": (bool, "its loss averages the advantages of a reply, so no token would have its own"),
    "multi_turn_scheduler": (lambda v: v is not None, "a reply of several turns has no single description"),
    "use_gym_env": (bool, "its reward would be one more column beside ours"),
    "gym_env": (lambda v: v is not None, "its reward would be one more column beside ours"),
    "dynamic_sample": (bool, "it chooses prompts by their rewards before the visual reward is known"),
    "async_generate": (bool, "its replies are those of older weights, so their signals are, too"),
    "num_iterations": (lambda v: v != 1, "the signals are those of the weights that sampled the replies"),
    "loss_type": (lambda v: v not in LOSSES, f"only {', '.join(LOSSES)} have an advantage for each token"),
    "advantage_estimator": (lambda v: v != "grpo", "the method is defined with GRPO's advantages"),
    "advantage_reweight": (lambda v: v is not None, "it takes the pass with perturbed images for that of a teacher"),
    "sdar_loss_coef": (lambda v: v != 0, "it takes the pass with perturbed images for that of a teacher"),
    "teacher_kl_coef": (lambda v: v != 0, "it adds the log-ratio of both passes to every advantage; set it to 0"),
    "off_policy_sequence_mask_delta": (lambda v: v is not None, "it needs one advantage for each reply"),
    "top_p": (lambda v: v != 1, _OTHER_TEXTS),
    "top_k": (lambda v: (v or -1) > 0, _OTHER_TEXTS),
    "min_p": (bool, _OTHER_TEXTS),
    "repetition_penalty": (lambda v: v != 1, _OTHER_TEXTS),
    "vllm_mode": (lambda v: v not in (None, "colocate"), "only a server in the training processes was tried"),
    "eval_strategy": (lambda v: getattr(v, "value", v) != "no", "soft labels exist for the replies of an update only"),
    "log_completions": (lambda v: not v, "the replies of the training would not be kept; set it to true"),
}  # fmt: skip
"""Option -> whether its value is refused, and the reason."""


def unsupported(options: Mapping[str, Any], settings: Settings, rewards: Sequence[Any], teacher: bool = False
                ) -> list[str]:
    """Return a sentence for each option that a training does not work with; [] if there is none.

    Args:
        options: the fields of ms-swift's GRPOConfig, and ``sequence_parallel_size`` and ``padding_free`` of its
            template. An option that is missing counts as not used; a test compares their names with ms-swift's.
        rewards: names of the reward functions that ms-swift was given.
        teacher: whether ms-swift was given a teacher model or server.
    """
    found = [f"ms-swift's option {name} cannot be {options[name]!r} here: {reason}." for name, (refused, reason)
             in CHECKS.items() if name in options and refused(options[name])]  # fmt: skip
    steps, passes = options["steps_per_generation"], options["gradient_accumulation_steps"]
    if steps != passes:
        found.append(f"ms-swift's option steps_per_generation is {steps} and gradient_accumulation_steps {passes}: "
                     "make them equal, so that the soft labels compare the replies of one whole update.")  # fmt: skip
    if settings.choices.top_tokens < 1 and options["loss_type"] not in ("dapo", "bnpo"):
        found.append(f"ms-swift's option loss_type cannot be {options['loss_type']!r} with top_tokens below 1: only "
                     "the means over all tokens of dapo and bnpo become the mean over the chosen ones.")  # fmt: skip
    if teacher:
        found.append("ms-swift was given a teacher, whose log-probabilities would take the place of those with "
                     "perturbed images; leave out teacher_model and teacher_model_server.")  # fmt: skip
    wanted = [orm(name) for name in settings.rewards]
    if list(rewards) != wanted:
        found.append(f"ms-swift's option reward_funcs is {list(rewards)}, and these settings need {wanted}.")
    return found
