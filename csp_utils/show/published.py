"""The numbers that the CSP paper prints (assets/published.yaml), and tables of ours beside them."""

from pathlib import Path

import pandas as pd
import yaml

from csp_utils.base.wording import rows_with_intervals

PATH = Path(__file__).parents[2] / "assets" / "published.yaml"
VARIANTS = {"base": "base", "csp": "using CSP"}
"""The rows of the paper's tables: a model as it is, and "using CSP". The paper has no numbers for SFT alone."""

_METRICS = {"spearman_rho": "spearman", "kendall_tau": "kendall"}


def published(path: Path = PATH) -> pd.DataFrame:
    """Read tables 1 and 2 and the two Brier scores of section 4.3.1.

    Returns:
        model, variant (base or csp), split, metric (our names), value (as printed).
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = []
    for table in (content["table1"], content["table2"]):
        for model, variants in table["rows"].items():
            for variant, cells in variants.items():
                for split, values in zip(table["splits"], cells, strict=True):
                    for metric, value in zip(table["columns"], values, strict=True):
                        rows.append((model, variant, split, _METRICS.get(metric, metric), value))
    for model, splits in content["brier"].items():
        rows += [(model, v, split, "brier", x) for split, values in splits.items() for v, x in values.items()]
    return pd.DataFrame(rows, columns=["model", "variant", "split", "metric", "value"])


def beside_published(metrics: pd.DataFrame, paper_model: str, names: list[str], decimals: int = 2) -> pd.DataFrame:
    """Tabulate our values, with intervals, beside the numbers that the paper prints.

    Args:
        metrics: table of :func:`csp_utils.measures.metrics.compute` (one model).
        paper_model: the paper's model to compare with.
        names: the metrics of the table.

    Returns:
        a table of text: a row for each (split, metric), a column for each of our variants, then "paper base" and
        "paper csp" (a dash where the paper prints nothing).
    """
    ours = metrics[metrics["metric"].isin(names)].copy()
    ours["text"] = rows_with_intervals(ours, decimals=decimals)
    order = {name: list(dict.fromkeys(ours[name])) for name in ("split", "variant")}
    table = ours.pivot(index=["split", "metric"], columns="variant", values="text")[order["variant"]]
    paper = published().query("model == @paper_model").set_index(["variant", "split", "metric"])["value"]
    for variant in VARIANTS:
        printed = [paper.get((variant, *key)) for key in table.index]
        table[f"paper {variant}"] = ["–" if value is None else f"{value:g}" for value in printed]
    rows = [(split, metric) for split in order["split"] for metric in names if (split, metric) in table.index]
    return table.loc[rows].rename_axis(columns=None)
