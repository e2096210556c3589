"""The report: one self-contained page of all that a run measured, and the README's images.

Everything shown is read from the run's saved tables and images, and every sentence is made from their numbers. Here is
what each section gathers; templates/report.j2 says how it is shown.
"""

import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from csp_utils.base.files import read_parquet, write_bytes
from csp_utils.base.run import RunPaths
from csp_utils.base.wording import is_missing, number
from csp_utils.data.rlaif_v import read_rlaif_v
from csp_utils.show import saved, sections
from csp_utils.show.figures import fig_calibration, fig_examples, fig_stress, fig_training
from csp_utils.show.page import Cell, LeftOut, Table, embed, embed_image, link, page, section
from csp_utils.show.saved import Saved
from csp_utils.show.sections import Values, read_needed

RECORDED = (
    "rlhf_type", "loss_type", "beta", "simpo_gamma", "cpo_alpha", "tuner_type", "freeze_llm", "freeze_vit",
    "freeze_aligner", "learning_rate", "lr_scheduler_type", "warmup_ratio", "num_train_epochs",
    "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "torch_dtype", "seed",
)  # fmt: skip
"""What is shown of the arguments that ms-swift recorded."""


def pairs_table(caption: str, columns: list[str], pairs: Iterable[tuple[str, Any]]) -> Table:
    """Show names and values."""
    rows = [[name, Cell(str(value), kind="words")] for name, value in pairs]
    return Table.of(caption, rows, columns)


# ------------------------------------------------------------------------------------------- how it came about


def data(run: Saved) -> Values:
    """Gather example rows, and how many rows came through."""
    paths, p = run.paths, saved.parameters(run.runs, "03_perturb")
    source = Path(p.rlaif_v) if p and p.rlaif_v else paths["data/rlaif_v/train.parquet"]
    needed, cards = (paths["masks.parquet"], paths["perturbed/rows.parquet"], source), []
    if not run.trained and not any(path.exists() for path in (*needed[:2], paths["funnel.parquet"])):
        raise LeftOut("the training rows", why="this run evaluated the base model alone")
    missing = next((path for path in needed if not path.exists()), None)
    if missing is None:
        keywords = saved.read_optional(paths["keywords.parquet"])
        raw = {} if keywords is None else dict(zip(keywords["row_id"], keywords["raw"], strict=True))
        cards = [_card(e, raw.get(e.row["row_id"]))
                 for e in fig_examples.examples(paths, read_rlaif_v(source), run.p.examples)]  # fmt: skip
    funnel = saved.read_optional(paths["funnel.parquet"])
    table = None if funnel is None else _funnel(funnel, saved.read_optional(paths["perturbed/rows.parquet"]))
    return {"missing": missing, "cards": cards, "funnel_path": paths["funnel.parquet"], "funnel": table}


def _card(e: fig_examples.Example, raw: str | None) -> Values:
    """Gather one row: question, answer and keyword, three images, what the model is taught."""
    row = e.row
    boxes, signal = len(row["boxes"]), 100 * row["alpha_bar"] ** 0.5
    images = [
        embed_image(e.boxes, f"The image with {boxes} {'box' if boxes == 1 else 'boxes'} on “{row['keyword']}”.",
              "1  GroundingDINO's boxes, with their scores"),
        embed_image(e.mask, f"The image, dark outside the mask of “{row['keyword']}”.",
              f"2  SAM's mask: {100 * row['area_fraction']:.1f} % of the image"),
        embed_image(e.perturbed, f"The image with noise on “{row['keyword']}”.",
              f"3  c = {row['c']} %: {row['T_c']} noise steps leave {signal:.0f} % of the object's contrast"),
    ]  # fmt: skip
    rejected = f"“{row['rejected']}”" if pd.isna(row["simpo_drop_reason"]) else "none (c = 50 carries no preference)"
    return {"row": row, "raw": None if raw is None else repr(raw.strip()), "images": images, "rejected": rejected}


