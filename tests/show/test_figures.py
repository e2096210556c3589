"""Figures are drawn from tables of every kind that a run can hold, and show what the tables say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_answers import noisy_answers
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from csp_utils.measures.metrics import Protocol, compute, risk_coverage_table
from csp_utils.show import published, style
from csp_utils.show.figures.fig_calibration import (
    calibration,
    correlation,
    token_probabilities,
    verbalized_numbers,
)
from csp_utils.show.figures.fig_metrics import bars, plain_answers, risk_coverage
from csp_utils.show.figures.fig_training import show_images


@pytest.fixture(scope="module", params=[False, True], ids=["all parsed", "base never parsed"])
def tables(request: pytest.FixtureRequest):
    table = noisy_answers(request.param)
    return table, *compute(table, Protocol(), 20)


def test_every_figure_is_drawn_and_saved(tables, tmp_path: Path) -> None:
    table, metrics, plain, _ = tables
    for name, figure in {
        "calibration": calibration(table, "pope_adversarial"),
        "bars": bars(metrics, "amber_attribute"),
        "plain": plain_answers(plain),
        "tokens": token_probabilities(table, "pope_adversarial"),
        "correlation": correlation(table),
    }.items():
        png, pdf, text = style.save(figure, tmp_path, name, f"This is {name}.")
        assert png.read_bytes()[:4] == b"\x89PNG" and png.stat().st_size > 5000
        assert pdf.read_bytes()[:5] == b"%PDF-" and pdf.stat().st_size > 5000
        assert text.read_text() == f"This is {name}.\n"
        assert max(figure.get_size_inches()) <= 7.2 and min(t.get_fontsize() for t in letters(figure)) >= 7
    assert len(list(tmp_path.iterdir())) == 15  # nothing half-written


def letters(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text()]


def test_a_saved_pdf_can_be_printed_and_is_always_the_same(tmp_path: Path) -> None:
    caption = "Spearman's ρ is −0.5, and so on"
    once, again = (calibration(noisy_answers(), "pope_adversarial") for _ in range(2))
    first = [path.read_bytes() for path in style.save(once, tmp_path / "a", "x", caption)]
    assert first == [path.read_bytes() for path in style.save(once, tmp_path / "b", "x", caption)]
    assert first == [path.read_bytes() for path in style.save(again, tmp_path / "c", "x", caption)]
    pdf = first[1]
    assert b"/Subject (\xfe\xff" + caption.encode("utf-16-be") + b")" in pdf and b"/CreationDate" not in pdf
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, embedded


def test_a_figure_that_cannot_be_saved_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = calibration(noisy_answers(), "pope_adversarial")
    kept = [path.read_bytes() for path in style.save(figure, tmp_path, "x", "kept")]

    def cut(path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("cut")

    monkeypatch.setattr(figure, "savefig", cut)
    with pytest.raises(RuntimeError):
        style.save(figure, tmp_path, "x", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.md", "x.pdf", "x.png"]
    assert [(tmp_path / f"x.{suffix}").read_bytes() for suffix in ("png", "pdf", "md")] == kept


def test_variants_can_be_told_apart_in_grey() -> None:
    greys = [sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(style.of(v)[0]), strict=True))
             for v in ("base", "sft", "csp")]  # fmt: skip
    assert greys[0] - greys[1] > 0.15 and greys[1] - greys[2] > 0.15
    assert all(len({style.of(v)[i] for v in ("base", "sft", "csp")}) == 3 for i in (1, 2))  # line and marker


def test_the_calibration_figure_shows_what_the_table_says() -> None:
    table = noisy_answers()
    figure = calibration(table, "pope_adversarial")
    base = style.pair_counts(table.query("variant == 'base' and split == 'pope_adversarial'"))
    assert base.sum() == 80 and base[:, 95].tolist() == [40, 40]
    legends = [text.get_text() for axis in figure.axes[:2] for text in axis.get_legend().get_texts()]
    assert legends[0] == "base: AUC 0.50" and "base: ECE 0.45, Brier 0.45" in legends  # (0.95^2 + 0.05^2) / 2
    heights = [bar.get_height() for bar in figure.axes[2].patches]
    assert sum(heights) == 3 * 80  # every pair of every variant is in a bar


def test_a_cell_of_constant_confidence_is_still_seen() -> None:
    cells = correlation(noisy_answers()).axes[0].collections[0]  # all pairs of base lie in two hexagons
    shades = cells.to_rgba(cells.get_array())[:, :3]
    assert len(shades) == 2 and (shades < 0.9).all()


def test_a_split_without_any_confidence_is_said() -> None:
    table = noisy_answers().assign(verbalized=pd.NA).astype({"verbalized": "Int64"})
    figure = calibration(table, "pope_adversarial")
    assert [t.get_text() for axis in figure.axes[:2] for t in axis.texts] == ["no confidence was parsed"] * 2


def test_undefined_values_are_said_not_drawn_as_zero() -> None:
    metrics = compute(noisy_answers(nulls=True), Protocol(), 5)[0]
    figure = bars(metrics, "pope_adversarial")
    assert sum(t.get_text() == "undefined" for t in figure.axes[0].texts) == 3  # auc, brier, ece of base


def test_the_published_numbers_are_the_papers() -> None:
    table = published.published().set_index(["model", "variant", "split", "metric"])["value"]
    assert table["Qwen2-VL-7B-Instruct", "base", "pope_popular", "ece"] == 0.4770
    assert table["InternVL2-8B", "csp", "amber_relation", "acc"] == 0.79
    assert table["Phi-3.5-vision-instruct", "csp", "amber_attribute", "kendall"] == 0.28
    assert table["Qwen-VL-Chat", "csp", "amber_attribute", "brier"] == 0.2778
    assert len(table) == 4 * 2 * 5 * 5 + 2 and table.index.is_unique


def test_ours_stand_beside_the_papers() -> None:
    metrics = compute(noisy_answers(), Protocol(), 5)[0]
    table = published.beside_published(metrics, "Qwen2-VL-7B-Instruct", ["acc", "auc"])
    assert list(table.columns) == ["csp", "base", "sft", "paper base", "paper csp"]
    assert table.loc[("pope_adversarial", "acc"), "paper csp"] == "0.72"
    assert table.loc[("pope_adversarial", "auc"), "paper csp"] == "–"
    assert table.loc[("pope_adversarial", "acc"), "base"].startswith("0.00")


def test_a_model_none_of_whose_replies_were_read_has_an_empty_panel() -> None:
    """Was: a ValueError of matplotlib in place of the whole report."""
    said = noisy_answers(nulls=True)
    figure = verbalized_numbers(said, "tiny")
    assert [axis.get_title() for axis in figure.axes] == ["base", "SFT", "SFT + SimPO"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["no reply could be read"]
    alone = verbalized_numbers(said[said["variant"] == "base"], "tiny")
    assert len(alone.axes) == 1
    assert [bool(axis.get_legend()) for axis in figure.axes] == [False, True, False]


@pytest.mark.parametrize("name", ["a$b_{$", "$x", "$$", "\\frac{$1$}", "a_b^{}%s <b>"])
def test_a_name_with_dollar_signs_is_drawn_as_it_is(name: str, tmp_path: Path) -> None:
    """Formerly, matplotlib read what is between two dollar signs as mathematics, and failed after all was asked."""
    table = noisy_answers(False).assign(model=name)
    metrics = compute(table, Protocol(), 20)[0]
    blank = np.zeros((4, 4, 3), np.uint8)
    for figure in (calibration(table, "pope_adversarial"), bars(metrics, "pope_adversarial"),
                   risk_coverage(risk_coverage_table(table, Protocol()), "pope_adversarial"),
                   show_images({f"a question about {name}": blank})):  # fmt: skip
        figure.savefig(tmp_path / "x.png")
        assert any(name in axis.get_title() for axis in figure.axes)
