"""Stage 07: compare internal and verbalized confidence."""

from csp_utils.base.params import Compared, Resampling, with_parameters
from csp_utils.base.run import RunPaths
from csp_utils.results.stage import Inputs, Job, Stage


class Correlation(Compared, Resampling):
    """Parameters of notebook 07."""


def reads(p: Correlation, paths: RunPaths) -> Inputs:
    """Return the answers of notebook 06."""
    return {"responses": paths["responses.parquet"]}


def compute(job: Job[Correlation]) -> None:
    """Write correlation.parquet."""
    from csp_utils.base.files import read_parquet, write_parquet
    from csp_utils.measures.metrics import correlations

    responses = read_parquet(job.paths["responses.parquet"])
    table = correlations(responses, job.p.n_bootstrap, job.p.seed)
    write_parquet(with_parameters(table, job.p), job.out / "correlation.parquet")


STAGE = Stage("07_correlation", Correlation, compute, makes=("correlation.parquet",), reads=reads)
