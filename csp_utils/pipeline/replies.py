"""Measure a file of replies from the command line: tables and one HTML page, without Jupyter, a model or a GPU.

    python -m csp_utils.pipeline.replies my_replies.csv
    python -m csp_utils.pipeline.replies my_replies.csv --run mine confidence=p_yes correct=ok group=image

The page is ``outputs/<run>/replies.html``; it and the tables beside it are those of notebook 12.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from csp_utils.base.errors import UserError, of_system
from csp_utils.base.files import portable, read_parquet
from csp_utils.base.params import build
from csp_utils.base.run import RunPaths, project_root
from csp_utils.base.wording import metric, with_interval
from csp_utils.results.produce import produce
from csp_utils.stages import stages

SHOWN = ("acc", "auc", "brier", "ece", "smece", "signed_error")


def main(arguments: Sequence[str]) -> str:
    """Run the command; return the text to print. Raises UserError for a file that cannot be measured."""
    parser = argparse.ArgumentParser(prog="python -m csp_utils.pipeline.replies", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("file", help="CSV, TSV, JSON, JSON lines, Parquet or Excel, one row a reply")
    parser.add_argument("columns", nargs="*", metavar="ROLE=COLUMN", help="such as confidence=p; ROLE= for none")
    parser.add_argument("--run", default="replies", help="results go to outputs/RUN (default: replies)")
    parser.add_argument("--scale", default="auto", help="auto, probability or percent")
    parser.add_argument("--title", help="title of the page")
    given = parser.parse_intermixed_args(arguments)  # options may stand before ROLE=COLUMN
    if wrong := next((one for one in given.columns if "=" not in one), None):
        raise UserError(f"{wrong!r} is no ROLE=COLUMN; write such as confidence=p.")
    columns = {role: column or None for role, _, column in (one.partition("=") for one in given.columns)}
    file = Path(given.file).resolve()
    os.chdir(project_root(Path(__file__).parent))
    stage = stages["12_replies"]
    values = {"run": given.run, "file": portable(file), "columns": columns, "scale": given.scale, "title": given.title}
    p, paths, said = build(stage.params, values, "the command line"), RunPaths(given.run), []
    if not file.is_file():
        raise UserError(f"{given.file} is missing; correct the path of the replies.")
    produce(stage, p, paths, say=said.append)
    measures = read_parquet(paths["replies_measures.parquet"]).set_index("metric")
    rows = [f"{metric(name).name:14}{with_interval(*measures.loc[name, ['value', 'ci_low', 'ci_high']])}"
            for name in SHOWN]  # fmt: skip
    notes = list(read_parquet(paths["replies_notes.parquet"])["note"])
    return "\n".join([*said, *rows, "", *notes, "", f"{paths['replies.html']} has all of it."])


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except (UserError, OSError) as error:
        sys.exit(str(error if isinstance(error, UserError) else of_system(error)))
