"""What a notebook reads."""

from pathlib import Path

from csp_utils.base import params
from csp_utils.base.run import RunPaths


def needs(name: str, p: params.Stage, paths: RunPaths) -> list[Path]:
    """The files and folders that notebook ``name`` reads with parameters ``p``: data, models, results of others."""
    sources = {
        "rlaif_v": [paths.rlaif_v],
        "pope": [] if name == "01_extract" else [paths.pope],  # 01 only compares with it, where it is given
        "amber": [paths.amber],
    }
    if "amber" not in getattr(p, "benchmarks", ["amber"]):
        del sources["amber"]
    files: list[Path] = []
    for field, own in sources.items():
        if hasattr(p, field):
            files += [Path(getattr(p, field))] if getattr(p, field) else own
    files += [path for path in map(Path, params.local_models(p))]
    if name == "00_tiny_world":
        files += [Path(p.models)] if p.models and not p.train else []
    elif name == "02_mask":
        files += [paths.keywords]
    elif name in ("03_perturb", "10_schedule"):
        files += [Path(p.masks_file) if p.masks_file else paths.masks]
        files += [Path(p.schedule_file)] if getattr(p, "schedule_file", None) else []
    elif name == "04_sft":
        files += [Path(p.rows_file) if p.rows_file else paths.sft_jsonl]
    elif name == "05_simpo":
        files += [Path(p.rows_file) if p.rows_file else paths.simpo_jsonl] + ([] if p.model else [paths.sft_checkpoint])
    elif name in ("06_eval", "08_stress"):
        files += [paths.sft_checkpoint] if "sft" in p.variants else []
        files += [paths.simpo_checkpoint] if "csp" in p.variants else []
    elif name == "07_correlation":
        files += [paths.responses]
    elif name == "09_report":
        files += [paths.responses, paths.metrics]  # of all else it says what is not there
    elif name == "11_claims":
        files += [RunPaths(run).responses for run in (p.run, *p.runs)]
    return files
