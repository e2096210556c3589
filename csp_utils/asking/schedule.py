"""Ask the base model whether it still sees an object under noise of several strengths (notebook 10)."""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from csp_utils.asking.variants import Questionnaire, ask_variants, digest_of_files
from csp_utils.base.progress import Progress, silent
from csp_utils.data.rlaif_v import RlaifV
from csp_utils.models.vlm.load import VLM
from csp_utils.models.vlm.reply import Asking, Prompt, draw_seed
from csp_utils.noise.diffusion import Diffusion
from csp_utils.noise.noised_view import EncodedMask, NoisyImage
from csp_utils.noise.training_rows import rows_with_masks
from csp_utils.words.answers import stated
from csp_utils.words.english import is_there
from csp_utils.words.prompts import plain_question


def choose(masks: pd.DataFrame, n_rows: int | None, seed: int) -> pd.DataFrame:
    """Return the first ``n_rows`` rows with a mask, one for each image and object, in an order drawn by the seed."""
    rows = rows_with_masks(masks).drop_duplicates(["image_path", "keyword"])
    order = [draw_seed(seed, "schedule", row_id) for row_id in rows["row_id"]]
    return rows.assign(order=order).sort_values("order").drop(columns="order").head(n_rows).reset_index(drop=True)


def ask(rows: pd.DataFrame, data: RlaifV, p: Any, folder: Path, progress: Progress = silent) -> pd.DataFrame:
    """Return the base model's answers about every row at every signal.

    Args:
        rows: as :func:`choose` returns them.
        data: the RLAIF-V rows that the masks were made from.
        p: parameters of notebook 10.
        folder: cache of the replies (:func:`csp_utils.asking.variants.ask_variants`).

    Returns:
        row_id, keyword, signal, answer ("Yes", "No" or null if it could not be read). Signal 1 is the unchanged image.
    """
    with tempfile.TemporaryDirectory() as images:
        return _ask(rows, data, p, folder, Path(images), progress)


def _ask(rows: pd.DataFrame, data: RlaifV, p: Any, folder: Path, images: Path, progress: Progress) -> pd.DataFrame:
    prompts, keys, facts = [], [], []
    for row in rows.itertuples():
        path = images / f"{row.row_id}.png"
        data.image(row.row_id).save(path)
        mask = EncodedMask(row.rle_counts, int(row.width), int(row.height))
        for signal in p.signals:
            # One step that leaves the signal: the same noise, drawn once for the row, at every signal.
            shown = path if signal == 1 else NoisyImage(path, 0, row.row_id, p.seed, Diffusion(1, 1 - signal), mask)
            prompts.append(Prompt(shown, plain_question(is_there(row.keyword))))
            keys.append((row.row_id, row.keyword, signal))
            facts.append((*keys[-1], row.rle_counts, prompts[-1].text))

    def replies(vlm: VLM, variant: str) -> pd.DataFrame:
        asking = Asking(p.batch_size, p.max_new_tokens, progress=progress, description=f"asking {variant}")
        return pd.DataFrame({"raw": [reply.text for reply in vlm.ask(prompts, asking)]})

    questionnaire = Questionnaire(replies, f"{__name__}:_ask", {"asked": facts, "seed": p.seed},
                          {"images": digest_of_files(images.iterdir())}, prompts[:9])  # fmt: skip
    (_, answers), = ask_variants(p, {"base": p.base_model}, questionnaire, folder)
    table = pd.DataFrame(keys, columns=["row_id", "keyword", "signal"])
    texts = [plain_question(is_there(keyword)) for keyword in table["keyword"]]
    return table.assign(answer=[stated(raw, text) for raw, text in zip(answers["raw"], texts, strict=True)])
