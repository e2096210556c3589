"""The report's sections about what was measured; csp_utils.report_pipeline has those about how it came about."""

import pandas as pd

from csp_utils import plots, report_pictures, report_run, report_tables
from csp_utils.artifacts import read_parquet
from csp_utils.report_html import Block, Bullets, Cell, Folded, Grid, Section, Table, Text, drawn, link
from csp_utils.report_saved import Saved, absent
from csp_utils.report_tables import CORRELATIONS, PAPER_METRICS, in_order, name_of, split_name


def results(run: Saved) -> Section:
    """The headline: what changed, in words, as a figure, and in two tables."""
    blocks: list[Block] = []
    for a, b in (("base", "csp"), ("base", "sft")):
        said = report_tables.sentences(run.differences, run.model, a, b)
        if not said:
            pair = f"{name_of(b)} against {name_of(a)}"
            blocks.append(Text(f"Left out: {pair}; this run did not evaluate both.", "missing"))
            continue
        blocks += said
        if b == "csp":
            blocks.append(drawn(
                report_pictures.differences(run.differences, run.model, a, b),
                f"{name_of(b)} minus {name_of(a)} by metric and split, with 95 % intervals; the numbers are in the "
                "table of differences below.",
                f"{name_of(b)} minus {name_of(a)}. Green dots: better; red crosses: worse; grey diamonds: not clear. "
                "Bars: 95 % intervals.",
            ))  # fmt: skip
    blocks += [Text(_what_intervals_say(run), "note")]
    if not run.protocol_known and run.computed:
        blocks.append(Text("How notebook 06 was parametrised is not recorded (it was run by hand), so the differences "
                           "were computed with its defaults.", "note"))  # fmt: skip
    blocks.append(report_tables.headline(run.metrics, run.model))
    if not run.differences.empty:
        blocks.append(report_tables.differences_table(run.differences, run.model))
    p = run.protocol
    blocks.append(Text(
        "Acc and F1: the prediction is the answer (Yes or No) with the higher spoken confidence; what a tie predicts: "
        f"{'nothing, so it is wrong' if p.ties == 'wrong' else p.ties}. AUC, Brier and ECE: over (question, candidate) "
        f"pairs; ECE with {p.n_bins} bins that hold their {p.ece_edges} edge. Plain acc: the question asked without "
        "any word about confidence. docs/fidelity.md gives the reasons.", "note",
    ))  # fmt: skip
    return Section("results", "What changed", blocks)


def _what_intervals_say(run: Saved) -> str:
    images = run.responses.groupby("split")["image"].nunique()
    low, high = images.min(), images.max()
    judged = report_tables.verdicts(run.differences, "base", "csp")
    n = int(judged["metric"].isin(list(report_tables.HEADLINE)).sum())
    several = f" Of {n} such intervals about {max(1, round(0.05 * n))} would exclude 0 by chance alone." if n else ""
    return (
        f"Intervals are 95 % bootstrap intervals over images ({low if low == high else f'{low} to {high}'} a split). "
        "They say how much the choice of test images matters, not how much another training seed would: each model "
        f"was trained once.{several} Nor do they say why: that a base model gives up one number for others could come "
        "of any training on numbers; what the noise itself teaches is for the ablations to tell."
    )


def base_failure(run: Saved) -> Section:
    """Ties and overconfidence of the base model, before anything was trained."""
    said = report_tables.failure(run.responses, run.metrics, run.model)
    section = Section("base", "Where it starts: the base model's failure")
    if not said:
        section.blocks.append(Text("Left out: the base model; this run did not evaluate the variant base.", "missing"))
        return section
    section.blocks += [
        Bullets(said),
        report_tables.spoken(run.responses, run.model),
        drawn(
            report_pictures.spoken_numbers(run.responses, run.model),
            "Histograms of the spoken confidence of each variant about right and about wrong answers; the table above "
            "gives their peaks and means.",
            "How often each number is said about right and about wrong answers. A calibrated model says high numbers "
            "about right answers and low ones about wrong answers.",
        ),
        _asked(run),
    ]  # fmt: skip
    return section