def _funnel(funnel: pd.DataFrame, perturbed: pd.DataFrame | None) -> Table:
    total, rows = max(1, int(funnel["n"].iloc[0])), []
    for step in funnel.itertuples():
        reason = "" if pd.isna(step.reason) else ": " + step.reason.replace("_", " ")
        rows.append([f"{step.step}{reason}", step.n, f"{100 * step.n / total:.1f} %"])
    if perturbed is not None:
        rows += [["perturbed images, the rows of SFT", len(perturbed), ""],
                 ["preference pairs of SimPO (c = 50 has none)", perturbed["simpo_drop_reason"].isna().sum(), ""]]
    return Table.of("How many rows came in, were dropped and why, and are left", rows, ["", "rows", "share"])


def training(run: Saved) -> Values:
    """Gather the arguments of ms-swift and the losses of the trainings."""
    paths = run.paths
    files = ("log.parquet", "command.txt", "args.json")
    if not run.trained and not any(paths[f"{name}/log.parquet"].exists() for name in ("sft", "simpo")):
        raise LeftOut("the trainings", why="this run evaluated the base model alone")
    return {"stages": [_stage(name, *(paths[name.lower()] / file for file in files)) for name in ("SFT", "SimPO")]}


def _stage(name: str, log_path: Path, command: Path, arguments: Path) -> Values:
    if not log_path.is_file():
        return {"name": name, "missing": log_path}
    log = read_parquet(log_path)
    first, last = _ends(log["loss"])
    figures = [embed(fig_training.plot_loss(log, name), f"Loss of each {name} update and the learning rate.",
                     f"{name}: loss of each update, its running mean, and the learning rate.")]  # fmt: skip
    if "rewards/margins" in log:
        margin = "from {} to {}".format(*_ends(log["rewards/margins"]))
        figures.append(embed(
            fig_training.plot_rewards(log),
            f"SimPO's rewards, their margin ({margin}) and the share of pairs ranked right.",
            f"SimPO's rewards of the chosen and the rejected response, their margin ({margin}), and how often it is "
            "positive.",
        ))  # fmt: skip
    table = None
    if arguments.is_file():
        recorded = json.loads(arguments.read_text(encoding="utf-8"))
        table = pairs_table(f"What ms-swift recorded ({arguments.name} holds all of it)", ["argument", "value"],
                            [(key, recorded[key]) for key in RECORDED if key in recorded])  # fmt: skip
    return {"name": name, "missing": None, "updates": len(log), "first": first, "last": last, "figures": figures,
            "command": command.read_text(encoding="utf-8") if command.is_file() else None, "command_path": command,
            "arguments": table, "arguments_path": arguments}  # fmt: skip


