"""Selective answering: how the share of wrong answers falls when only the surest questions are answered."""

import pandas as pd

from csp_utils.measures.counts import Cell, Protocol
from csp_utils.measures.scores import aurc, risk_coverage


def risk_coverage_table(responses: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Compute the risk-coverage curve of every model, variant and split.

    Args:
        responses: as in :mod:`csp_utils.measures.metrics`.

    Returns:
        model, variant, split, coverage and risk (:func:`csp_utils.measures.scores.risk_coverage`), and aurc, the area
        under the curve. A curve has 100 rows; risk and aurc are null where no question has two parsed confidences.
    """
    curves = []
    for (model, variant, split), rows in responses.groupby(["model", "variant", "split"], sort=False):
        counts = Cell(rows, protocol).answered()
        names = {"model": model, "variant": variant, "split": split}
        curves.append(risk_coverage(counts).assign(**names, aurc=float(aurc(counts))))
    return pd.concat(curves, ignore_index=True)[["model", "variant", "split", "coverage", "risk", "aurc"]]
