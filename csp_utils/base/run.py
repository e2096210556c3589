"""Where the files of a run are."""

from pathlib import Path

from csp_utils.base.errors import UserError


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


def project_root(start: Path | str = ".") -> Path:
    """The folder that holds ``csp_utils``, at or above ``start``."""
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        if (folder / "csp_utils").is_dir():
            return folder
    raise UserError(f"{start} is not inside the project (no folder csp_utils at or above it); open the notebook there.")
