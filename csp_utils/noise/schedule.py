"""A noise schedule fitted to a model: the base loses sight of the object as evenly as possible while c falls.

The paper prints neither T_max nor gamma. Only what is left of the signal matters to a picture, alpha-bar =
(1 - gamma)^T_c (:mod:`csp_utils.noise.diffusion`), and with gamma at hand the label c says how much that is. A model sees
an object well down to some alpha-bar and not at all below another. If gamma is far from these, most labels name
pictures in which the model sees all, or nothing.

So the base is asked of training images whether their key object is there, under noise of several alpha-bar. The share
of Yes, made monotone (isotonic regression over log alpha-bar), is a curve A; then gamma is chosen so that A at the
alpha-bar of c is as close as possible, in mean square over c = 0 .. 100, to the line from A(1) at c = 100 to the least
of A at c = 0. Only training images are looked at.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from csp_utils.asking.variants import ask_variants
from csp_utils.base.errors import UserError
from csp_utils.base.params import Schedule
from csp_utils.models.vlm.reply import Asking, Progress, Prompt, draw_seed
from csp_utils.noise.diffusion import Diffusion, noise_steps
from csp_utils.noise.noised_view import EncodedMask, NoisyImage
from csp_utils.noise.training_rows import kept
from csp_utils.words.prompts import plain_question
from csp_utils.words.reading import parse_yes_no

if TYPE_CHECKING:
    from csp_utils.data.rlaif_v import RlaifV
    from csp_utils.models.vlm.load import VLM

GAMMAS = np.union1d(np.geomspace(1e-6, 0.5, 2000), [0.005])
"""Among which gamma is sought; the default is one of them."""


def choose(masks: pd.DataFrame, n_rows: int | None, seed: int) -> pd.DataFrame:
    """Rows with a mask, one for each image and key object, in an order drawn by the seed; the first ``n_rows``."""
    rows = kept(masks).drop_duplicates(["image_path", "keyword"])
    order = [draw_seed(seed, "schedule", row_id) for row_id in rows["row_id"]]
    return rows.assign(order=order).sort_values("order").drop(columns="order").head(n_rows).reset_index(drop=True)


def question(keyword: str) -> str:
    """POPE's question about an object."""
    return f"Is there {'an' if keyword[:1].lower() in 'aeiou' else 'a'} {keyword} in the image?"


def ask(rows: pd.DataFrame, data: "RlaifV", p: Schedule, folder: Path, pictures: Path,
        progress: Progress = lambda batches, _: batches) -> pd.DataFrame:
    """What the base answers about every row at every signal.

    Args:
        rows: of :func:`choose`.
        data: the RLAIF-V rows that the masks were made from.
        folder: where the replies are kept (:func:`csp_utils.asking.variants.ask_variants`).
        pictures: an empty folder for the images while they are asked about.

    Returns:
        row_id, keyword, signal, answer ("Yes", "No" or null if it could not be read). Signal 1 is the unchanged image.
    """
    prompts, keys, asked = [], [], []
    for row in rows.itertuples():
        path = pictures / f"{row.row_id}.png"
        data.image(row.row_id).save(path)
        mask = EncodedMask(row.rle_counts, int(row.width), int(row.height))
        for signal in p.signals:
            # One step that leaves the signal: the same noise, drawn once for the row, at every signal.
            shown = path if signal == 1 else NoisyImage(path, 0, row.row_id, p.seed, Diffusion(1, 1 - signal), mask)
            prompts.append(Prompt(shown, plain_question(question(row.keyword))))
            keys.append((row.row_id, row.keyword, signal))
            asked.append((*keys[-1], row.rle_counts, prompts[-1].text))

    def replies(vlm: "VLM", variant: str) -> pd.DataFrame:
        asking = Asking(p.batch_size, p.max_new_tokens, progress=progress, description=f"asking {variant}")
        said = vlm.ask(prompts, asking)
        return pd.DataFrame({"raw": [reply.text for reply in said]})

    facts = {"asked": asked, "seed": p.seed}  # the path of a picture is another one each time
    (_, said), = ask_variants(p, {"base": p.base_model}, facts, folder, prompts[:9], replies)
    table = pd.DataFrame(keys, columns=["row_id", "keyword", "signal"])
    return table.assign(answer=[parse_yes_no(raw) for raw in said["raw"]])


