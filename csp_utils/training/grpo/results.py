"""What a training by GRPO leaves, and which plugin computes it: for the declaration of its stage.

Beside what every training leaves, there is :data:`COMPLETIONS`, with one row for each reply of the training:

===================  =====  ========================================================================================
step                 int    update, from 1
prompt, completion   str    as they were sampled
Accuracy, ...        float  each reward of the arm by the name of its class, without its weight
advantages           float  before the token factors
solution, row_id     str    of the training row
form                 str    kind of the reply's form (:data:`csp_utils.vlcal.reply.KINDS`)
match                str    why its answer is right or not (:data:`csp_utils.vlcal.items.matching.REASONS`)
right                bool   whether it is
visual_confidence    float  0..1, also reasoned_confidence and overall_confidence; NaN if it cannot be read
description_kl       float  D_KL, nats; NaN without a description, or in an arm without perturbed images
description_entropy  float  H, nats; NaN without a description
description_tokens   int    tokens of the description
soft_label           float  0..1, only in an arm that has labels; NaN without a description
===================  =====  ========================================================================================
"""

from csp_utils.training.results import FILES as TRAINING_FILES
from csp_utils.training.results import PACKAGE, PLUGIN_FILES

PLUGIN = PACKAGE / "training/swift_plugins/visual_certainty.py"
"""The plugin that ms-swift loads beside those of every training."""

COMPLETIONS = "completions.parquet"
"""Every reply of the training."""

FILES = (*TRAINING_FILES, COMPLETIONS)
"""What a training leaves in its folder."""

GRPO_PLUGIN_FILES = (*PLUGIN_FILES, PLUGIN)
"""What ms-swift loads by its path; for the stage's ``files``."""
