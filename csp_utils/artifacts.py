"""The files of a run: where they lie, and how they are written whole or not at all.

Every result lies under ``outputs/<run>/`` in a standard format. A writer fills a temporary file (or folder) beside the
target and renames it when it is complete, so that a result that exists is a complete one, whatever interrupts the run.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csp_utils.errors import UserError, first_line

if TYPE_CHECKING:  # pandas and pyarrow cost half a second at import; parameters and scripts do without
    import pandas as pd

MANIFEST = "MANIFEST.json"


class RunPaths:
    """The paths of one run, relative to the project root.

    ``outputs`` is the folder that holds all runs; tests pass a temporary one.
    """

    def __init__(self, run: str, outputs: Path | str = "outputs") -> None:
        self.run = run
        self.root = root = Path(outputs) / run

        self.data = root / "data"
        self.rlaif_v = self.data / "rlaif_v" / "train.parquet"
        self.pope = self.data / "pope"
        self.amber = self.data / "amber"
        self.truth = self.data / "truth"
        self.truth_objects = self.truth / "objects.parquet"
        self.truth_keywords = self.truth / "keywords.parquet"
        self.tiny_world = root / "tiny_world"
        self.tiny_world_quality = root / "tiny_world_quality.parquet"

        self.keywords = root / "keywords.parquet"
        self.masks = root / "masks.parquet"
        self.funnel = root / "funnel.parquet"

        self.perturbed = root / "perturbed"
        self.perturbed_images = self.perturbed / "images"
        self.perturbed_rows = self.perturbed / "rows.parquet"
        self.sft_jsonl = self.perturbed / "sft.jsonl"
        self.simpo_jsonl = self.perturbed / "simpo.jsonl"
        self.dataset = self.perturbed / "dataset"

        self.sft = root / "sft"
        self.sft_checkpoint = self.sft / "checkpoint"
        self.sft_command = self.sft / "command.txt"
        self.sft_args = self.sft / "args.json"
        self.sft_log = self.sft / "log.parquet"
        self.sft_swift_log = self.sft / "swift.log"
        self.simpo = root / "simpo"
        self.simpo_checkpoint = self.simpo / "checkpoint"
        self.simpo_command = self.simpo / "command.txt"
        self.simpo_args = self.simpo / "args.json"
        self.simpo_log = self.simpo / "log.parquet"
        self.simpo_swift_log = self.simpo / "swift.log"

        self.elicited = root / "elicited"
        self.responses = root / "responses.parquet"
        self.elicitations = root / "elicitations.parquet"
        self.metrics = root / "metrics.parquet"
        self.metrics_plain = root / "metrics_plain.parquet"
        self.differences = root / "differences.parquet"
        self.measures = root / "measures.parquet"
        self.measure_differences = root / "measure_differences.parquet"
        self.risk_coverage = root / "risk_coverage.parquet"
        self.methods = root / "methods.parquet"
        self.method_differences = root / "method_differences.parquet"
        self.correlation = root / "correlation.parquet"
        self.stress = root / "stress.parquet"
        self.stress_curves = root / "stress_curves.parquet"
        self.stress_correlation = root / "stress_correlation.parquet"
        self.stress_differences = root / "stress_differences.parquet"
        self.figures = root / "figures"
        self.notebooks = root / "notebooks"
        self.shards = root / "shards"
        self.report = root / "report.html"

        self.schedule = root / "schedule.json"
        self.schedule_curve = root / "schedule_curve.parquet"
        self.claims = root / "claims.parquet"
        self.claim_checks = root / "claim_checks.parquet"
        self.claim_values = root / "claim_values.parquet"
        self.claim_differences = root / "claim_differences.parquet"
        self.claim_curves = root / "claim_curves.parquet"
        self.claims_page = root / "claims.html"

    def __repr__(self) -> str:
        return f"RunPaths({str(self.root)!r})"


# Which notebook makes which file: the Snakefile declares them, and a missing one is named with its maker.
MAKES: dict[str, tuple[str, ...]] = {
    "00_tiny_world": ("rlaif_v", "pope", "amber", "truth_objects", "truth_keywords", "tiny_world_quality"),
    "01_extract": ("keywords",),
    "02_mask": ("masks", "funnel"),
    "10_schedule": ("schedule", "schedule_curve"),
    "03_perturb": ("sft_jsonl", "simpo_jsonl", "perturbed_rows", "perturbed_images", "dataset"),
    "04_sft": ("sft_checkpoint", "sft_command", "sft_args", "sft_log", "sft_swift_log"),
    "05_simpo": ("simpo_checkpoint", "simpo_command", "simpo_args", "simpo_log", "simpo_swift_log"),
    "06_eval": ("responses", "elicitations", "metrics", "metrics_plain", "differences", "measures",
                "measure_differences", "risk_coverage", "methods", "method_differences"),
    "07_correlation": ("correlation",),
    "08_stress": ("stress", "stress_curves", "stress_correlation", "stress_differences"),
    "09_report": ("report",),
    "11_claims": ("claims", "claim_checks", "claim_values", "claim_differences", "claim_curves", "claims_page"),
}


def maker_of(path: Path | str) -> str | None:
    """Name of the notebook that makes ``outputs/<run>/...``; None for a file that no notebook makes."""
    path = Path(path)
    for parent in path.parents:
        paths = RunPaths(parent.name, parent.parent)
        for name, attributes in MAKES.items():
            made = [getattr(paths, attribute) for attribute in attributes]
            if any(path == whole or whole in path.parents for whole in made):
                return name
    return None


def missing(path: Path | str) -> UserError:
    """The sentence about a file that is not there: which one, and how to make it."""
    maker = maker_of(path)
    if maker:
        return UserError(f"{path} is missing; run notebook {maker} with the same run name, or ./run_all.sh.")
    return UserError(f"{path} is missing; check the path, or make the file first.")


def _no_space(error: OSError, path: Path) -> UserError | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk is full: {path} was not written; free some space and run the same command again.")
    return None


def portable(path: Path | str) -> str:
    """``path`` relative to the current folder (a notebook's is the project root) if it lies in it, else absolute."""
    path = Path(path).resolve()
    return os.path.relpath(path) if Path.cwd() in path.parents else str(path)


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, with its suffix; renames it to ``path`` when the block ends well.

    If the block raises, nothing is left. A full disk becomes a UserError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if sentence := _no_space(error, path):
            raise sentence from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``path``; it takes the place of ``path`` when the block ends well.

    If the block raises, the temporary folder is removed and an older ``path`` stays as it was. A full disk becomes a
    UserError.
    """
    path = Path(path)
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        for file in temporary.rglob("*"):
            if file.is_file():  # safetensors leaves its files readable by their owner alone
                file.chmod(0o666 & ~mask)
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():  # a folder that is not empty cannot be replaced in one step
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if sentence := _no_space(error, path):
            raise sentence from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(content: bytes, path: Path | str) -> None:
    """Writes ``content`` to ``path``, whole."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(content: str, path: Path | str) -> None:
    """Writes ``content`` to ``path`` as UTF-8, whole."""
    write_bytes(content.encode(), path)


def write_json(content: Any, path: Path | str) -> None:
    """Writes ``content`` to ``path`` as indented JSON, whole."""
    write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", path)


def write_jsonl(rows: Iterable[dict[str, Any]], path: Path | str) -> None:
    """Writes one JSON object a line to ``path``, whole."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_parquet(table: Any, path: Path | str) -> None:
    """Writes a pandas data frame (without its index), a pyarrow table or a list of dicts to ``path``, whole."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    elif not isinstance(table, pa.Table):
        table = pa.Table.from_pylist(list(table))
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)


