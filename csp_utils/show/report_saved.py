"""What a run has left for the report, read once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.files import read_parquet
from csp_utils.base.run import RunPaths, maker_of
from csp_utils.base.stage import stages
from csp_utils.data.benchmarks import SPLITS
from csp_utils.measures import metrics as evaluation
from csp_utils.show import report_run
from csp_utils.show.report_html import Text
from csp_utils.show.report_run import Executed
from csp_utils.show.report_tables import in_order


@dataclass(frozen=True)
class Saved:
    """The tables of notebook 06, and the record of what ran.

    Attributes:
        metrics, plain, differences: as :func:`csp_utils.measures.metrics.compute` returns them.
        protocol: how they were computed; ``protocol_known`` says whether notebook 06's parameters are recorded.
        computed: plain and differences were not saved by notebook 06 but computed here, from its responses.
        resamples: how many resamples are behind an interval and a p-value; None if that is not recorded.
        measures, measure_differences: as :func:`csp_utils.measures.metrics.compute_measures` returns them; None if not saved.
        risk_coverage: as :func:`csp_utils.measures.metrics.risk_coverage_table` returns it; None if not saved.
    """

    p: Any
    paths: RunPaths
    runs: dict[str, Executed]
    metrics: pd.DataFrame
    responses: pd.DataFrame
    plain: pd.DataFrame
    differences: pd.DataFrame
    protocol: evaluation.Protocol
    protocol_known: bool
    computed: bool
    resamples: int | None = None
    measures: pd.DataFrame | None = None
    measure_differences: pd.DataFrame | None = None
    risk_coverage: pd.DataFrame | None = None

    @property
    def model(self) -> str:
        """The model that the report is about: the first of the tables."""
        return str(self.metrics["model"].iloc[0])

    @property
    def splits(self) -> list[str]:
        """The splits that were evaluated, in the order of the paper."""
        return in_order(self.metrics["split"], SPLITS)

    @property
    def adversarial(self) -> str:
        """The split that examples are taken from: POPE adversarial, or the first one if that was not evaluated."""
        return "pope_adversarial" if "pope_adversarial" in self.splits else self.splits[0]


def load(p: Any, paths: RunPaths) -> Saved:
    """Reads the tables of notebook 06; plain answers and differences that it did not save are computed.

    Raises UserError if responses.parquet or metrics.parquet is missing, damaged or empty.
    """
    metrics, responses = read_parquet(paths["metrics.parquet"]), read_parquet(paths["responses.parquet"])
    for table, path in ((metrics, paths["metrics.parquet"]), (responses, paths["responses.parquet"])):
        if table.empty:
            raise UserError(f"{path} has no rows; run notebook 06_eval again.")
    runs = report_run.executed(paths)
    e = report_run.parameters(runs, "06_eval")
    known, e = e is not None, e or stages["06_eval"].params()
    protocol = evaluation.Protocol(e.ties, e.ece_edges, e.n_bins, e.positive, e.seed)
    saved = [paths["metrics_plain.parquet"], paths["differences.parquet"]]
    there = all(path.is_file() for path in saved)
    if there:
        plain, differences = map(read_parquet, saved)
    else:
        _, plain, differences = evaluation.compute(responses, protocol, e.n_bootstrap)
    if differences.empty:  # one variant only: keep the columns
        differences = pd.DataFrame(columns=evaluation.DIFFERENCE_COLUMNS)
    further = {name: optional(paths[f"{name}.parquet"])
               for name in ("measures", "measure_differences", "risk_coverage")}  # fmt: skip
    return Saved(p, paths, runs, metrics, responses, plain, differences, protocol, known, not there,
                 e.n_bootstrap if known else None, **further)  # fmt: skip


def optional(path: Path) -> pd.DataFrame | None:
    """A table that a run may lack; None if it does. Raises UserError if it is damaged."""
    return read_parquet(path) if path.is_file() else None


def absent(path: Path, what: str) -> Text:
    """The line that stands in place of something whose input is not there."""
    maker = maker_of(path)
    return Text(f"Left out: {what}; {path} is not there{f' (notebook {maker} makes it)' if maker else ''}.", "missing")
