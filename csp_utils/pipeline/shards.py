"""Row shards: a long stage computed in parts, beside one another or on several machines, and put together again.

``shards: 7`` in a section of 01_extract, 02_mask, 03_perturb or 06_eval makes ./run_all.sh compute seven parts
(:mod:`csp_utils.pipeline.run_shard`) before the notebook, which then puts them together instead of computing its rows. A shard
takes every seventh *batch*, never a part of one, so that each batch goes through a model in the same company whatever
the number of shards: one, two or seven of them give the same bytes.

A part is a folder, ``outputs/<run>/shards/<notebook>/<i>of<n>``, with its rows, what the stage writes beside them, and
what it was made from. Parts that were made from anything else are not used.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from csp_utils.base.files import sha256, whole_folder, write_json, write_parquet
from csp_utils.base.needs import needs
from csp_utils.base.params import Stage
from csp_utils.base.run import RunPaths
from csp_utils.base.shard import WHOLE, Shard  # noqa: F401  (WHOLE is for the stages)
from csp_utils.pipeline.dependencies import modules

Compute = Callable[[Shard, Path], pd.DataFrame]
"""Computes the rows of a shard. The index is their position in the whole table; files go into the folder."""

TABLE, ORIGIN, POSITION = "table.parquet", "ORIGIN.json", "position"


def place(paths: RunPaths, notebook: str, shard: Shard) -> Path:
    """The folder of a part."""
    return paths.shards / notebook / shard.name


def origin(notebook: str, p: Stage, paths: RunPaths) -> dict[str, Any]:
    """What a part is made from: parameters, input files by size and time of change, and the code of the stage."""
    inputs = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in needs(notebook, p, paths)}
    code = [sha256(file) for file in modules(Path("notebooks") / f"{notebook}.ipynb")]
    return {"parameters": p.model_dump(mode="json"), "inputs": inputs, "code": code}


def write(notebook: str, p: Stage, paths: RunPaths, shard: Shard, compute: Compute, schema: Any) -> Path:
    """Computes one part and writes its folder, whole or not at all; returns the folder."""
    made_from = origin(notebook, p, paths)
    with whole_folder(place(paths, notebook, shard)) as folder:
        write_parquet(_as_arrow(compute(shard, folder), schema), folder / TABLE)
        write_json(made_from, folder / ORIGIN)
    return place(paths, notebook, shard)


def gather(notebook: str, p: Any, paths: RunPaths, compute: Compute, schema: Any, folder: Path) -> Any:
    """The whole table: parts that are there and were made from the same, and the rest computed here.

    Args:
        compute: as for :func:`write`.
        schema: pyarrow's, of the table.
        folder: where files of the stage belong; those of the parts are linked (or copied) there.

    Returns:
        pyarrow table, in the order of the positions.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, whole = p.shards, schema.append(pa.field(POSITION, pa.int64()))
    made_from = origin(notebook, p, paths) if n > 1 else {}
    tables, left = [], []
    for shard in (Shard(i, n) for i in range(n)):
        part = place(paths, notebook, shard)
        if n > 1 and (part / ORIGIN).is_file() and json.loads((part / ORIGIN).read_text()) == made_from:
            tables.append(pq.read_table(part / TABLE).cast(whole))  # Parquet has names of its own for lists' elements
            _link(part, folder)
        else:
            left.append(shard)
    if n > 1:
        print(f"{n - len(left)} of {n} parts are there" + (f"; {len(left)} are computed here" if left else ""))
    tables += [_as_arrow(compute(shard, folder), schema) for shard in left]
    return pa.concat_tables(tables).sort_by(POSITION).drop_columns([POSITION]).combine_chunks()


def _as_arrow(table: pd.DataFrame, schema: Any) -> Any:
    import pyarrow as pa

    rows = pa.Table.from_pandas(table, schema=schema, preserve_index=False).replace_schema_metadata(None)
    return rows.append_column(POSITION, pa.array(table.index, pa.int64()))


def _link(part: Path, folder: Path) -> None:
    """Puts the files of a part into ``folder`` under the same names; a second copy only where disks differ."""
    for file in sorted(part.rglob("*")):
        if file.is_file() and file.name not in (TABLE, ORIGIN):
            target = folder / file.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:
                shutil.copyfile(file, target)
