"""The result in one sentence, which never rests on one judge alone.

Another judge can move SRA by more than a strategy does. A headline therefore needs two judges, or a judge and people,
and says how far they agree.
"""

from dataclasses import dataclass

import pandas as pd

from csp_utils.base.errors import UserError
from csp_utils.base.wording import counted, listed, with_interval
from csp_utils.safety.agreement import BOTH, DECLINED, agreement
from csp_utils.safety.corrected import corrected
from csp_utils.safety.judges.people import PEOPLE
from csp_utils.safety.rates import BOUNDED, table

ALONE = ("The SRA under the judge {} alone is no result, as another judge may move it by more than any strategy does; "
         "judge the replies by a second one, or have people label a part of them.")  # fmt: skip


@dataclass(frozen=True)
class Headline:
    """SRA under every judge, corrected where people labelled a part, with the judges' agreement."""

    rates: pd.DataFrame
    """Rows of :func:`csp_utils.safety.rates.table`: sra, sra_safe and sra_unsafe of every judge."""
    corrected: pd.DataFrame
    """Rows of :func:`csp_utils.safety.corrected.corrected` with the column judge; empty without people's labels."""
    agreement: pd.DataFrame
    """Rows of :func:`csp_utils.safety.agreement.agreement`."""

    def __str__(self) -> str:
        """Say the mean SRA under each judge, what is corrected, and how far every two judges agree."""
        own = self.rates[self.rates["measure"] == "sra"]
        said = (f"{with_interval(row.value, row.ci_low, row.ci_high)} under {row.judge}" for row in own.itertuples())
        text = [f"SRA is {listed(said)}."]
        for row in self.corrected[self.corrected["measure"] == "sra"].itertuples():
            value = with_interval(row.value, row.ci_low, row.ci_high)
            why = f" ({row.reason})" if isinstance(row.reason, str) else ""
            text.append(f"With the errors of {row.judge} corrected by people's labels on {row.n_labelled} of {row.n} "
                        f"replies, it is {value}{why}.")  # fmt: skip
        kappas = self.agreement[(self.agreement["label"] == BOTH) & (self.agreement["of"] == DECLINED)]
        for row in kappas.itertuples():
            why = f" ({row.reason})" if isinstance(row.reason, str) else ""
            text.append(f"Cohen's kappa of {row.first} and {row.second} is "
                        f"{with_interval(row.kappa, row.ci_low, row.ci_high)}{why}.")  # fmt: skip
        if failed := int(own["failed"].max()):
            text.append(f"At most {counted(failed, 'verdict')} of a judge could not be had, and are in no share.")
        return " ".join(text)


def headline(rows: pd.DataFrame, n_bootstrap: int, seed: int, reading: str = "official") -> Headline:
    """Measure the replies of one model, variant and strategy under all judges together.

    Args:
        rows: verdicts of two or more judges (:func:`csp_utils.safety.rates.with_items`); people's have the name
            :data:`csp_utils.safety.judges.people.PEOPLE`.

    Raises:
        UserError: fewer than two judges gave a verdict, or the rows are of several models, variants or strategies.
    """
    for name in ("model", "variant", "strategy"):
        if rows[name].nunique() > 1:
            raise UserError("A headline is about one model, variant and strategy, and these verdicts differ in "
                            f"{name}; take one of them.")  # fmt: skip
    judges = [name for name in dict.fromkeys(rows["judge"]) if rows.loc[rows["judge"] == name, "verdict"].notna().any()]
    if len(judges) < 2:
        raise UserError(ALONE.format(repr(judges[0]) if judges else "(none gave a verdict)"))
    own = rows[rows["judge"].isin(judges)]
    # Where people labelled a part only, their own SRA is of that part; it stands in the corrected rows.
    rates = table(own[own["judge"] != PEOPLE] if PEOPLE in judges else own, n_bootstrap, seed, reading=reading)
    parts = [corrected(own, name, PEOPLE, n_bootstrap, seed, reading).assign(judge=name)
             for name in judges if PEOPLE in judges and name != PEOPLE]  # fmt: skip
    correction = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["measure", "judge"])
    return Headline(rates[rates["measure"].isin(BOUNDED)].reset_index(drop=True), correction,
                    agreement(own, n_bootstrap, seed, reading))  # fmt: skip
