"""Stage 09: make one HTML page of all measurements."""

from itertools import takewhile

from pydantic import Field

from csp_utils.base.params import Compared
from csp_utils.base.run import RunPaths
from csp_utils.results.stage import Inputs, Job, Stage, page_files, stages


class Report(Compared):
    """Parameters of notebook 09."""

    title: str | None = Field(None, min_length=1, description="title of the page; null: made of the model's name")
    examples: int = Field(3, ge=0, description="example rows on the page")


def reads(p: Report, paths: RunPaths) -> Inputs:
    """Return the results that the page needs; the page itself names the other results that are missing."""
    return {name.split(".")[0]: paths[name] for name in ("responses.parquet", "metrics.parquet")}


def looks_at(p: Report, paths: RunPaths) -> Inputs:
    """Return all results of the run, and the executed notebooks, which record how the results were made."""
    # Those of the list before this stage: replies from elsewhere (notebook 12) are no part of a run's report.
    earlier = takewhile(lambda stage: stage.params is not Report, stages.values())
    before = [stage for stage in earlier if stage.follows == "inputs"]
    copies = {f"notebook {stage.name}": paths.notebooks / f"{stage.name}.ipynb" for stage in before}
    return {name: paths[name] for stage in before for name in stage.makes} | copies


def compute(job: Job[Report]) -> None:
    """Write report.html."""
    from csp_utils.base.files import write_text
    from csp_utils.show.report import html
    from csp_utils.show.saved import load

    write_text(html(load(job.p, job.paths)), job.out / "report.html")


STAGE = Stage("09_report", Report, compute, makes=("report.html",), reads=reads, looks_at=looks_at, follows="run",
              files=page_files("report.j2"))
