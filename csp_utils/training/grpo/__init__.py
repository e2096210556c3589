"""Train by GRPO with VL-Calibration's rewards and token factors (arXiv 2604.09529), through ms-swift.

ms-swift does the training. Its plugin, ``csp_utils/training/swift_plugins/visual_certainty.py``, gives it four rewards
and a trainer that adds the visual certainty. This room has what the plugin computes with, the command line, and the
record of a training.
"""
