"""The report's sections about what was measured; csp_utils.show.report_pipeline has those about how it came about."""

import pandas as pd

from csp_utils.base.files import read_parquet
from csp_utils.show import captions, plots, plots_measures, report_pictures, report_run, report_tables
from csp_utils.show.report_html import Block, Bullets, Cell, Folded, Grid, Section, Table, Text, drawn, link
from csp_utils.show.report_saved import Saved, absent
from csp_utils.show.report_tables import CORRELATIONS, PAPER_METRICS, in_order, name_of, split_name


def results(run: Saved) -> Section:
    """The headline: the differences with their intervals, first of SFT + SimPO, then of SFT; then every value."""
    blocks: list[Block] = []
    intervals = Text(_what_intervals_say(run), "note")
    for a, b in (("base", "csp"), ("base", "sft")):
        said = report_tables.sentences(run.differences, run.model, a, b)
        if not said:
            pair = f"{name_of(b)} against {name_of(a)}"
            blocks.append(Text(f"Left out: {pair}; this run did not evaluate both.", "missing"))
            continue
        lead, in_words = said
        blocks += [lead, report_tables.differences_table(run.differences, run.model, a, b), in_words]
        if b == "csp":
            blocks += [intervals, drawn(
                report_pictures.differences(run.differences, run.model, a, b),
                f"{name_of(b)} minus {name_of(a)} by metric and split, with 95 % intervals; the numbers are in the "
                "table of differences above.",
                f"{name_of(b)} minus {name_of(a)}. Green dots: better; red crosses: worse; grey diamonds: not clear. "
                "Bars: 95 % intervals.",
            )]  # fmt: skip
    if intervals not in blocks:
        blocks.append(intervals)
    if not run.protocol_known and run.computed:
        blocks.append(Text("How notebook 06 was parametrised is not recorded (it was run by hand), so the differences "
                           "were computed with its defaults.", "note"))  # fmt: skip
    blocks.append(report_tables.headline(run.metrics, run.model))
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
        f"{_what_p_says(run) if 'p' in run.differences else ''}"
    )


def _what_p_says(run: Saved) -> str:
    least = f"; {run.resamples} resamples cannot give less than {2 / (run.resamples + 1):.2g}" if run.resamples else ""
    return f" p is the two-sided bootstrap p-value of a difference against 0, for one comparison by itself{least}."


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


def measures(run: Saved) -> Section:
    """What the paper does not print: the further measures, their differences, and risk and coverage."""
    section = Section("measures", "Further measures")
    if run.measures is None:
        section.blocks.append(absent(run.paths["measures.parquet"], "the further measures"))
        return section
    if run.measure_differences is None:
        section.blocks.append(absent(run.paths["measure_differences.parquet"], "their paired differences"))
    first, *others = [run.adversarial, *(split for split in run.splits if split != run.adversarial)]
    tables = {split: report_tables.measures_table(run.measures, run.measure_differences, run.model, split,
                                                  explained=split == first) for split in (first, *others)}  # fmt: skip
    section.blocks += [
        Text("What the paper does not print, of the same answers on the same resampled images. Precision, recall and "
             "the two measures of answering where it is sure are over questions, the others over (question, candidate) "
             f"pairs; {run.protocol.n_bins} bins where a name gives no number. So many measures of one thing are not "
             f"so many findings.{_what_p_says(run) if run.measure_differences is not None else ''}", "note"),
        tables[first],
    ]  # fmt: skip
    if others:
        section.blocks.append(Folded(f"The same for {', '.join(map(split_name, others))}", [tables[s] for s in others]))
    if run.risk_coverage is None:
        section.blocks.append(absent(run.paths["risk_coverage.parquet"], "the risk-coverage curves"))
        return section
    curves, own = (table[table["model"] == run.model] for table in (run.risk_coverage, run.measures))
    section.blocks.append(drawn(
        plots_measures.risk_coverage(curves, first),
        f"Risk against coverage of every variant on {split_name(first)}; AURC is in the table above.",
        captions.risk_coverage(curves, own, first), dpi=130,
    ))  # fmt: skip
    return section


def figures(run: Saved) -> Section:
    """The paper's figures 3 to 5 and 7 to 10, drawn from this run's tables."""
    own, metrics, plain = (table[table["model"] == run.model] for table in (run.responses, run.metrics, run.plain))
    bins, others = (run.protocol.n_bins, run.protocol.ece_edges), [s for s in run.splits if s != run.adversarial]
    panels = {split: drawn(
        plots.calibration(own, split, *bins),
        f"ROC curve, reliability diagram and pairs a bin of every variant on {split_name(split)}; AUC, ECE and Brier "
        "score are in the caption.", captions.calibration(own, metrics, split, *bins), dpi=130,
    ) for split in run.splits}  # fmt: skip
    rest = [Folded(f"The same for {', '.join(map(split_name, others))}", [Grid([panels[s] for s in others], 400)])]
    return Section("figures", "Calibration in pictures", [
        panels[run.adversarial], *(rest if others else []),
        drawn(plots.bars(metrics, run.adversarial),
              f"Metrics of every variant on {split_name(run.adversarial)}; the numbers are in the caption.",
              captions.bars(metrics, run.adversarial), dpi=150),
        drawn(plots.plain_answers(plain),
              "Accuracy, precision, recall and F1 of the plain answers by split and variant; the numbers are in the "
              "caption.", captions.plain_answers(plain), dpi=150),
    ])  # fmt: skip


def correlation(run: Saved) -> Section:
    """Table 2 and figure 6."""
    section = Section("correlation", "Internal against spoken confidence")
    if not run.paths["correlation.parquet"].is_file():
        section.blocks.append(absent(run.paths["correlation.parquet"], "the paper's table 2 and figure 6"))
        return section
    table = read_parquet(run.paths["correlation.parquet"])
    own, of_model = (t[t["model"] == run.model] for t in (run.responses, table))
    section.blocks += [
        Text("Internal confidence is the probability of the answer's first token after the plain question. Does the "
             "model say what its own probabilities hold?"),
        report_tables.correlation_table(table, run.model),
        drawn(plots.correlation(own),
              "Internal against spoken confidence of every variant and split; the correlations are in the table above.",
              captions.correlation(own, of_model), dpi=150),
        *report_tables.beside_paper(table, CORRELATIONS),
        drawn(plots.token_probabilities(own, run.adversarial),
              f"Probability of the likelier answer token on {split_name(run.adversarial)} by variant, of right and of "
              "wrong answers; the means are in the caption.",
              captions.token_probabilities(own, run.adversarial), dpi=150),
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
