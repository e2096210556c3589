"""The report's sections about how the numbers came about: the data, the trainings, the tiny models."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from csp_utils.base.files import read_parquet
from csp_utils.data.rlaif_v import read_rlaif_v
from csp_utils.show import plots_training, report_pictures, report_run
from csp_utils.show.report_html import Block, Card, Cell, Code, Folded, Grid, Section, Table, Text, drawn, photo
from csp_utils.show.report_pictures import Example
from csp_utils.show.report_saved import Saved, absent
from csp_utils.show.report_tables import number

RECORDED = (
    "rlhf_type", "loss_type", "beta", "simpo_gamma", "cpo_alpha", "tuner_type", "freeze_llm", "freeze_vit",
    "freeze_aligner", "learning_rate", "lr_scheduler_type", "warmup_ratio", "num_train_epochs",
    "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "torch_dtype", "seed",
)  # fmt: skip
"""What is shown of the arguments that ms-swift recorded."""


def data(run: Saved) -> Section:
    """From a picture to a confidence label: examples, and how many rows came through."""
    paths, section = run.paths, Section("data", "From a picture to a confidence label")
    lacking = [path for path in (paths["masks.parquet"], paths["perturbed/rows.parquet"]) if not path.is_file()]
    section.blocks += [absent(lacking[0], "example rows")] if lacking else _examples(run)
    if not paths["funnel.parquet"].is_file():
        section.blocks.append(absent(paths["funnel.parquet"], "how many rows came through"))
        return section
    funnel = read_parquet(paths["funnel.parquet"])
    total = max(1, int(funnel["n"].iloc[0]))
    rows = []
    for step in funnel.itertuples():
        reason = "" if pd.isna(step.reason) else ": " + step.reason.replace("_", " ")
        rows.append([f"{step.step}{reason}", str(step.n), f"{100 * step.n / total:.1f} %"])
    if paths["perturbed/rows.parquet"].is_file():
        pairs = read_parquet(paths["perturbed/rows.parquet"], ["simpo_drop_reason"])["simpo_drop_reason"].isna()
        rows += [["perturbed pictures, the rows of SFT", str(len(pairs)), ""],
                 ["preference pairs of SimPO (c = 50 has none)", str(int(pairs.sum())), ""]]  # fmt: skip
    section.blocks.append(Table("How many rows came in, were dropped and why, and are left", ["", "rows", "share"],
                                [("", rows)]))  # fmt: skip
    return section


def _examples(run: Saved) -> list[Block]:
    p = report_run.parameters(run.runs, "03_perturb")
    source = Path(p.rlaif_v) if p and p.rlaif_v else run.paths["data/rlaif_v/train.parquet"]
    if not source.exists():
        return [absent(source, "example rows, which need the original pictures")]
    raw: dict[str, str] = {}
    if run.paths["keywords.parquet"].is_file():
        keywords = read_parquet(run.paths["keywords.parquet"], ["row_id", "raw"])
        raw = dict(zip(keywords["row_id"], keywords["raw"], strict=True))
    examples = report_pictures.examples(run.paths, read_rlaif_v(source), run.p.examples)
    return [
        Text("Each training row goes this way: the key object of a question and its answer is found; its mask gets as "
             "much noise as belongs to a confidence c; and c is what the model learns to say."),
        *(_card(e, raw.get(e.row["row_id"])) for e in examples),
    ]  # fmt: skip


def _card(e: Example, raw: str | None) -> Card:
    """One row: question, answer and keyword, three pictures, what the model is taught."""
    row = e.row
    wrote = f" (the language model wrote: {raw.strip()!r})" if raw is not None else ""
    said = Markup("<b>Question</b> {}<br><b>Answer</b> {}<br><b>Key object</b> “{}”{}")
    boxes, signal = len(row["boxes"]), 100 * row["alpha_bar"] ** 0.5
    pictures = [
        photo(e.boxes, f"The picture with {boxes} {'box' if boxes == 1 else 'boxes'} on “{row['keyword']}”.",
              "1  GroundingDINO's boxes, with their scores"),
        photo(e.mask, f"The picture, dark outside the mask of “{row['keyword']}”.",
              f"2  SAM's mask: {100 * row['area_fraction']:.1f} % of the picture"),
        photo(e.perturbed, f"The picture with noise on “{row['keyword']}”.",
              f"3  c = {row['c']} %: {row['T_c']} noise steps leave {signal:.0f} % of the object's contrast"),
    ]  # fmt: skip
    rejected = f"“{row['rejected']}”" if pd.isna(row["simpo_drop_reason"]) else "none (c = 50 carries no preference)"
    taught = Markup("<b>q<sub>c</sub></b> {}<br><b>r<sub>c</sub></b> “{}”; rejected in SimPO: {}")
    return Card(f"Row {row['row_id']}", [
        Text(said.format(row["question"], row["answer"], row["keyword"], wrote)),
        Grid(pictures, 220),
        Text(taught.format(row["q_c"], row["r_c"], rejected)),
    ])  # fmt: skip


def training(run: Saved) -> Section:
    """What ms-swift was told, and how its losses went."""
    section, paths = Section("training", "The two trainings"), run.paths
    stages = (("SFT", paths["sft/log.parquet"], paths["sft/command.txt"], paths["sft/args.json"]),
              ("SimPO", paths["simpo/log.parquet"], paths["simpo/command.txt"], paths["simpo/args.json"]))  # fmt: skip
    for name, log_path, command, args in stages:
        if not log_path.is_file():
            section.blocks.append(absent(log_path, f"the {name} training"))
            continue
        log = read_parquet(log_path)
        told = Markup("<b>{}</b>: {} updates; loss {} at first and {} at the end (means of the first and last tenth).")
        section.blocks += [
            Text(told.format(name, len(log), *_ends(log["loss"]))),
            drawn(plots_training.plot_loss(log, name), f"Loss of each {name} update and the learning rate.",
                  f"{name}: loss of each update, its running mean, and the learning rate."),
        ]  # fmt: skip
        if "rewards/margins" in log:
            margin = "from {} to {}".format(*_ends(log["rewards/margins"]))
            section.blocks.append(drawn(
                plots_training.plot_rewards(log),
                f"SimPO's rewards, their margin ({margin}) and the share of pairs ranked right.",
                f"SimPO's rewards of the chosen and the rejected response, their margin ({margin}), and how often it "
                "is positive.",
            ))  # fmt: skip
        section.blocks.append(Folded(f"{name}: command line and recorded arguments", _recorded(command, args)))
    return section


def _recorded(command: Path, args: Path) -> list[Block]:
    blocks: list[Block] = []
    if command.is_file():
        blocks.append(Code(command.read_text(encoding="utf-8"), "The command, as it was run"))
    else:
        blocks.append(absent(command, "the command line"))
    if not args.is_file():
        return [*blocks, absent(args, "the recorded arguments")]
    recorded = json.loads(args.read_text(encoding="utf-8"))
    rows = [[key, Cell(str(recorded[key]), kind="words")] for key in RECORDED if key in recorded]
    caption = f"What ms-swift recorded ({args.name} holds all of it)"
    return [*blocks, Table(caption, ["argument", "value"], [("", rows)])]


def _ends(values: pd.Series) -> tuple[str, str]:
    """Means of the first and of the last tenth."""
    tenth = max(1, len(values) // 10)
    return number(values.iloc[:tenth].mean()), number(values.iloc[-tenth:].mean())


def tiny_models(run: Saved) -> Section:
    """The measured quality of the models that notebook 00 made."""
    section, path = Section("tiny", "The tiny world and its models"), run.paths["tiny_world_quality.parquet"]
    if not path.is_file():
        section.blocks.append(absent(path, "the quality of the tiny models"))
        return section
    from csp_utils.show import plots_tiny_world

    table = read_parquet(path)
    met = Counter(_met(value).text or "not measured" for value in table.loc[table["aim"] != "", "met"])
    rows = [[r.model, r.measure.replace("_", " "), _value(r.value), r.aim, _met(r.met)] for r in table.itertuples()]
    section.blocks += [
        Text("Notebook 00 draws pictures of glyphs and makes, or only scores, four models of a few megabytes. Its "
             "vision-language model was taught on purpose to say “95%” most often, whether an answer is right or "
             "wrong, with probabilities that differ a little between the two (csp_utils/tiny_world/models/vlm_lessons.py). That "
             "failure is therefore built in; what SFT and SimPO make of it is measured. Nothing here says how large "
             "the effect is for a model of real size."),
        Text("Measured on scenes that training never saw; aims: "
             f"{', '.join(f'{n} {what}' for what, n in met.items())}."),
        drawn(plots_tiny_world.plot_quality(table),
              "Each measure as a dot beside the span that is aimed at; the table below gives the numbers.",
              "Each measure (dot) and what is aimed at (bar); red: missed."),
        Folded("The same in numbers", [Table("Quality of the tiny models on unseen scenes",
                                             ["model", "measure", "value", "aim", ""], [("", rows)], n_heads=2)]),
    ]  # fmt: skip
    return section


def _value(value: float | None) -> str:
    """Counts without decimals, shares with three."""
    return f"{value:.0f}" if value is not None and value > 1 and value == int(value) else number(value)


def _met(met: bool | None) -> Cell:
    if met is None or pd.isna(met):
        return Cell("")
    return Cell("met", kind="better") if met else Cell("missed", kind="worse")
