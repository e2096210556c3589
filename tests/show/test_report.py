"""The report says what the tables say, good or bad; shows what is there, says what is not, and stands alone."""

import base64
import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from csp_utils.asking.elicitation_table import DTYPES

from csp_utils.asking import stress
from csp_utils.base.errors import UserError
from csp_utils.base.files import write_json, write_parquet, write_text
from csp_utils.base.params import NOTEBOOKS, Perturb, Report
from csp_utils.base.run import RunPaths
from csp_utils.data import rle
from csp_utils.data.benchmarks import SPLITS
from csp_utils.data.rlaif_v import read_rlaif_v
from csp_utils.measures import methods as baselines
from csp_utils.measures import stress_curves
from csp_utils.measures.metrics import RESPONSE_COLUMNS, Protocol, compute, compute_measures, compute_methods
from csp_utils.measures.selective import risk_coverage_table
from csp_utils.models import masks
from csp_utils.noise import training_rows
from csp_utils.show import report, saved, sections, tables
from csp_utils.show.page import TEMPLATES, link, section

VARIANTS = ("base", "sft", "csp")


def responses(n: int = 48, better: bool = True, variants: tuple[str, ...] = VARIANTS) -> pd.DataFrame:
    """A base that says 95 about everything; variants that tell right from wrong, or (``better`` false) the opposite."""
    rng, rows = np.random.default_rng(0), []
    for variant in variants:
        for split in SPLITS:
            for i in range(n):
                question = np.random.default_rng([SPLITS.index(split), i])  # the same for every variant
                truth, knows = question.random() < 0.5, question.random() < 0.85
                for candidate in ("Yes", "No"):
                    label = int(truth == (candidate == "Yes"))
                    told = label if better else 1 - label
                    said = 95 if rng.random() < 0.9 else 90
                    if variant != "base":
                        said = int(np.clip(rng.normal(35 + 40 * told, 18), 0, 100))
                    answer = "Yes" if truth == knows else "No"
                    inside = 0.8 if answer == candidate else 0.2
                    rows.append(("tiny-qwen2-vl", variant, split, str(i), f"{i // 4}.png", f"Is there a thing {i}?",
                                 label, candidate, f"{said}%", said, inside + rng.normal(0, 0.02), answer))  # fmt: skip
    return pd.DataFrame(rows, columns=RESPONSE_COLUMNS).astype({"verbalized": "Int64"})


def make_run(folder: Path, name: str = "fake", scenes: int = 8, **how) -> RunPaths:
    """A run folder as notebooks 00 to 07 leave one: drawn scenes with true masks, made-up trainings and responses."""
    from csp_utils.tiny_world.data import write_world

    paths = RunPaths(name, folder)
    things = [scene.find for scene in write_world(paths, scenes, 2, 2, 0)["train"] for _ in range(2)]
    data = read_rlaif_v(paths["data/rlaif_v/train.parquet"])
    truth = pd.read_parquet(paths["data/truth/keywords.parquet"]).set_index("row_id")["keyword"]
    keywords = data.rows[["row_id", "image_path", "question", "answer"]].copy()
    keywords["keyword"] = keywords["row_id"].map(truth)
    keywords["raw"], keywords["drop_reason"] = " " + keywords["keyword"], None
    write_parquet(keywords, paths["keywords.parquet"])
    write_parquet(_masks(keywords, things), paths["masks.parquet"])
    table = pd.read_parquet(paths["masks.parquet"])
    write_parquet(masks.funnel(table), paths["funnel.parquet"])
    training_rows.perturb_all(table, data, paths, Perturb(run=name))
    _trainings(paths)
    said = responses(**how)
    metrics, (measures, further) = compute(said, Protocol(), 60)[0], compute_measures(said, Protocol(), 60)
    quality = [("vlm", "adversarial_plain_acc", 0.84, ">= 0.75 and <= 0.92", True),
               ("sam", "mean_mask_iou_from_predicted_boxes", 0.7, ">= 0.9", False), ("vlm", "n", 600.0, "", None)]
    for file, made in {
        "responses": said, "metrics": metrics, "measures": measures, "measure_differences": further,
        "correlation": metrics[metrics["metric"].isin(["spearman", "kendall"])],
        "risk_coverage": risk_coverage_table(said, Protocol()), **_other_tables(said),
        "tiny_world_quality": pd.DataFrame(quality, columns=["model", "measure", "value", "aim", "met"]),
    }.items():
        write_parquet(made, paths.root / f"{file}.parquet")
    for notebook in NOTEBOOKS:
        parameters = {"03_perturb": {"gamma": 0.004}, "06_eval": {"n_bootstrap": 60}}.get(notebook, {})
        record = {"parameters": parameters, "start_time": "2025-01-02T03:04:05", "duration": 61.5}
        write_json({"cells": [], "metadata": {"papermill": record}}, paths.notebooks / f"{notebook}.ipynb")
    return paths