def _asked(run: Saved, n: int = 6) -> Table:
    """A few questions with what each variant said, spread evenly over a split."""
    split = run.adversarial
    part = run.responses[(run.responses["model"] == run.model) & (run.responses["split"] == split)]
    said = part.set_index(["question_id", "variant", "candidate"])["verbalized"]
    about = part[part["label"] == 1].drop_duplicates("question_id")
    variants = in_order(part["variant"], report_tables.VARIANTS)
    rows = []
    for q in about.iloc[:: max(1, len(about) // n)].head(n).itertuples():
        pairs = [(said[q.question_id, v, "Yes"], said[q.question_id, v, "No"]) for v in variants]
        spoken = [" / ".join("–" if pd.isna(x) else f"{x} %" for x in pair) for pair in pairs]
        rows.append([q.question, q.candidate, *spoken])
    return Table(f"Examples ({split_name(split)}): spoken confidence in Yes / in No",
                 ["question", "right answer", *map(name_of, variants)], [("", rows)])  # fmt: skip


def paper(run: Saved) -> Section:
    """Ours beside the numbers that the paper prints."""
    blocks: list[Block] = [Text(
        "The shaded rows are the paper's printed numbers (its table 1): other models on other data. Compare the "
        "direction of a change, not its size."
    )]  # fmt: skip
    if said := report_tables.direction(run.differences, run.model, run.p.paper_model, PAPER_METRICS):
        blocks.append(Text(said))
    blocks += report_tables.beside_paper(run.metrics, PAPER_METRICS)
    return Section("paper", "Beside the paper's numbers", blocks)


def figures(run: Saved) -> Section:
    """The paper's figures 3, 5 and 7 to 10, drawn from this run's tables."""
    own = run.responses[run.responses["model"] == run.model]
    panels = []
    for split in run.splits:
        alt = (f"ROC curve, reliability diagram and pairs a bin of every variant on {split_name(split)}; AUC, ECE and "
               "Brier score are in the first table.")  # fmt: skip
        figure = plots.calibration(own, split, run.protocol.n_bins, run.protocol.ece_edges)
        panels.append(drawn(figure, alt, split_name(split), dpi=90))
    return Section("figures", "Calibration in pictures", [
        Text("As figures 3 and 7 to 10 of the paper. Above: ROC curves. Middle: reliability; on the diagonal, what is "
             "said is true; below it, the model is too sure. Below: how many pairs a bin holds; a bin of three pairs "
             "says little."),
        Grid(panels, 300),
        drawn(plots.plain_answers(run.plain[run.plain["model"] == run.model]),
              "Accuracy, precision, recall and F1 of the plain answers by split and variant; the accuracies are in "
              "the first table.",
              "The plain answers, asked without a word about confidence (as figure 5 of the paper): does the model "
              "still know what it knew?"),
    ])  # fmt: skip


def correlation(run: Saved) -> Section:
    """Table 2 and figure 6."""
    section = Section("correlation", "Internal against spoken confidence")
    if not run.paths.correlation.is_file():
        section.blocks.append(absent(run.paths.correlation, "the paper's table 2 and figure 6"))
        return section
    table = read_parquet(run.paths.correlation)
    own = run.responses[run.responses["model"] == run.model]
    section.blocks += [
        Text("Internal confidence is the probability of the answer's first token after the plain question. Does the "
             "model say what its own probabilities hold?"),
        report_tables.correlation_table(table, run.model),
        drawn(plots.correlation(own),
              "Internal against spoken confidence of every variant and split; the correlations are in the table above.",
              "Internal against spoken confidence; darker cells hold more pairs."),
        *report_tables.beside_paper(table, CORRELATIONS),
        drawn(plots.token_probabilities(own, run.adversarial),
              f"Probability of the likelier answer token on {split_name(run.adversarial)} by variant, of right and of "
              "wrong answers.",
              "How sure the first answer token is (as figure 6 of the paper)."),
    ]  # fmt: skip
    return section


def about(run: Saved) -> Section:
    """Parameters, versions, commit, machine, time, and the executed notebooks."""
    facts = {"run": run.p.run, "seed": str(run.p.seed), "commit": report_run.commit(), "machine": report_run.hardware()}
    blocks: list[Block] = [_pairs("This run", ["", ""], facts)]
    rows = []
    for name, e in run.runs.items():
        p = report_run.parameters(run.runs, name)
        changed = e.parameters if p is None else report_run.changed(p)
        told = ", ".join(f"{key} = {value}" for key, value in changed.items()) or "defaults"
        took = "" if e.seconds is None else f"{e.seconds:.0f} s"
        address, start = f"notebooks/{e.path.name}", e.start[:19].replace("T", " ")
        rows.append([link(name, address), start, took, Cell(told, kind="words")])
    if rows:
        total = sum(e.seconds or 0 for e in run.runs.values()) / 60
        caption = f"The executed notebooks, {total:.1f} minutes in all, and what differs from their defaults"
        blocks.append(Table(caption, ["notebook", "started (UTC)", "took", "parameters"], [("", rows)]))
    else:
        blocks.append(Text("Left out: the parameters; this run's notebooks were executed by hand and not by "
                           "./run_all.sh, so there is no record of them.", "missing"))  # fmt: skip
    installed = _pairs("Installed where this page was made", ["package", "version"], report_run.versions())
    blocks.append(Folded("Versions", [installed]))
    return Section("about", "How these numbers were made", blocks)


def _pairs(caption: str, columns: list[str], pairs: dict[str, str]) -> Table:
    return Table(caption, columns, [("", [[name, Cell(value, kind="words")] for name, value in pairs.items()])])
