"""What a training by GRPO leaves, and which plugin computes it: for the declaration of its stage."""

from csp_utils.training.results import FILES as TRAINING_FILES
from csp_utils.training.results import PACKAGE, PLUGIN_FILES

PLUGIN = PACKAGE / "training/swift_plugins/visual_certainty.py"
"""The plugin that ms-swift loads beside those of every training."""

COMPLETIONS = "completions.parquet"
"""Every reply of the training: update, prompt, text, rewards, advantage, confidences, soft label, signals."""

FILES = (*TRAINING_FILES, COMPLETIONS)
"""What a training leaves in its folder."""

GRPO_PLUGIN_FILES = (*PLUGIN_FILES, PLUGIN)
"""What ms-swift loads by its path; for the stage's ``files``."""
