"""Make pages, tables and images from a finished run without running its notebooks.

    python -m csp_utils.pipeline.pages report RUN_FOLDER                    makes RUN_FOLDER/report.html
    python -m csp_utils.pipeline.pages figures RUN_FOLDER FOLDER            writes the README's images into FOLDER
    python -m csp_utils.pipeline.pages claims RUN_FOLDER MARKDOWN_FILE      writes the tables of docs/claims.md

The report is made as in notebook 09, with the parameters of its executed copy, and only if its inputs, parameters or
code changed. The tables of the claims are written between the marks of the Markdown file, and the file's two figures
into the folder ``img`` beside it.
"""

import sys
from pathlib import Path
from typing import Any

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_bytes, write_text
from csp_utils.base.run import RunPaths
from csp_utils.notebook import check_inputs
from csp_utils.results.produce import produce
from csp_utils.stages import stages

USAGE = """usage: python -m csp_utils.pipeline.pages report RUN_FOLDER
       python -m csp_utils.pipeline.pages figures RUN_FOLDER FOLDER
       python -m csp_utils.pipeline.pages claims RUN_FOLDER MARKDOWN_FILE"""
BEGIN, END = "<!-- tables: begin (python -m csp_utils.pipeline.pages claims) -->", "<!-- tables: end -->"
FIGURES_OF_CLAIMS = ("claims.png", "claims_noise.png")


def report(paths: RunPaths) -> str:
    """Make report.html of a run, unless it is up to date; return its path."""
    stage, p = stages["09_report"], parameters("09_report", paths)
    check_inputs(stage, p, paths)
    produce(stage, p, paths, say=lambda line: None)
    return str(paths["report.html"])


def figures(paths: RunPaths, folder: str) -> str:
    """Write the README's images from a run; return their paths, one a line."""
    from csp_utils.show.report import write_figures

    return "\n".join(map(str, write_figures(paths, Path(folder))))


def claims(paths: RunPaths, markdown: str) -> str:
    """Write the tables of the claims between the marks of a Markdown file; return a sentence about what was written.

    A file that does not exist is created. Raises UserError if an existing file has no marks.
    """
    from csp_utils.show.report_claims import tables_of_docs

    file = Path(markdown)
    text = file.read_text(encoding="utf-8") if file.is_file() else f"{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{file} lacks the marks {BEGIN} and {END}, between which the tables go.")
    made = tables_of_docs(parameters("11_claims", paths), paths)
    for name in FIGURES_OF_CLAIMS:
        if (paths.figures / name).is_file():
            write_bytes((paths.figures / name).read_bytes(), file.parent / "img" / name)
    write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", file)
    return f"wrote the tables of {paths.root} into {file}"


def parameters(name: str, paths: RunPaths) -> Any:
    """Return the parameters of an executed notebook of the run; the defaults if it was not executed."""
    from csp_utils.show import saved

    recorded = saved.parameters(saved.executed_notebooks(paths), name)
    return recorded or stages[name].params(run=paths.run)


COMMANDS = {"report": (report, 1), "figures": (figures, 2), "claims": (claims, 2)}
"""Name of a command -> (its function, the number of its arguments)."""


def main(arguments: list[str]) -> str:
    """Run the command line; return what to print. Raises UserError for wrong arguments."""
    import matplotlib

    matplotlib.use("Agg")
    function, n = COMMANDS.get(arguments[0], (report, 0)) if arguments else (report, 0)
    if n == 0 or len(arguments) != n + 1:
        raise UserError(USAGE)
    folder = Path(arguments[1])
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name the folder of a run, such as outputs/tiny.")
    return function(RunPaths(folder.resolve().name, folder.parent), *arguments[2:])


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
