"""The report: one self-contained page of all that a run measured, and the pictures of the README.

    python -m csp_utils.show.report outputs/tiny                            writes outputs/tiny/report.html again
    python -m csp_utils.show.report --pictures outputs/tiny docs/img        writes the README's pictures from that run

Everything shown is read from the run's saved tables and pictures, and every sentence is made from their numbers.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_bytes, write_text
from csp_utils.base.run import RunPaths
from csp_utils.base.stage import stages
from csp_utils.show import report_run

if TYPE_CHECKING:
    from csp_utils.show.report_saved import Saved

USAGE = "usage: python -m csp_utils.show.report RUN_FOLDER | --pictures RUN_FOLDER FOLDER"


def html(run: "Saved") -> str:
    """The whole page."""
    from csp_utils.show import report_confidences as confidences
    from csp_utils.show import report_pipeline as pipeline
    from csp_utils.show import report_sections as measured
    from csp_utils.show.report_html import page

    parts = (  # each makes a Section from the run; one whose tables are not there says so in a line
        measured.results, measured.base_failure, measured.paper, measured.measures, confidences.methods,
        confidences.stress, pipeline.data, pipeline.training,
        measured.figures, measured.correlation, pipeline.tiny_models, measured.about,
    )  # fmt: skip
    sections = [part(run) for part in parts]
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    footer = (
        "Calibration through Semantic Perturbation (arXiv 2504.14848), reproduced. Made from the tables in "
        f"{run.paths.root}/ by csp_utils/show/report.py. The paper's numbers are quoted from its tables 1 and 2."
    )
    return page(run.p.title, f"Run “{run.p.run}”, seed {run.p.seed}, {run.model}. Page made {now}.", sections, footer)


def write(p: Any, paths: RunPaths) -> "Saved":
    """Writes report.html, whole; returns what it was made from.

    Raises UserError if notebook 06 has left no responses.parquet or metrics.parquet, or a table is damaged.
    """
    from csp_utils.show.report_saved import load

    run = load(p, paths)
    write_text(html(run), paths["report.html"])
    return run


def pictures(paths: RunPaths, folder: Path) -> list[Path]:
    """Writes overview.png, reliability.png and stress.png, the README's pictures, from a run; returns their paths."""
    from csp_utils.base.files import read_parquet
    from csp_utils.data.rlaif_v import read_rlaif_v
    from csp_utils.show import plots_stress, report_pictures
    from csp_utils.show.report_html import drawn

    responses = read_parquet(paths["responses.parquet"])
    p = report_run.parameters(report_run.executed(paths), "03_perturb")
    source = read_rlaif_v(p.rlaif_v if p and p.rlaif_v else paths["data/rlaif_v/train.parquet"])
    model, split = str(responses["model"].iloc[0]), "pope_adversarial"
    made = {
        "overview.png": report_pictures.overview(paths, source, model, split),
        "reliability.png": report_pictures.reliability_guide(responses, model, split),
        "stress.png": plots_stress.curves(read_parquet(paths["stress_curves.parquet"])),
    }
    for name, figure in made.items():
        write_bytes(drawn(figure, name).png, folder / name)
    return [folder / name for name in made]


def main(arguments: list[str]) -> str:
    """The command line; returns what to print."""
    import matplotlib

    matplotlib.use("Agg")
    wants_pictures = arguments[:1] == ["--pictures"]
    rest = arguments[1:] if wants_pictures else arguments
    if len(rest) != (2 if wants_pictures else 1) or rest[0].startswith("-"):
        raise UserError(USAGE)
    folder = Path(rest[0])
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name the folder of a run, such as outputs/tiny.")
    paths = RunPaths(folder.resolve().name, folder.parent)
    if wants_pictures:
        return "\n".join(str(path) for path in pictures(paths, Path(rest[1])))
    known = report_run.parameters(report_run.executed(paths), "09_report")
    write(known or stages["09_report"].params(run=paths.run), paths)
    return str(paths["report.html"])


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
