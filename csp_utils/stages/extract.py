"""Stage 01: find the key object of each question and answer (paper, section 3.2; prompt A.1)."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from csp_utils.base.params import DEVICE, RLAIF_V, SHARDS, Dtype, Params
from csp_utils.base.run import RunPaths
from csp_utils.results.cost import BYTES, OVERHEAD_GB, STEP_SECONDS, TEXT_TOKENS, Cost, Known, billions, hours
from csp_utils.results.stage import ComputeShard, Inputs, Job, Stage

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from csp_utils.data.rlaif_v import RlaifV


class Extract(Params):
    """Parameters of notebook 01."""

    rlaif_v: str | None = RLAIF_V
    n_rows: int | None = Field(24, ge=1, description="rows to use, drawn by the seed; null for all")
    pope: str | None = Field(
        None, description="POPE's folder: rows that show one of its images are left out; null looks at none"
    )
    keyword_model: str = Field("assets/tiny_world/keyword_lm", description="causal LM that answers prompt A.1")
    batch_size: int = Field(32, ge=1, description="prompts a batch")
    max_new_tokens: int = Field(8, ge=1, description="longest keyword, in tokens")
    shards: int = Field(1, ge=1, description=SHARDS)
    torch_dtype: Dtype = Field("float32", description="of the weights")
    device: str = DEVICE


def reads(p: Extract, paths: RunPaths) -> Inputs:
    """Return RLAIF-V, the model, and POPE if rows are compared with it."""
    pope: Inputs = {"pope": Path(p.pope)} if p.pope else {}
    return {"rlaif_v": Path(p.rlaif_v or paths["data/rlaif_v/train.parquet"]), "keyword_model": p.keyword_model} | pope


def cost(p: Extract, paths: RunPaths, known: Known) -> Cost:
    """Count one prompt per row; the common start of the prompts is computed once."""
    rows = known.of(p.rlaif_v or paths["data/rlaif_v/train.parquet"])
    rows = min(rows, p.n_rows) if p.n_rows else rows
    known.rows[str(paths["keywords.parquet"])] = known.rows[str(paths["masks.parquet"])] = rows
    work = f"{rows:,} rows"
    if (size := billions(known.facts(p.keyword_model))) is None:
        return Cost(work, None, gpu_memory=None, parallel=p.shards)
    prefill = hours(2 * size[0] * TEXT_TOKENS["keyword"] * rows, p.torch_dtype)
    decode = rows / p.batch_size * p.max_new_tokens * STEP_SECONDS / 3600
    memory = size[0] * BYTES[p.torch_dtype] / 1e9 + OVERHEAD_GB
    return Cost(work, prefill + decode, disk=rows * 500 / 1e9, gpu_memory=memory, parallel=p.shards,
                weights=size[0])  # fmt: skip


def schema() -> "pa.Schema":
    """Return the columns of keywords.parquet."""
    from csp_utils.models.keyword_lm import SCHEMA

    return SCHEMA


def image_table(job: Job[Extract], data: "RlaifV") -> "pd.DataFrame":
    """Return the content keys of all rows' images (:func:`csp_utils.data.image_keys.image_keys`).

    The table is kept in ``outputs/<run>/images``. One process makes it and reads every image once.
    """
    from csp_utils.base.files import read_parquet, write_parquet
    from csp_utils.data.image_keys import image_keys
    from csp_utils.results.origin import Origin, code_and_libraries
    from csp_utils.results.produce import cached

    inputs = {role: job.origin.inputs[role] for role in ("rlaif_v", "pope") if role in job.origin.inputs}
    code, libraries = code_and_libraries([f"{__name__}:image_table"])
    parameters = {name: job.origin.parameters[name] for name in ("n_rows", "seed")}

    def make(folder: Path) -> None:
        from csp_utils.data.benchmarks import read_pope
        from csp_utils.data.overlap import BenchmarkImages

        benchmark = BenchmarkImages(job.p.pope, read_pope(job.p.pope)) if job.p.pope else None
        write_parquet(image_keys(data, benchmark, job.progress), folder / "table.parquet")

    origin = Origin("keys of the images", parameters, inputs, code, libraries)
    table = read_parquet(cached(job.paths["images"], origin, make, job.say) / "table.parquet")
    if job.p.pope and (undecided := int(table["in_benchmark"].isna().sum())):
        job.say(f"For {undecided} of {len(table)} rows it cannot be told whether their image is one of POPE's, because "
                "it cannot be opened; notebook 02_mask drops them.")  # fmt: skip
    return table


def open_shard(job: Job[Extract]) -> ComputeShard:
    """Open the data, load the model, and return the function that computes a shard."""
    from csp_utils.data.rlaif_v import read_rlaif_v
    from csp_utils.models.keyword_lm import extract_keywords, load_keyword_model

    p = job.p
    data = read_rlaif_v(p.rlaif_v or job.paths["data/rlaif_v/train.parquet"]).some(p.n_rows, p.seed)
    rows = data.rows.merge(image_table(job, data), on="row_id", validate="one_to_one")
    model = load_keyword_model(p.keyword_model, p.device, p.max_new_tokens, p.torch_dtype)
    return lambda shard, folder: extract_keywords(rows, model, p.batch_size, job.progress, shard)


def compute(job: Job[Extract]) -> None:
    """Write keywords.parquet."""
    from csp_utils.base.files import write_parquet
    from csp_utils.results.shards import gather

    write_parquet(gather(job, job.out), job.out / "keywords.parquet")


STAGE = Stage("01_extract", Extract, compute, makes=("keywords.parquet",), reads=reads, open_shard=open_shard,
              schema=schema, gpu=True, cost=cost)  # fmt: skip
