"""Stage 6: asks every variant about the benchmarks, in parts where that is wanted, and makes the tables of answers.

What is asked of a model is said in :mod:`csp_utils.asking.elicitation`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from csp_utils.asking.elicitation import (
    KINDS,
    Plan,
    elicit,
    prompt_of,
    read_questions,
    responses_table,
    unique_questions,
)
from csp_utils.asking.elicitation_table import elicitations_table
from csp_utils.asking.variants import CHECKED, FEW, ask_variants, checkpoints_of
from csp_utils.base.files import write_parquet
from csp_utils.base.run import RunPaths
from csp_utils.models.vlm.load import VLM
from csp_utils.models.vlm.reply import Asking, Progress
from csp_utils.pipeline.shards import POSITION, WHOLE, Compute, Shard, gather
from csp_utils.words.confidence_prompts import CONFIDENCE_PROMPTS

if TYPE_CHECKING:
    from csp_utils.base.params import Eval

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("variant", "path", "question", "name", "kind", "prompt", "raw")]
    + [("p_yes", pa.float64()), ("p_no", pa.float64())]
    + [("levels", pa.list_(pa.float64())), ("samples", pa.list_(pa.string()))]
)
"""Columns of the replies: the variant, and those of :func:`csp_utils.asking.elicitation.elicit`."""


def questions(p: "Eval", paths: RunPaths) -> pd.DataFrame:
    """The questions that are asked, as :func:`csp_utils.asking.elicitation.read_questions` gives them."""
    amber = Path(p.amber or paths.amber) if "amber" in p.benchmarks else None
    return read_questions(Path(p.pope or paths.pope), amber, p.n_questions)


def ask(p: "Eval", models: Mapping[str, str], asked_about: pd.DataFrame, folder: Path,
        progress: Progress = lambda batches, _: batches, shard: Shard = WHOLE) -> pd.DataFrame:
    """What the variants say to the prompts of a shard.

    Args:
        models: variant -> folder or hub id.
        asked_about: as :func:`questions` returns it.
        folder: as for :func:`csp_utils.asking.variants.ask_variants`, whose errors this raises.

    Returns:
        rows of :data:`SCHEMA`; the index is their position among those of all shards.
    """
    plan = Plan(tuple(p.prompts), tuple(p.methods), p.n_samples, p.temperature, tuple(p.blurs), p.seed)
    pairs = unique_questions(asked_about)
    first = pairs.head(CHECKED.get(p.engine, FEW)).itertuples(index=False)
    some = [plan.prompt(*question, *pair) for question in first for pair in plan.asked()]
    facts = asdict(plan) | {
        "questions": pairs.values.tolist(),
        "images": sorted((path, Path(path).stat().st_mtime_ns) for path in pairs["path"].unique()),
        "texts": [prompt_of("{}", kind) for kind in KINDS]
        + [[name, prompt.text] for name, prompt in CONFIDENCE_PROMPTS.items()],
    }

    def of_one(vlm: VLM, variant: str) -> pd.DataFrame:
        asking = Asking(p.batch_size, p.max_new_tokens, progress=progress, description=f"asking {variant}")
        said = elicit(vlm, asked_about, asking, plan, shard)
        return said.reset_index(names=POSITION)

    tables = []
    for number, (variant, said) in enumerate(ask_variants(p, models, facts, folder, some, of_one, shard)):
        said[POSITION] += number * len(pairs) * len(plan.asked())
        tables.append(said.assign(variant=variant).set_index(POSITION))
    return pd.concat(tables)


def computing(p: "Eval", models: Mapping[str, str], asked_about: pd.DataFrame, folder: Path,
              progress: Callable[..., Iterable]) -> Compute:
    """What computes a shard of the stage; ``folder`` keeps the replies of each model that has been asked."""
    by_batch = partial(progress, unit="batch")
    return lambda shard, _: ask(p, models, asked_about, folder, by_batch, shard)


def load(p: "Eval", paths: RunPaths, progress: Callable[..., Iterable]) -> Compute:
    """Reads the questions and returns what computes a shard."""
    return computing(p, checkpoints_of(p, paths), questions(p, paths), paths.elicited, progress)


def run(p: "Eval", paths: RunPaths, compute: Compute, asked_about: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The whole stage up to the answers: writes responses.parquet and elicitations.parquet, returns them."""
    whole = gather("06_eval", p, paths, compute, SCHEMA, paths.root).to_pandas()
    responses, elicitations = [], []
    for variant in p.variants:
        said = whole[whole["variant"] == variant]
        responses.append(responses_table(said, asked_about, p.model_name, variant))
        elicitations.append(elicitations_table(said, asked_about, p.model_name, variant, p.prompts, p.methods))
    tables = pd.concat(responses, ignore_index=True), pd.concat(elicitations, ignore_index=True)
    write_parquet(tables[0], paths.responses)
    write_parquet(tables[1], paths.elicitations)
    return tables
