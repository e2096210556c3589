"""Calibration through Semantic Perturbation: the code behind the notebooks."""
