"""What notebook 10 asks: which rows, which images, and which question."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from csp_utils.asking import schedule
from csp_utils.data.rle import encode_mask
from csp_utils.data.views import open_shown
from csp_utils.models.vlm.reply import Reply
from csp_utils.stages.schedule import Schedule


def masks(n: int = 12) -> pd.DataFrame:
    """Rows with a mask in the upper left corner, two about each image and object; the last has no mask."""
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:20, 5:25] = True
    return pd.DataFrame([{
        "row_id": f"{i:03d}", "image_path": f"{i // 2}.png", "question": "What?", "answer": "It.", "keyword": "ox",
        "rle_counts": encode_mask(mask), "width": 60, "height": 40, "drop_reason": "no_box" if i == n - 1 else None,
    } for i in range(n)])  # fmt: skip


def test_each_image_and_object_once_in_an_order_of_the_seed() -> None:
    table = masks()
    chosen = schedule.choose(table, None, 0)
    assert len(chosen) == 6 and not chosen["image_path"].duplicated().any() and "011" not in set(chosen["row_id"])
    again = schedule.choose(table.sample(frac=1, random_state=0).sort_values("row_id"), 3, 0)
    pd.testing.assert_frame_equal(again, chosen.head(3))
    assert any(not schedule.choose(table, None, seed)["row_id"].equals(chosen["row_id"]) for seed in (1, 2, 3))


def test_every_signal_is_shown_with_the_same_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = schedule.choose(masks(), 2, 0)
    image = Image.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8))
    shown = {}

    def ask_variants(p, checkpoints, asked, folder):
        def answer(prompts, *_):
            shown.update({prompt: np.asarray(open_shown(prompt.image)).astype(int) for prompt in prompts})
            return [Reply("Yes." if "ox" in prompt.text else "?", {}) for prompt in prompts]

        yield "base", asked.ask(SimpleNamespace(ask=answer), "base")

    monkeypatch.setattr(schedule, "ask_variants", ask_variants)
    p = Schedule(signals=[1.0, 0.9, 0.6])
    table = schedule.ask(rows, SimpleNamespace(image=lambda row_id: image), p, tmp_path)
    assert len(table) == 6 and (table["answer"] == "Yes").all() and table["signal"].tolist() == [1.0, 0.9, 0.6] * 2
    first = list(shown.values())[:3]
    inside = np.zeros((40, 60), dtype=bool)
    inside[5:20, 5:25] = True
    assert (first[0] == 90).all() and all((one[~inside] == 90).all() for one in first)
    signal = lambda alpha: 127.5 * (alpha**0.5 * (90 / 127.5 - 1) + 1)  # noqa: E731
    little, more = (first[1][inside] - signal(0.9), first[2][inside] - signal(0.6))
    assert np.corrcoef(little.ravel(), more.ravel())[0, 1] > 0.9  # but for what is clipped