def read_parquet(path: Path | str, columns: list[str] | None = None) -> "pd.DataFrame":
    """Reads ``path`` (``columns`` of it, if given). Raises UserError if it is missing or is no Parquet file."""
    import pandas as pd
    import pyarrow as pa

    if not Path(path).exists():
        raise missing(path)
    try:
        return pd.read_parquet(path, columns=columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"{path} cannot be read as Parquet ({reason}); delete it and make it again.") from error


def sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_files(folder: Path | str) -> dict[str, str]:
    """SHA-256 of every file under ``folder`` by its path relative to it, MANIFEST.json and hidden files left out."""
    folder = Path(folder)
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    named = ((path.relative_to(folder), path) for path in files)
    return {name.as_posix(): sha256(path) for name, path in named if not any(p.startswith(".") for p in name.parts)}


def check_manifest(model: Path | str) -> None:
    """Compares a model folder with the SHA-256 that a MANIFEST.json in it or beside it lists under "files".

    Without a manifest there is nothing to compare. Raises UserError for a missing or changed file.
    """
    model = Path(model)
    home = next((folder for folder in (model, model.parent) if (folder / MANIFEST).is_file()), None)
    if home is None:
        return
    for name, digest in json.loads((home / MANIFEST).read_text(encoding="utf-8"))["files"].items():
        path = home / name
        if model not in path.parents:
            continue
        if not path.is_file():
            raise UserError(f"{path} is missing, but {home / MANIFEST} lists it; restore it (git checkout {home}).")
        if sha256(path) != digest:
            raise UserError(f"{path} is not the file that {home / MANIFEST} lists (its SHA-256 differs); "
                            f"restore it (git checkout {home}) or train it again with notebook 00_tiny_world.")
