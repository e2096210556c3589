"""The page, the command, the params file and README's recipe of replies that exist already."""

import re
import runpy
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from stage_tools import run_stage

from csp_utils.base.errors import UserError
from csp_utils.base.run import RunPaths
from csp_utils.pipeline import params_file, replies
from csp_utils.replies.read import read_replies
from csp_utils.results.produce import why_not_current
from csp_utils.show import replies_page
from csp_utils.stages import stages
from csp_utils.stages.replies import STAGE, Replies
from csp_utils.stages.report import Report

EXAMPLE = ROOT / "assets" / "replies" / "example.csv"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """The run of the example."""
    paths = RunPaths("e", tmp_path_factory.mktemp("outputs"))
    run_stage(Replies(run="e", file=str(EXAMPLE), n_bootstrap=100), paths)
    return paths


def measured(paths: RunPaths) -> pd.DataFrame:
    return pd.read_parquet(paths["replies_measures.parquet"]).set_index("metric")


# ------------------------------------------------------------------------------------------------------- the example


def test_the_committed_example_is_what_its_script_draws() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "example_replies.py"))
    assert script["text"](script["rows"]()) == EXAMPLE.read_text(encoding="utf-8")


def test_the_example_is_as_its_script_says() -> None:
    """One reply in sixteen is unread, and 0.5 + 0.45 / 2 of the answers are right."""
    script = runpy.run_path(str(ROOT / "scripts" / "example_replies.py"))
    many = pd.DataFrame(script["rows"](1, 4000), columns=script["COLUMNS"])
    assert many["reply"].str.contains("quite sure|between|hard to tell").mean() == pytest.approx(1 / 16, abs=0.01)
    read = read_replies(EXAMPLE).table
    assert len(read) == 200 and read["group"].nunique() == 100 and 3 <= read["reason"].notna().sum() <= 25
    right = many["reply"].str.contains("Yes") == (many["target"] == "yes")
    stated = ~many["reply"].str.contains("hard to tell")
    assert right[stated].mean() == pytest.approx(0.725, abs=0.02)


# --------------------------------------------------------------------------------------------------- tables and page


def test_the_page_holds_the_numbers_of_the_tables_and_loads_nothing(example: RunPaths) -> None:
    page = example["replies.html"].read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|src=\"(?!data:)|url\(", page) and page.count("data:image/png;base64,") == 2
    found = measured(example)
    for name in ("acc", "auc", "brier", "ece"):
        assert f"{found.at[name, 'value']:.3f}" in page, name
    unread = pd.read_parquet(example["replies_unread.parquet"])
    assert len(unread) == 3 and all(meaning in page for meaning in unread["meaning"])
    assert "Confidences in example.csv" in page and "over 100 groups" in page
    assert "no interval of it contains" in page  # smECE says why it has none


def test_the_surest_mistakes_come_first_and_are_mistakes(example: RunPaths) -> None:
    read = pd.read_parquet(example["replies.parquet"])
    frame = replies_page.mistakes_table(read).frame
    shown = frame["confidence"].str.removesuffix(" %").astype(float)
    assert shown.is_monotonic_decreasing and len(shown) == replies_page.MOST_SHOWN
    wrong = read[(read["correct"] == 0) & read["confidence"].notna()]
    assert shown.iloc[0] == wrong["confidence"].max() and set(frame["row or id"]) <= set(wrong["id"])
    assert replies_page.mistakes_table(read[read["correct"] == 1]) is None


def test_texts_of_a_file_cannot_change_the_page(tmp_path: Path) -> None:
    file, paths = tmp_path / "a.csv", RunPaths("r", tmp_path)
    file.write_text('reply,target,question\n"No, 90%<script>alert(1)</script>",yes,<b>?\n"Yes, 80%",yes,?\n')
    run_stage(Replies(file=str(file), n_bootstrap=40, title="<i>mine"), paths)
    page = paths["replies.html"].read_text()
    assert "<script" not in page and "<b>?" not in page and "&lt;i&gt;mine" in page


@pytest.mark.parametrize(("percent", "right", "words"), [
    (95, 0.6, "too much confidence: on average 35 points more"), (80, 0.8, "do not differ clearly"),
    (50, 0.9, "too little confidence: on average 40 points less")])  # fmt: skip
def test_the_verdict_in_words(tmp_path: Path, percent: int, right: float, words: str) -> None:
    file, paths = tmp_path / "a.csv", RunPaths("r", tmp_path)
    n = 100
    pd.DataFrame({"confidence": [percent] * n, "correct": [1] * int(n * right) + [0] * (n - int(n * right))}
                 ).to_csv(file, index=False)  # fmt: skip
    run_stage(Replies(file=str(file), n_bootstrap=100), paths)
    sentences = replies_page.verdict(pd.read_parquet(paths["replies_measures.parquet"]))
    assert words in sentences[0] and "not clearly different from chance" in sentences[1]
    assert "single rows" in paths["replies.html"].read_text()


