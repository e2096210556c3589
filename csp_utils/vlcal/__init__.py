"""VL-Calibration (arXiv 2604.09529): formats of replies, signals, rewards and token factors, without a trainer.

:mod:`~csp_utils.vlcal.certainty` and :mod:`~csp_utils.vlcal.advantages` work on the tensors of ms-swift's trainer and
import torch. Everything else is Python and numpy, because ms-swift's reward functions get lists of Python values and
the pipeline must load without torch.
"""
