"""Stage 01: the key object of each question and answer (paper, section 3.2; prompt A.1)."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from csp_utils.base.params import DEVICE, RLAIF_V, SHARDS, Dtype, Params
from csp_utils.base.run import RunPaths
from csp_utils.results.cost import BYTES, OVERHEAD_GB, STEP_SECONDS, TEXT_TOKENS, Cost, Known, billions, hours
from csp_utils.results.stage import ComputeShard, Inputs, Job, Stage

if TYPE_CHECKING:
    import pyarrow as pa


class Extract(Params):
    """Parameters of notebook 01."""

    rlaif_v: str | None = RLAIF_V
    n_rows: int | None = Field(24, ge=1, description="first rows to use; null for all")
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
    """Return RLAIF-V, the model, and POPE where rows are compared with it."""
    pope: Inputs = {"pope": Path(p.pope)} if p.pope else {}
    return {"rlaif_v": Path(p.rlaif_v or paths["data/rlaif_v/train.parquet"]), "keyword_model": p.keyword_model} | pope


def cost(p: Extract, paths: RunPaths, known: Known) -> Cost:
    """Count one prompt a row; what the prompts share is computed once."""
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


def open_shard(job: Job[Extract]) -> ComputeShard:
    """Open the data, load the model, and return what computes a shard."""
    from csp_utils.data.benchmarks import read_pope
    from csp_utils.data.rlaif_v import read_rlaif_v, rows_with_benchmark_images
    from csp_utils.models.keyword_lm import extract_keywords, load_keyword_model

    p = job.p
    data = read_rlaif_v(p.rlaif_v or job.paths["data/rlaif_v/train.parquet"], p.n_rows)
    held_out = rows_with_benchmark_images(data.rows, read_pope(p.pope)) if p.pope else None
    model = load_keyword_model(p.keyword_model, p.device, p.max_new_tokens, p.torch_dtype)
    return lambda shard, folder: extract_keywords(data, model, p.batch_size, job.progress, held_out, shard)


def compute(job: Job[Extract]) -> None:
    """Write keywords.parquet."""
    from csp_utils.base.files import write_parquet
    from csp_utils.results.shards import gather

    write_parquet(gather(job, job.out), job.out / "keywords.parquet")


STAGE = Stage("01_extract", Extract, compute, makes=("keywords.parquet",), reads=reads, open_shard=open_shard,
              schema=schema, gpu=True, cost=cost)  # fmt: skip