def test_a_file_of_right_answers_alone_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("confidence,correct\n" + "90,1\n" * 5)
    paths = RunPaths("r", tmp_path)
    run_stage(Replies(file=str(tmp_path / "a.csv"), n_bootstrap=40), paths)
    page = paths["replies.html"].read_text()
    assert "Whether confidence tells right from wrong answers cannot be said" in page
    assert "No answer with a confidence is wrong." in page and "Every row has a confidence." in page


def test_the_results_are_used_again_until_the_file_changes(tmp_path: Path) -> None:
    file, paths = tmp_path / "a.csv", RunPaths("r", tmp_path)
    file.write_text("confidence,correct\n0.9,1\n0.8,0\n")
    p = Replies(file=str(file), n_bootstrap=40)
    run_stage(p, paths)
    assert "used as computed" in run_stage(p, paths)[0]
    file.write_text("confidence,correct\n0.9,1\n0.8,1\n")
    assert why_not_current(STAGE, p, paths) == ["file changed"]


def test_replies_from_elsewhere_do_not_make_a_report_stale() -> None:
    paths = RunPaths("demo")
    looked_at = set(stages["09_report"].looks_at(Report(), paths).values())
    assert not looked_at & {paths[name] for name in STAGE.makes} and paths["measures.parquet"] in looked_at


@pytest.mark.slow
def test_a_page_of_a_thousand_rows_takes_seconds(tmp_path: Path) -> None:
    """Aim: 10 s of computing (benchmarks/replies_page.py). CPU seconds, so that a busy machine does not matter."""
    rng = np.random.default_rng(0)
    p = rng.random(1000)  # the costly kind: a thousand distinct values
    pd.DataFrame({"confidence": p, "correct": rng.random(1000) < p}).to_csv(tmp_path / "a.csv", index=False)
    start = time.process_time()
    run_stage(Replies(file=str(tmp_path / "a.csv")), RunPaths("r", tmp_path))
    assert time.process_time() - start < 10


# ---------------------------------------------------------------------------------------- the command, the params file


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The command of the package, with its results in a temporary folder."""
    monkeypatch.setattr(replies, "RunPaths", lambda run: RunPaths(run, tmp_path / "outputs"))
    return lambda line: replies.main(shlex.split(line))


def test_the_command_prints_the_measures_and_the_notes(command: Callable[[str], str], tmp_path: Path) -> None:
    said = command(f"{EXAMPLE} --run mine --title Mine")
    assert "ECE" in said and "From the replies" in said and said.endswith("replies.html has all of it.")
    assert "<title>Mine</title>" in (tmp_path / "outputs/mine/replies.html").read_text()


@pytest.mark.parametrize(("line", "sentence"), [
    ("nothing.csv", "nothing.csv is missing"), (f"{EXAMPLE} confidence", "is no ROLE=COLUMN"),
    (f"{EXAMPLE} --run a/b", "Parameter 'run'"), (f"{EXAMPLE} --scale percents", "Parameter 'scale'"),
    (f"{EXAMPLE} truth=", "whether each answer was right"), (f"{EXAMPLE} sureness=x", "the role 'sureness'"),
])  # fmt: skip
def test_the_command_refuses_in_a_sentence(command: Callable[[str], str], line: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        command(line)


def test_the_params_file_is_valid_and_runs_notebook_12_alone() -> None:
    (run,) = params_file.load("params/replies.yaml")
    assert list(run) == ["12_replies"] and Path(run["12_replies"].file).is_file()


def test_a_params_file_without_the_file_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("run: r\n12_replies: {file: gone.csv}\n")
    with pytest.raises(UserError, match="reads gone.csv, which does not exist"):
        params_file.load(tmp_path / "p.yaml")


# --------------------------------------------------------------------------------------------------- README's recipe


@pytest.fixture(scope="module")
def recipe() -> str:
    """README's section on replies that one already has."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.split("## Measuring replies you already have\n")[1].split("\n## ")[0]


def test_the_python_of_readme_runs_as_it_stands(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", recipe, flags=re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert "AUC" in capsys.readouterr().out and names["found"]["acc"] == pytest.approx(3 / 5)
    for table in re.findall(r"found\.(\w+)", block):
        assert isinstance(getattr(names["found"], table), pd.DataFrame)


def test_the_command_of_readme_runs_as_it_stands(recipe: str, command: Callable[[str], str], tmp_path: Path) -> None:
    (line,) = re.findall(r"```\n(.*?)\n```", recipe)
    start = ".venv/bin/python -m csp_utils.pipeline.replies "
    assert line.startswith(start)
    command(line.removeprefix(start))
    assert "outputs/mine" in recipe and (tmp_path / "outputs/mine/replies.html").is_file()
    assert measured(RunPaths("mine", tmp_path / "outputs")).at["acc", "n"] == 200
