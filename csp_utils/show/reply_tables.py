"""The report's tables about replies: what the variants say, how it was read, and what was not read."""

import pandas as pd

from csp_utils.base.wording import VARIANTS, in_order, is_missing, name_of, number, percent
from csp_utils.show.page import Cell, Table


def replies(responses: pd.DataFrame, model: str) -> Table:
    """Show each variant's replies: its most frequent number, how often; mean confidence in right and wrong answers."""
    part = responses[responses["model"] == model]
    rows = []
    for variant, name in ((v, name_of(v)) for v in in_order(part["variant"], VARIANTS)):
        own = part[part["variant"] == variant]
        parsed = own.dropna(subset="verbalized")
        numbers = parsed["verbalized"].astype(float)
        top = numbers.mode().iloc[0] if len(numbers) else None
        often = "none" if top is None else f"{top:.0f} % ({100 * (numbers == top).mean():.0f} % of its replies)"
        means = [numbers[parsed["label"] == label].mean() for label in (1, 0)]
        rows.append([name, often, numbers.nunique(), *("undefined" if is_missing(m) else percent(m, 1) for m in means),
                     len(own) - len(parsed)])  # fmt: skip
    columns = ["", "most frequent reply", "different numbers", "mean about right answers", "mean about wrong answers",
               "not parsed"]  # fmt: skip
    return Table.of("What each variant replies when it is asked for its confidence, over all splits.", rows,
                    columns)  # fmt: skip


def readings(counts: pd.DataFrame, rules: pd.DataFrame, masses: pd.DataFrame) -> list[Table]:
    """Show how the replies were read: shares not read, plain answers by rule, mass (asking.readings has the tables)."""
    unread = [[name_of(row.variant), *(percent(100 * share, 1) for share in (row.right, row.wrong, row.cut))]
              for row in counts.itertuples()]  # fmt: skip
    by_rule = [[name_of(variant), name_of(split), *(
        Cell(number(row.accuracy), f"F1 {number(row.f1)}; {percent(100 * row.differs, 1)} read otherwise")
        for row in own.itertuples())] for (variant, split), own in rules.groupby(["variant", "split"], sort=False)]
    mass = [[name_of(row.variant), row.of, f"{row.median:.3f}", percent(100 * row.too_small, 1)]
            for row in masses.itertuples()]  # fmt: skip
    return [Table.of("Share of replies about a confidence from which none was read.", unread,
                     ["", "about right candidates", "about wrong candidates", "cut by the token budget"]),
            Table.of("Accuracy of the plain answers by rule, and the share of answers that the rule reads otherwise "
                     "than the metrics.", by_rule, ["group", "", *rules["rule"].unique()]),
            Table.of("Probability mass that confidences are shares of; a small one describes rare replies.", mass,
                     ["", "confidence", "median mass", "left out"], 2)]  # fmt: skip


def unread(examples: pd.DataFrame) -> Table:
    """Show a few replies from which no confidence was read."""
    rows = [[row.reason, name_of(row.variant), row.candidate, row.raw, row.n] for row in examples.itertuples()]
    return Table.of("Replies that were not read, at most two for each reason.", rows,
                    ["reason", "variant", "about", "reply", "times"])  # fmt: skip
