"""Test the command that makes pages, tables and images from a finished run."""

from pathlib import Path

import pytest
from finished_run import make_run, make_run_with_branches

from csp_utils.base.errors import UserError
from csp_utils.base.run import RunPaths
from csp_utils.pipeline import pages


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """Return a run folder with all results except the report."""
    return make_run(tmp_path_factory.mktemp("outputs"), n=24)


@pytest.mark.slow
def test_the_report_is_made_with_its_recorded_parameters_and_only_when_something_changed(run: RunPaths) -> None:
    assert pages.main(["report", str(run.root)]) == str(run["report.html"])
    html = run["report.html"].read_text()
    assert html.startswith("<!DOCTYPE html>") and "<title>A recorded title</title>" in html
    written = run["report.html"].stat().st_mtime_ns
    pages.main(["report", str(run.root)])
    assert run["report.html"].stat().st_mtime_ns == written
    run["report.html"].write_text("damaged")
    pages.main(["report", str(run.root)])
    assert "<title>A recorded title</title>" in run["report.html"].read_text()


@pytest.mark.slow
def test_the_readmes_figures_are_made_from_a_run(run: RunPaths, tmp_path: Path) -> None:
    said = pages.main(["figures", str(run.root), str(tmp_path)]).split("\n")
    assert said == [str(tmp_path / f"{name}.png") for name in ("overview", "reliability", "stress")]
    assert all(Path(path).read_bytes()[:4] == b"\x89PNG" for path in said)


def test_the_tables_of_the_docs_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    _, paths = make_run_with_branches(tmp_path / "outputs")
    paths.figures.mkdir()
    (paths.figures / "claims.png").write_bytes(b"an image")
    path = tmp_path / "claims.md"
    path.write_text(f"before\n{pages.BEGIN}\noutdated\n{pages.END}\nafter\n")
    pages.main(["claims", str(paths.root), str(path)])
    once = path.read_text()
    assert once.startswith("before\n") and once.endswith("after\n") and "outdated" not in once and "SimPO alone" in once
    assert (tmp_path / "img" / "claims.png").read_bytes() == b"an image"
    pages.main(["claims", str(paths.root), str(path)])
    assert path.read_text() == once
    path.write_text("no marks")
    with pytest.raises(UserError, match="lacks the marks"):
        pages.main(["claims", str(paths.root), str(path)])
    assert path.read_text() == "no marks"


def test_the_page_of_the_docs_has_the_marks() -> None:
    text = (Path(__file__).parents[2] / "docs" / "claims.md").read_text()
    assert pages.BEGIN in text and pages.END in text


def test_a_wrong_command_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="responses.parquet is missing; run notebook 06_eval"):
        pages.main(["report", str(tmp_path)])
    with pytest.raises(UserError, match="is not a folder"):
        pages.main(["report", str(tmp_path / "nowhere")])
    for arguments in (["figures", str(tmp_path)], ["--figures", str(tmp_path), "x"], [], ["report"]):
        with pytest.raises(UserError, match="usage"):
            pages.main(arguments)
    assert not list(tmp_path.iterdir())
