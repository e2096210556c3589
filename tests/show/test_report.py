"""The report says what the tables say, good or bad; shows what is there, says what is not, and stands alone."""

import base64
import json
import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from finished_run import make_run, responses

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_json, write_parquet
from csp_utils.base.params import PARAMETERS, recorded
from csp_utils.base.run import RunPaths
from csp_utils.measures.metrics import Protocol, compute
from csp_utils.pipeline import params_file
from csp_utils.show import report, saved, sections, tables
from csp_utils.show.page import TEMPLATES, link, section
from csp_utils.stages import stages
from csp_utils.stages.evaluate import Eval
from csp_utils.stages.report import Report

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


def page_of(paths: RunPaths, **parameters) -> str:
    """Render the report of a run."""
    return report.html(saved.load(Report(run=paths.run, **parameters), paths))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run folder with everything in it."""
    return make_run(tmp_path_factory.mktemp("outputs"), n=24)


@pytest.mark.slow
def test_the_page_stands_alone_and_can_be_read_by_everybody(run: RunPaths) -> None:
    page = Page(html := page_of(run, title="A <b>title</b>"))
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
    assert len(executed) == len(stages) >= 9 and "&lt;a" not in html  # real links, none of them escaped
    assert len(page.all("caption")) == len(page.all("table")) and all("scope" in th for th in page.all("th"))
    assert "Left out" not in page.text
    assert "A <b>title</b>" in page.text and "--loss <x> & y" in page.text  # escaped, not taken as HTML


@pytest.mark.slow
def test_the_page_shows_the_runs_numbers(run: RunPaths) -> None:
    shown = Page(page_of(run)).text
    further = pd.read_parquet(run["measures.parquet"]).query("metric in ('smece', 'aurc')")
    for row in pd.concat([pd.read_parquet(run["metrics.parquet"]).query("metric == 'ece'"), further]).itertuples():
        assert f"{row.value:.3f}" in shown
        assert pd.isna(row.ci_low) == (row.metric == "smece")  # for which no interval holds what it promises
        assert pd.isna(row.ci_low) or f"[{row.ci_low:.3f}, {row.ci_high:.3f}]" in shown
    assert "gamma = 0.004" in shown and "dropped: no box" in shown and "missed" in shown and "cpo_alpha" in shown
    rows = pd.read_parquet(run["perturbed/rows.parquet"]).set_index("row_id")
    example = rows.loc[re.search(r"Row (\d{6})", shown)[1]]
    assert example["q_c"] in shown and f"“{example['r_c']}”" in shown


@pytest.mark.slow
def test_what_is_not_there_is_said(run: RunPaths, tmp_path: Path) -> None:
    paths = RunPaths("half", tmp_path)
    said = pd.read_parquet(run["responses.parquet"]).query("variant == 'base'")
    write_parquet(said, paths["responses.parquet"])
    write_parquet(compute(said, Protocol(), 5)[0], paths["metrics.parquet"])
    lines = re.findall(r'<p class="missing">(.*?)</p>', page_of(paths))
    wanted = ("SFT + SimPO against base", "SFT against base", "the further measures", "other ways to get a confidence",
              "the stress test", "how the replies were read", "the training rows", "the trainings", "table 2",
              "the parameters")  # fmt: skip
    assert len(lines) == len(wanted)
    assert all(any(what in line and line.startswith("Left out") for line in lines) for what in wanted)
    assert all(any(f"notebook {maker} makes it" in line for line in lines) for maker in ("06_eval", "07_correlation"))


# ------------------------------------------------------------------------------------- a run that is of no tiny world

TRUE_OF_THE_TINY_WORLD_ALONE = (r"(?i)tiny|miniature|glyph|photograph|a few megabytes|other models on other data|"
                                "no training has seen|three thousand times")  # fmt: skip


def at_scale(folder: Path, run: RunPaths, variants: tuple[str, ...]) -> RunPaths:
    """Return a run of params/paper: its tables name its model, and it has no tiny world."""
    p = params_file.load("params/paper/internvl2_8b.yaml")[-1]["06_eval"]
    paths = RunPaths("paper", folder)
    for file in sorted(run.root.glob("*.parquet")):
        table = pd.read_parquet(file)
        if "model" in table and not file.name.startswith("tiny_world"):
            table = table.assign(model=p.model_name)
            write_parquet(table[table["variant"].isin(variants)] if "variant" in table else
                          table[table["variant_b"].isin(variants)], paths[file.name])  # fmt: skip
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("variants", [("base",), ("base", "csp"), ("base", "sft", "csp")])
def test_the_report_of_a_real_model_says_nothing_that_is_true_of_the_tiny_world_alone(
        run: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variants: tuple[str, ...]) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    paths = at_scale(tmp_path, run, variants)
    shown = re.sub(r"\s+", " ", Page(page_of(paths)).text)
    assert not re.findall(TRUE_OF_THE_TINY_WORLD_ALONE, shown)
    questions = pd.read_parquet(paths["responses.parquet"]).drop_duplicates(["image", "question"])
    assert f"asked InternVL2-8B {len(questions)} different questions about {questions['image'].nunique()} im" in shown
    once = {1: None, 2: "SFT + SimPO was trained once", 3: "SFT and SFT + SimPO were each trained once"}[len(variants)]
    assert "trained once" not in shown if once is None else once in shown
    assert ("Any fine-tuning on numbers" in shown) == (len(variants) > 1)
    assert ("CSP on InternVL2-8B" if once else "Confidence calibration of InternVL2-8B") in shown
    assert ("this run evaluated the base model alone" in shown) == (once is None)


@pytest.mark.parametrize("name", ["06_eval", "07_correlation", "08_stress", "09_report", "11_claims"])
def test_the_text_of_a_notebook_suits_a_run_of_any_size(name: str) -> None:
    """The names of the tiny world's own files and notebook may be linked."""
    cells = json.loads((Path(__file__).parents[2] / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text = re.sub(r"\[00 tiny world\]\(\S+\)|params/tiny\w*.yaml|with the numbers of the tiny world", "", text)
    assert not re.findall(TRUE_OF_THE_TINY_WORLD_ALONE + "|three variants|both trainings", text)


def test_a_run_without_an_evaluation_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="metrics.parquet is missing; run notebook 06_eval"):
        page_of(RunPaths("nothing", tmp_path))
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


def test_the_protocol_is_the_tables_own(tmp_path: Path) -> None:
    """Notebook 06 was run by hand, with choices of its own; formerly, the page stated the defaults instead."""
    paths, said = RunPaths("r", tmp_path), responses(8)
    p = Eval(run="r", ties="first", n_bins=15, ece_edges="left", n_bootstrap=50)
    metrics = compute(said, Protocol("first", "left", 15), 50)[0]
    metrics.attrs = {PARAMETERS: recorded(p)}
    write_parquet(metrics, paths["metrics.parquet"])
    write_parquet(said, paths["responses.parquet"])
    run = saved.load(Report(run="r"), paths)
    assert run.protocol_known and run.resamples == 50
    assert (run.protocol.ties, run.protocol.n_bins, run.protocol.ece_edges) == ("first", 15, "left")
    page = sections.results(run)
    assert page["protocol"] == run.protocol and not page["defaults_used"]


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
    of = {name[:2]: stage.params.model_fields for name, stage in stages.items()}
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
