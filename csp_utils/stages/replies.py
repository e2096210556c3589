"""Stage 12: measure replies that exist already, from a file and without a model."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from csp_utils.base.params import LEAST_RESAMPLES, Params, with_parameters
from csp_utils.base.run import RunPaths
from csp_utils.results.stage import Inputs, Job, Stage, page_files


class Replies(Params):
    """Parameters of notebook 12."""

    file: str = Field("assets/replies/example.csv", min_length=1, description="file with a row for each reply")
    columns: dict[str, str | None] = Field(
        {}, description="role -> the file's column, where its name is not recognised; null: no column plays the role"
    )
    form: Literal["auto", "table", "lmms-eval", "vlmevalkit"] = Field(
        "auto", description="what wrote the file; auto tells it by the columns"
    )
    scale: Literal["auto", "probability", "percent"] = Field("auto", description="of confidences that are numbers")
    ece_edges: Literal["right", "left"] = Field("right", description="which edge an ECE bin contains")
    n_bins: int = Field(10, ge=1, le=101, description="bins of the ECE and of the reliability diagram")
    n_bootstrap: int = Field(1000, ge=LEAST_RESAMPLES, description="resamples of the groups behind an interval")
    title: str | None = Field(None, min_length=1, description="title of the page; null: made of the file's name")


def reads(p: Replies, paths: RunPaths) -> Inputs:
    """Return the file of replies."""
    return {"file": Path(p.file)}


def compute(job: Job[Replies]) -> None:
    """Write the tables of replies and of measures, and the HTML page."""
    import pandas as pd

    from csp_utils.base.files import sha256, write_parquet, write_text
    from csp_utils.measures.counts import Protocol
    from csp_utils.replies.measure import measure
    from csp_utils.replies.read import read_replies
    from csp_utils.show.replies_page import html

    p = job.p
    read = read_replies(p.file, p.columns, p.form, p.scale)
    protocol = Protocol(ece_edges=p.ece_edges, n_bins=p.n_bins, seed=p.seed)
    found = measure(read.table["confidence"], read.table["correct"], read.groups, "percent", p.n_bootstrap, protocol)
    tables = {"replies": read.table, "replies_unread": read.unread, "replies_measures": found.measures,
              "replies_reliability": found.reliability, "replies_risk_coverage": found.risk_coverage,
              "replies_counts": found.counts,
              "replies_notes": pd.DataFrame({"note": [*read.notes, *found.notes]})}  # fmt: skip
    for name, table in tables.items():
        write_parquet(with_parameters(table, p), job.out / f"{name}.parquet")
    write_text(html(p, tables, sha256(p.file)), job.out / "replies.html")


STAGE = Stage("12_replies", Replies, compute, reads=reads, files=page_files("replies.j2"), makes=(
    "replies.parquet", "replies_unread.parquet", "replies_measures.parquet", "replies_reliability.parquet",
    "replies_risk_coverage.parquet", "replies_counts.parquet", "replies_notes.parquet", "replies.html"
))  # fmt: skip
