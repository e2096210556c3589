"""Calibration through Semantic Perturbation: the code behind the notebooks.

``from csp_utils import measure`` measures confidences that exist already (:func:`csp_utils.replies.measure.measure`).
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import ``measure`` when it is asked for, so that importing the package loads neither numpy nor pandas."""
    if name == "measure":
        from csp_utils.replies.measure import measure

        return measure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