def _ends(values: pd.Series) -> tuple[str, str]:
    """Return the means of the first and of the last tenth."""
    tenth = max(1, len(values) // 10)
    return number(values.iloc[:tenth].mean()), number(values.iloc[-tenth:].mean())


def tiny(run: Saved) -> Values:
    """Gather the measured quality of the models of notebook 00."""
    table = read_needed(run.paths["tiny_world_quality.parquet"], "the quality of the tiny models")
    aims = Counter(_met(value).text or "not measured" for value in table.loc[table["aim"] != "", "met"])
    rows = [[r.model, r.measure.replace("_", " "), _quality(r.value), r.aim, _met(r.met)] for r in table.itertuples()]
    return {
        "aims": [(n, what) for what, n in aims.items()],
        "figure": embed(fig_training.plot_quality(table), "Each measure as a dot beside the range of its aim; the "
                        "table below gives the numbers.", "Each measure (dot) and its aim (bar); red: missed."),
        "table": Table.of("Quality of the tiny models on unseen scenes", rows,
                          ["model", "measure", "value", "aim", ""], n_heads=2),
    }  # fmt: skip


def _quality(value: float | None) -> str:
    """Format counts without decimals, shares with three."""
    return f"{value:.0f}" if not is_missing(value) and value > 1 and value == int(value) else number(value)


def _met(met: bool | None) -> Cell:
    if met is None or pd.isna(met):
        return Cell("")
    return Cell("met", kind="better") if met else Cell("missed", kind="worse")


def about(run: Saved) -> Values:
    """Gather parameters, versions, commit, machine, time, and the executed notebooks."""
    facts = {"run": run.p.run, "seed": run.p.seed, "commit": saved.commit(), "machine": saved.hardware()}
    rows = []
    for name, e in run.runs.items():
        p = saved.parameters(run.runs, name)
        changed = e.parameters if p is None else saved.changed_parameters(p)
        text = ", ".join(f"{key} = {value}" for key, value in changed.items()) or "defaults"
        took = "" if e.seconds is None else f"{e.seconds:.0f} s"
        rows.append([link(name, f"notebooks/{e.path.name}"), e.start[:19].replace("T", " "), took,
                     Cell(text, kind="words")])  # fmt: skip
    minutes = sum(e.seconds or 0 for e in run.runs.values()) / 60
    notebooks = Table.of(f"The executed notebooks, {minutes:.1f} minutes in all, and what differs from their defaults",
                         rows, ["notebook", "started (UTC)", "took", "parameters"])  # fmt: skip
    return {"facts": pairs_table("This run", ["", " "], facts.items()), "notebooks": notebooks if rows else None,
            "versions": pairs_table("Installed where this page was made", ["package", "version"],
                                    saved.versions().items())}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- the page


SECTIONS = {
    sections.results: "What changed", sections.base: "Where it starts: the base model",
    sections.replies: "How the replies were read",
    sections.paper: "Beside the paper's numbers", sections.measures: "Further measures",
    sections.methods: "Would something else do better?", sections.stress: "When the evidence is taken away",
    data: "From an image to a confidence label", training: "The trainings",
    sections.figures: "Calibration in figures", sections.correlation: "Internal against verbalized confidence",
    tiny: "The tiny world and its models", about: "How these numbers were made",
}  # fmt: skip
"""What gathers a section (and names its macro) -> its heading, in the order of the page."""


def title_of(run: Saved) -> str:
    """Return the page's title: the parameter, or one made of the model's name."""
    return run.p.title or (f"CSP on {run.model}" if run.trained else f"Confidence calibration of {run.model}")


def html(run: Saved) -> str:
    """Render the whole page; a section whose tables are missing says so in a line."""
    own = run.paths["tiny_world_quality.parquet"].is_file()  # a run on other data has nothing to say of the tiny world
    parts = [section("report.j2", gather.__name__, title, partial(gather, run)) for gather, title in SECTIONS.items()
             if gather is not tiny or own]  # fmt: skip
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    footer = (
        "Calibration through Semantic Perturbation (arXiv 2504.14848), reproduced. Made from the tables in "
        f"{run.paths.root}/ by csp_utils/show/report.py. The paper's numbers are quoted from its tables 1 and 2."
    )
    return page(title_of(run), f"Run “{run.p.run}”, seed {run.p.seed}, {run.model}. Page made {now}.", parts, footer)


def write_figures(paths: RunPaths, folder: Path) -> list[Path]:
    """Write the README's images, overview.png, reliability.png and stress.png, from a run; return their paths."""
    responses = read_parquet(paths["responses.parquet"])
    p = saved.parameters(saved.executed_notebooks(paths), "03_perturb")
    source = read_rlaif_v(p.rlaif_v if p and p.rlaif_v else paths["data/rlaif_v/train.parquet"])
    model, split = str(responses["model"].iloc[0]), "pope_adversarial"
    made = {
        "overview.png": fig_examples.overview(paths, source, responses, split),
        "reliability.png": fig_calibration.reliability_guide(responses, model, split),
        "stress.png": fig_stress.curves(read_parquet(paths["stress_curves.parquet"])),
    }
    for name, figure in made.items():
        write_bytes(embed(figure, name).png, folder / name)
    return [folder / name for name in made]