def curve(table: pd.DataFrame) -> pd.DataFrame:
    """How often the object is seen at each signal.

    Returns:
        signal (falling), n (answers that were read), unread, seen (share of Yes), fitted (the monotone curve).
    """
    from sklearn.isotonic import IsotonicRegression

    read = table.assign(yes=(table["answer"] == "Yes").astype(float).where(table["answer"].notna()))
    found = read.groupby("signal")["yes"].agg(n="count", size="size", seen="mean").reset_index()
    found = found.sort_values("signal", ascending=False, ignore_index=True)
    if (found["n"] == 0).any():
        raise UserError("At one of the signals no answer could be read as Yes or No; raise n_rows or max_new_tokens.")
    monotone = IsotonicRegression().fit(np.log(found["signal"]), found["seen"], sample_weight=found["n"])
    return found.assign(unread=found["size"] - found["n"], fitted=monotone.predict(np.log(found["signal"])))[
        ["signal", "n", "unread", "seen", "fitted"]
    ]


def seen_at(curve: pd.DataFrame, signal: np.ndarray) -> np.ndarray:
    """The fitted curve at each signal (alpha-bar), linear in its logarithm between the points, level beyond them."""
    rising = curve.sort_values("signal")
    signal = np.maximum(signal, np.finfo(float).tiny)
    return np.interp(np.log(signal), np.log(rising["signal"].to_numpy()), rising["fitted"].to_numpy())


def by_level(curve: pd.DataFrame, t_max: int, gamma: float) -> np.ndarray:
    """(101,) how often the object is seen at c = 0 .. 100 with a schedule."""
    steps = np.array([noise_steps(c, t_max) for c in range(101)])
    return seen_at(curve, (1 - gamma) ** steps)


def even(curve: pd.DataFrame) -> np.ndarray:
    """(101,) the line that is aimed at."""
    return np.linspace(curve["fitted"].min(), curve["fitted"].max(), 101)


def unevenness(curve: pd.DataFrame, t_max: int, gamma: float) -> float:
    """Root mean square distance of :func:`by_level` from :func:`even`, 0..1."""
    return float(np.sqrt(np.mean((by_level(curve, t_max, gamma) - even(curve)) ** 2)))


def fit(curve: pd.DataFrame, t_max: int, least_fall: float) -> dict[str, Any]:
    """The gamma that makes the fall most even.

    Returns:
        t_max, gamma, unevenness, unevenness_default (of gamma 0.005 and T_max 1000), fall (of the curve), n_rows.

    Raises:
        UserError: the curve falls by less than ``least_fall``, so that every gamma would be as good.
    """
    fall = float(curve["fitted"].max() - curve["fitted"].min())
    if fall < least_fall:
        raise UserError(f"The model sees the object {curve['fitted'].max():.0%} of the time without noise and "
                        f"{curve['fitted'].min():.0%} under the most, a fall of less than {least_fall:.0%}: no "
                        "schedule can be fitted; add smaller signals, or keep gamma in 03_perturb.")  # fmt: skip
    found = float(min(GAMMAS, key=lambda gamma: unevenness(curve, t_max, gamma)))
    return {"t_max": t_max, "gamma": round(found, 8), "unevenness": unevenness(curve, t_max, found),
            "unevenness_default": unevenness(curve, 1000, 0.005), "fall": fall,
            "n_rows": int(curve["n"].max())}  # fmt: skip


def compared(fitted: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """The schedules that a figure shows: name -> (T_max, gamma)."""
    both = {"default": (1000, 0.005), "fitted": (fitted["t_max"], fitted["gamma"])}
    return {f"{name}: $T_{{max}}$ = {t_max}, $\\gamma$ = {gamma:.3g}": (t_max, gamma)
            for name, (t_max, gamma) in both.items()}  # fmt: skip
