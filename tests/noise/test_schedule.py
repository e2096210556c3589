"""The fitted schedule: which rows and pictures are asked about, and that the fit finds what is known."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from csp_utils.base.errors import UserError
from csp_utils.base.params import Schedule
from csp_utils.data.rle import encode_mask
from csp_utils.data.views import open_shown
from csp_utils.models.vlm.reply import Reply
from csp_utils.noise import schedule

SIGNALS = [1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003]


def masks(n: int = 12) -> pd.DataFrame:
    """Rows with a mask in the upper left corner, two about each picture and object; the last has no mask."""
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:20, 5:25] = True
    return pd.DataFrame([{
        "row_id": f"{i:03d}", "image_path": f"{i // 2}.png", "question": "What?", "answer": "It.", "keyword": "ox",
        "rle_counts": encode_mask(mask), "width": 60, "height": 40, "drop_reason": "no_box" if i == n - 1 else None,
    } for i in range(n)])  # fmt: skip


def curve(share: dict[float, float], n: int = 200) -> pd.DataFrame:
    """The curve of a model that sees so large a share of the objects at each signal."""
    rows = [(f"{i}", "ox", signal, "Yes" if i < seen * n else "No") for signal, seen in share.items() for i in range(n)]
    return schedule.curve(pd.DataFrame(rows, columns=["row_id", "keyword", "signal", "answer"]))


def test_each_picture_and_object_once_in_an_order_of_the_seed() -> None:
    table = masks()
    chosen = schedule.choose(table, None, 0)
    assert len(chosen) == 6 and not chosen["image_path"].duplicated().any() and "011" not in set(chosen["row_id"])
    again = schedule.choose(table.sample(frac=1, random_state=0).sort_values("row_id"), 3, 0)
    pd.testing.assert_frame_equal(again, chosen.head(3))
    assert any(not schedule.choose(table, None, seed)["row_id"].equals(chosen["row_id"]) for seed in (1, 2, 3))


def test_every_signal_is_shown_with_the_same_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = schedule.choose(masks(), 2, 0)
    picture = Image.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8))
    shown = {}

    def ask_variants(p, checkpoints, facts, folder, some, ask):
        def answer(prompts, *_):
            shown.update({prompt: np.asarray(open_shown(prompt.image)).astype(int) for prompt in prompts})
            return [Reply("Yes." if "ox" in prompt.text else "?", {}) for prompt in prompts]

        yield "base", ask(SimpleNamespace(ask=answer), "base")

    monkeypatch.setattr(schedule, "ask_variants", ask_variants)
    p = Schedule(signals=[1.0, 0.9, 0.6])
    table = schedule.ask(rows, SimpleNamespace(image=lambda row_id: picture), p, tmp_path, tmp_path)
    assert len(table) == 6 and (table["answer"] == "Yes").all() and table["signal"].tolist() == [1.0, 0.9, 0.6] * 2
    first = list(shown.values())[:3]
    inside = np.zeros((40, 60), dtype=bool)
    inside[5:20, 5:25] = True
    assert (first[0] == 90).all() and all((one[~inside] == 90).all() for one in first)
    signal = lambda alpha: 127.5 * (alpha**0.5 * (90 / 127.5 - 1) + 1)  # noqa: E731
    little, more = (first[1][inside] - signal(0.9), first[2][inside] - signal(0.6))
    assert np.corrcoef(little.ravel(), more.ravel())[0, 1] > 0.9  # but for what is clipped


def test_the_curve_is_made_monotone_and_counts_what_was_not_read() -> None:
    found = curve({1.0: 0.9, 0.5: 0.6, 0.2: 0.7, 0.01: 0.1})
    assert found["signal"].tolist() == [1.0, 0.5, 0.2, 0.01] and (found["n"] == 200).all()
    assert found["fitted"].tolist() == pytest.approx([0.9, 0.65, 0.65, 0.1])
    rows = pd.DataFrame({"row_id": ["0", "1"], "keyword": "ox", "signal": [1.0, 1.0], "answer": ["Yes", None]})
    assert schedule.curve(rows)[["n", "unread", "seen"]].iloc[0].tolist() == [1, 1, 1.0]
    with pytest.raises(UserError, match="no answer could be read as Yes or No"):
        schedule.curve(rows.assign(answer=None))


@given(st.floats(2e-4, 2e-2), st.integers(200, 2000))
@settings(max_examples=20, deadline=None)
def test_a_gamma_that_makes_the_fall_even_is_found(gamma: float, t_max: int) -> None:
    """A model whose sight falls linearly in c under this gamma: the fit gives gamma back."""
    signals = sorted({(1 - gamma) ** (t_max * share) for share in np.linspace(0, 1, 21)}, reverse=True)
    if signals[-1] < 1e-12:
        return
    found = pd.DataFrame({"signal": signals, "fitted": np.linspace(0.9, 0.2, len(signals)), "n": 100})
    fitted = schedule.fit(found, t_max, 0.1)
    assert fitted["gamma"] == pytest.approx(gamma, rel=0.03) and fitted["unevenness"] < 0.01
    assert fitted["unevenness"] <= schedule.unevenness(found, t_max, 0.005) + 1e-6


def test_by_level_falls_with_c_and_meets_both_ends() -> None:
    found = curve(dict(zip(SIGNALS, np.linspace(0.95, 0.05, len(SIGNALS)), strict=True)))
    seen = schedule.by_level(found, 1000, 0.005)
    assert (np.diff(seen) >= 0).all() and seen[100] == pytest.approx(0.95) and seen[0] < 0.15
    assert schedule.by_level(found, 1000, 0.9)[:99].max() == pytest.approx(0.05)  # no signal is left: level, no error


def test_a_model_that_does_not_lose_sight_cannot_be_fitted() -> None:
    with pytest.raises(UserError, match="95% of the time without noise and 92% under the most, a fall"):
        schedule.fit(curve({1.0: 0.95, 0.1: 0.93, 0.01: 0.92}), 1000, 0.1)


def test_popes_question_has_its_article() -> None:
    assert schedule.question("anchor") == "Is there an anchor in the image?"
    assert schedule.question("gear") == "Is there a gear in the image?"
