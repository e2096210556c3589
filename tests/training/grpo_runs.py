"""Run trainings of ms-swift one after the other in one process, because its imports take longer than they do.

    python tests/training/grpo_runs.py RUNS.json

The file is a list of runs: the command line's words after ``rlhf``, and environment variables.
"""

import json
import os
import sys
from pathlib import Path

from swift.pipelines import rlhf_main

for run in json.loads(Path(sys.argv[1]).read_text()):
    os.environ.update(run["variables"])
    rlhf_main(run["words"])
