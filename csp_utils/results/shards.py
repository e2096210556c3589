"""Compute the rows of a long stage in shards, in parallel or on several machines, and combine them.

With ``shards: 7`` in a stage's section, ./run_all.sh computes seven shards before the notebook, which then combines
them instead of computing its rows. A shard takes every seventh *batch*, always complete. A batch therefore has the same
members, and gives the same numbers, for any number of shards.

A shard is a folder, ``outputs/<run>/shards/<stage>/<i>of<n>``, with its rows, their files, and the record of its
origin. Shards of another origin are ignored.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from csp_utils.base.files import write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.results.origin import RECORD, Origin, code_and_libraries, read_record
from csp_utils.results.produce import cached
from csp_utils.results.stage import Job, Shard

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TABLE, POSITION = "table.parquet", "position"


def shard_folder(paths: RunPaths, stage: str, shard: Shard) -> Path:
    """Return the folder of a shard."""
    return paths["shards"] / stage / shard.name


def rows_origin(job: Job) -> Origin:
    """Return the origin of a stage's rows: that of its results or, where rows are kept, without what decides later."""
    stage, origin = job.stage, job.origin
    if not stage.keeps:
        return origin
    parameters = {name: value for name, value in origin.parameters.items() if name not in stage.decides}
    code, libraries = code_and_libraries(stage.functions[1:], stage.files, stage.libraries)  # without compute
    return Origin(f"{stage.name}, rows", parameters, origin.inputs, code, libraries)


def _origin(job: Job, shard: Shard) -> Origin:
    return rows_origin(job).but(f"{job.stage.name}, shard {shard.name}", shard=shard.name)


def _kept(job: Job) -> bool:
    recorded = read_record(job.paths[job.stage.keeps] / RECORD) if job.stage.keeps else None
    return recorded is not None and not recorded[0].differences(rows_origin(job))


def kept_rows(job: Job) -> "pa.Table":
    """Return the rows of a stage that keeps them; they are computed only if the kept ones have another origin."""
    import pyarrow.parquet as pq

    if _kept(job):
        job.say(f"The rows in {job.paths[job.stage.keeps]} are used again; only what is decided about them is new.")

    def make(folder: Path) -> None:
        write_parquet(gather(job, folder), folder / TABLE)

    return pq.read_table(cached(job.paths[job.stage.keeps], rows_origin(job), make, job.say) / TABLE)


def write_shard(job: Job, shard: Shard) -> Path:
    """Compute one shard, unless it is current, and return its folder; nothing is computed where rows are kept."""
    assert job.stage.open_shard and job.stage.schema
    open_shard, schema = job.stage.open_shard, job.stage.schema()
    if _kept(job):
        return job.paths[job.stage.keeps]

    def make(folder: Path) -> None:
        write_parquet(_as_arrow(open_shard(job)(shard, folder), schema), folder / TABLE)

    return cached(shard_folder(job.paths, job.stage.name, shard), _origin(job, shard), make, job.say)


def gather(job: Job, folder: Path) -> "pa.Table":
    """Return the whole table of a stage from the current shards; compute the missing ones here.

    Args:
        folder: receives the files of the rows; those of existing shards are linked (or copied).

    Returns:
        pyarrow table of the stage's schema, sorted by position.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert job.stage.open_shard and job.stage.schema
    schema, n = job.stage.schema(), getattr(job.p, "shards", 1)
    with_position = schema.append(pa.field(POSITION, pa.int64()))
    tables, left = [], []
    for shard in (Shard(i, n) for i in range(n)):
        there = shard_folder(job.paths, job.stage.name, shard)
        recorded = read_record(there / RECORD) if n > 1 else None
        if recorded and not recorded[0].differences(_origin(job, shard)):
            tables.append(pq.read_table(there / TABLE).cast(with_position))  # Parquet names list elements differently
            _link(there, folder)
        else:
            left.append(shard)
    if n > 1:
        job.say(f"{n - len(left)} of {n} shards are there" + (f"; {len(left)} are computed here" if left else ""))
    compute = job.stage.open_shard(job) if left else None
    tables += [_as_arrow(compute(shard, folder), schema) for shard in left if compute]
    return pa.concat_tables(tables).sort_by(POSITION).drop_columns([POSITION]).combine_chunks()


def _as_arrow(table: "pd.DataFrame", schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa

    rows = pa.Table.from_pandas(table, schema=schema, preserve_index=False).replace_schema_metadata(None)
    return rows.append_column(POSITION, pa.array(table.index, pa.int64()))


def _link(shard: Path, folder: Path) -> None:
    """Link the files of a shard into ``folder`` under the same names; copy them if the folder is on another disk."""
    for file in sorted(shard.rglob("*")):
        if file.is_file() and file.name not in (TABLE, RECORD):
            target = folder / file.relative_to(shard)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:
                shutil.copyfile(file, target)
