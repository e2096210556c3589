"""Ask every variant about the benchmarks, and make the tables of answers (notebook 06).

:mod:`csp_utils.asking.elicitation` makes the prompts.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from csp_utils.asking.elicitation import KINDS, Plan, elicit, prompt_of, read_questions, unique_questions
from csp_utils.asking.tables import Rules, elicitations_table, responses_table
from csp_utils.asking.variants import CHECKED, FEW, Questionnaire, ask_variants, digest_of_files
from csp_utils.base.progress import Progress, silent
from csp_utils.base.run import RunPaths
from csp_utils.models.vlm.load import VLM
from csp_utils.models.vlm.reply import Asking
from csp_utils.results.shards import POSITION
from csp_utils.results.stage import WHOLE, Shard
from csp_utils.words.confidence_prompts import CONFIDENCE_PROMPTS

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("variant", "path", "question", "name", "kind", "prompt", "raw")]
    + [("p_yes", pa.float64()), ("p_no", pa.float64()), ("ended", pa.bool_())]
    + [("levels", pa.list_(pa.float32())), ("samples", pa.list_(pa.string())), ("samples_ended", pa.list_(pa.bool_()))]
)
"""Columns of the replies: the variant, and the columns of :func:`csp_utils.asking.elicitation.elicit`."""


def plan(p: Any) -> Plan:
    """Return what is asked with the parameters of notebook 06."""
    return Plan(tuple(p.prompts), tuple(p.methods), p.n_samples, p.temperature, tuple(p.blurs), p.seed)


def questions(p: Any, paths: RunPaths) -> pd.DataFrame:
    """Return the questions of the benchmarks, as :func:`csp_utils.asking.elicitation.read_questions` does."""
    amber = Path(p.amber or paths["data/amber"]) if "amber" in p.benchmarks else None
    return read_questions(Path(p.pope or paths["data/pope"]), amber, p.n_questions)


def ask(p: Any, models: Mapping[str, str], questions: pd.DataFrame, folder: Path, progress: Progress = silent,
        shard: Shard = WHOLE) -> pd.DataFrame:
    """Return the replies of the variants to the prompts of a shard.

    Args:
        p: parameters of notebook 06.
        models: variant -> folder or hub id.
        questions: as :func:`questions` returns them.
        folder: cache of the replies (:func:`csp_utils.asking.variants.ask_variants`).

    Returns:
        rows of :data:`SCHEMA`; the index is their position in the table of all shards.

    Raises:
        UserError: as :func:`csp_utils.asking.variants.ask_variants`.
    """
    asked = plan(p)
    pairs = unique_questions(questions)
    first = pairs.head(CHECKED.get(p.engine, FEW)).itertuples(index=False)

    def of_one(vlm: VLM, variant: str) -> pd.DataFrame:
        asking = Asking(p.batch_size, p.max_new_tokens, progress=progress, description=f"asking {variant}")
        replies = elicit(vlm, questions, asking, asked, shard)
        return replies.reset_index(names=POSITION)

    questionnaire = Questionnaire(
        of_one, f"{__name__}:ask",
        asdict(asked) | {"questions": pairs.values.tolist(), "texts": [prompt_of("{}", kind) for kind in KINDS]
                        + [[name, prompt.text] for name, prompt in CONFIDENCE_PROMPTS.items()]},
        {"images": digest_of_files(pairs["path"].unique())},
        [asked.prompt(*question, *pair) for question in first for pair in asked.kinds()],
    )  # fmt: skip
    tables = []
    for number, (variant, replies) in enumerate(ask_variants(p, models, questionnaire, folder, shard)):
        replies[POSITION] += number * len(pairs) * len(asked.kinds())
        tables.append(replies.assign(variant=variant).set_index(POSITION))
    return pd.concat(tables)


def answer_tables(replies: pd.DataFrame, questions: pd.DataFrame, p: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return responses.parquet and elicitations.parquet of all variants from their replies."""
    responses, elicitations = [], []
    rules = Rules(p.model_name, p.min_mass, p.answer_rule)
    for variant in p.variants:
        own = replies[replies["variant"] == variant]
        responses.append(responses_table(own, questions, variant, rules))
        elicitations.append(elicitations_table(own, questions, variant, rules, (p.prompts, p.methods)))
    return pd.concat(responses, ignore_index=True), pd.concat(elicitations, ignore_index=True)