def _other_tables(said: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Those of other confidences, and of a stress test in which the base says 95 and the others follow c."""
    nothing = pd.DataFrame(columns=list(DTYPES)).astype(DTYPES)
    methods, method_differences = compute_methods(baselines.scores(said, nothing), Protocol(), 20)
    shown = [("object", c) for c in (100, 50, 0)] + [("elsewhere", 50), ("swapped", None), ("removed", None)]
    rows = [("tiny-qwen2-vl", variant, f"{i}.png", "Is there a cat in the image?", "cat", condition, c, candidate,
             stress.ANSWERS[candidate], "?", 95 if variant == "base" else (c or 5), 0.5, "Yes")
            for variant in VARIANTS for i in range(4) for condition, c in shown for candidate in ("Yes", "No")]
    columns = ["model", "variant", "image", "question", "object", "condition", "c", "candidate", "answer", "raw",
               "verbalized", "internal", "plain_answer"]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns).astype({"c": "Int64", "verbalized": "Int64"})
    correlation, differences = stress_curves.correlations(table, 20, 0)
    return {"methods": methods, "method_differences": method_differences, "stress_correlation": correlation,
            "stress_curves": stress_curves.curves(table, 20, 0), "stress_differences": differences}  # fmt: skip


def _masks(keywords: pd.DataFrame, things: list) -> pd.DataFrame:
    rows = []
    for row, find in zip(keywords.itertuples(), things, strict=True):
        found = find(row.keyword)
        mask = np.logical_or.reduce([t.mask for t in found]) if found else None
        rows.append({
            "row_id": row.row_id, "image_path": row.image_path, "question": row.question, "answer": row.answer,
            "keyword": row.keyword, "width": 112, "height": 112, "boxes": [list(t.box) for t in found],
            "scores": [0.9] * len(found), "phrases": [row.keyword] * len(found),
            "rle_counts": rle.encode_mask(mask) if found else None,
            "area_fraction": float(mask.mean()) if found else None, "drop_reason": None if found else "no_box",
        })  # fmt: skip
    return pd.DataFrame(rows)


def _trainings(paths: RunPaths) -> None:
    steps = np.arange(1, 41)
    log = pd.DataFrame({"step": steps, "loss": 3 * np.exp(-steps / 15) + 0.5, "learning_rate": 1e-5 / steps})
    rewards = {f"rewards/{name}": steps / 20 for name in ("chosen", "rejected", "margins", "accuracies")}
    write_parquet(log, paths["sft/log.parquet"])
    write_parquet(log.assign(**rewards), paths["simpo/log.parquet"])
    write_text("USE_HF=1 \\\n  python -m swift.cli.sft --loss <x> & y\n", paths["sft/command.txt"])
    write_text("python -m swift.cli.rlhf\n", paths["simpo/command.txt"])
    write_json({"learning_rate": 1e-5}, paths["sft/args.json"])
    write_json({"beta": 2.0, "cpo_alpha": 0.0, "simpo_gamma": 1.0, "learning_rate": 1e-5}, paths["simpo/args.json"])


# ------------------------------------------------------------------------------------------------------------ the page


class Page(HTMLParser):
    """What a reader's program meets: tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run folder with everything in it."""
    return make_run(tmp_path_factory.mktemp("outputs"), n=24)


@pytest.mark.slow
def test_the_page_stands_alone_and_can_be_read_by_everybody(run: RunPaths) -> None:
    report.write(Report(run=run.run, title="A <b>title</b>"), run)
    page = Page(html := run.report.read_text())
    assert html.startswith("<!DOCTYPE html>") and page.all("html") == [{"lang": "en"}]
    assert not page.all("script") and not page.all("link")
    pictures = page.all("img")
    assert len(pictures) > 15 and all(picture["alt"].strip() for picture in pictures)
    for kind, _, data in (picture["src"].partition(",") for picture in pictures):
        assert kind == "data:image/png;base64" and base64.b64decode(data)[:4] == b"\x89PNG"
    names = [section["id"] for section in page.all("section")]
    for anchor in page.all("a"):  # within the page, or beside it: nothing from the network
        target = anchor["href"]
        assert target[1:] in names if target.startswith("#") else (run.root / target).is_file()
    executed = [anchor["href"] for anchor in page.all("a") if anchor["href"].startswith("notebooks/")]
    assert len(executed) == len(NOTEBOOKS) >= 9 and "&lt;a" not in html  # real links, none of them escaped
    assert len(page.all("caption")) == len(page.all("table")) and all("scope" in th for th in page.all("th"))
    assert "Left out" not in page.text
    assert "A <b>title</b>" in page.text and "--loss <x> & y" in page.text  # escaped, not taken as HTML


@pytest.mark.slow
def test_the_page_shows_the_runs_numbers(run: RunPaths) -> None:
    report.write(Report(run=run.run), run)
    shown = Page(run.report.read_text()).text
    further = pd.read_parquet(run.root / "measures.parquet").query("metric in ('smece', 'aurc')")
    for row in pd.concat([pd.read_parquet(run.metrics).query("metric == 'ece'"), further]).itertuples():
        assert f"{row.value:.3f}" in shown and f"[{row.ci_low:.3f}, {row.ci_high:.3f}]" in shown
    assert "gamma = 0.004" in shown and "dropped: no box" in shown and "missed" in shown and "cpo_alpha" in shown
    example = pd.read_parquet(run.perturbed_rows).set_index("row_id").loc[re.search(r"Row (\d{6})", shown)[1]]
    assert example["q_c"] in shown and f"“{example['r_c']}”" in shown


@pytest.mark.slow
def test_what_is_not_there_is_said(run: RunPaths, tmp_path: Path) -> None:
    paths = RunPaths("half", tmp_path)
    said = pd.read_parquet(run.responses).query("variant == 'base'")
    write_parquet(said, paths["responses.parquet"])
    write_parquet(compute(said, Protocol(), 5)[0], paths["metrics.parquet"])
    report.write(Report(run="half"), paths)
    lines = re.findall(r'<p class="missing">(.*?)</p>', paths["report.html"].read_text())
    wanted = ("SFT + SimPO against base", "SFT against base", "the further measures", "other ways to get a confidence",
              "the stress test", "example rows", "how many rows", "the SFT training", "the SimPO training", "table 2",
              "tiny models", "the parameters")  # fmt: skip
    assert len(lines) == len(wanted)
    assert all(any(what in line and line.startswith("Left out") for line in lines) for what in wanted)
    assert all(any(f"notebook {maker} makes it" in line for line in lines) for maker in ("06_eval", "07_correlation"))


def test_a_run_without_an_evaluation_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="metrics.parquet is missing; run notebook 06_eval"):
        report.write(Report(run="nothing"), RunPaths("nothing", tmp_path))
    with pytest.raises(UserError, match="is not a folder"):
        report.main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="usage"):
        report.main(["--pictures", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_parameters_come_from_the_executed_notebooks(tmp_path: Path) -> None:
    paths = RunPaths("r", tmp_path)
    book = {"cells": [], "metadata": {"papermill": {"parameters": {"run": "r", "n_bins": 5}, "duration": 3.0}}}
    write_json(book, paths.notebooks / "06_eval.ipynb")
    write_json({"cells": [], "metadata": {}}, paths.notebooks / "03_perturb.ipynb")  # run by hand
    runs = saved.executed_notebooks(paths)
    assert list(runs) == ["06_eval"] and runs["06_eval"].seconds == 3.0
    assert saved.changed_parameters(saved.parameters(runs, "06_eval")) == {"n_bins": 5}
    book["metadata"]["papermill"]["parameters"]["no_longer"] = 1
    write_json(book, paths.notebooks / "06_eval.ipynb")
    assert saved.parameters(saved.executed_notebooks(paths), "06_eval") is None


def rules(css: str) -> dict[str, str]:
    """The rules of a style sheet without its media queries: selector -> declarations."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.S)
    return {selector.strip(): body for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", css)}


def test_the_style_follows_its_surroundings_and_covers_no_column() -> None:
    screen, printed = (TEMPLATES / "page.css").read_text().split("@media print {")
    screen, printed = rules(screen), rules(printed.rstrip().removesuffix("}"))
    sizes = {selector: size for selector, body in screen.items() for size in re.findall(r"font-size: ([^;]+)", body)}
    assert all("em" in size and "rem" not in size for size in sizes.values())  # print shrinks the body, and all with it
    assert float(sizes["figcaption"].removesuffix("em")) < 1 and float(sizes["td small"].removesuffix("em")) < 1
    assert float(sizes["table"].removesuffix("em")) * float(sizes["caption"].removesuffix("em")) < 1
    assert printed["table"].strip() == "font-size: .8em;" and "max-width: 40vw" in screen["th[scope=row]:first-child"]
    assert "visible" in printed["details:not(.repeat)::details-content"]
    assert not any("details" in selector and "repeat" not in selector for selector in printed)


@pytest.mark.slow
def test_what_repeats_the_first_split_is_marked_so_that_print_leaves_it_folded(run: RunPaths) -> None:
    loaded = saved.load(Report(run=run.run), run)
    for gather in (sections.measures, sections.methods, sections.figures):
        html = section("report.j2", gather.__name__, "", partial(gather, loaded)).html
        assert re.findall(r"<details([^>]*)><summary>The same for", html) == [' class="repeat"']


def test_a_link_in_a_table_stays_a_link_and_its_text_is_escaped() -> None:
    table = tables.Table.of("t", [[link("a <b>", "x?y&z"), "<i>"]], ["", "second"])
    html = table.__html__()
    assert '<a href="x?y&amp;z">a &lt;b&gt;</a>' in html and "&lt;i&gt;" in html and "&lt;a" not in html


# ------------------------------------------------------------------------------------------------------------ the docs


def test_the_parameters_that_the_fidelity_page_names_exist() -> None:
    of = {name[:2]: model.model_fields for name, model in NOTEBOOKS.items()}
    named = 0
    for line in (Path(__file__).parents[2] / "docs" / "fidelity.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        for part in re.finditer(r"((?:`[^`]+`(?::)?,? ?)+)\((\d\d(?:, \d\d)*)\)", cells[-2] if len(cells) > 3 else ""):
            for field in re.findall(r"`([a-z_]+)(?:: \w+)?`", part[1]):
                if field in ("wrong", "first", "random"):  # values, not fields
                    continue
                assert all(field in of[number] for number in part[2].split(", ")), f"{field} of {part[2]}"
                named += 1
    assert named > 30


def test_links_of_the_texts_lead_somewhere() -> None:
    root = Path(__file__).parents[2]
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http") and not target.startswith("docs/img/"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
