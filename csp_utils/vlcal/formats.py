"""The formats of a reply: which parts it must have, in which order, and between which tags.

A part stands between an opening and a closing tag. The answer stands in a LaTeX box. The tags have the names of the
code that was published with VL-Calibration (arXiv 2604.09529).
"""

from dataclasses import dataclass

from csp_utils.base.errors import UserError, nearest

BOX = "\\boxed{"
"""How the box of the answer begins. It ends with the brace that belongs to this one."""

DESCRIPTION, REASONING = "vision", "reasoning"
VISUAL, REASONED, OVERALL = "vision_confidence", "reasoning_confidence", "confidence"

TOP = 10
"""The highest confidence that a reply can state; the lowest is 0."""


@dataclass(frozen=True)
class Format:
    """One format of a reply."""

    marks: tuple[str, ...]
    """Every tag and the beginning of the box, in the order in which a reply must have them, each once."""
    confidences: tuple[str, ...]
    """The parts that hold a number from 0 to 10: one per confidence."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts, without the box, in the order of their opening tags."""
        return tuple(mark[1:-1] for mark in self.marks if mark != BOX and not mark.startswith("</"))


def tags(name: str) -> tuple[str, str]:
    """Return the opening and the closing tag of a part, for example "<vision>" and "</vision>"."""
    return f"<{name}>", f"</{name}>"


_ANSWERED = (*tags(DESCRIPTION), *tags(REASONING), BOX)

FORMATS: dict[str, Format] = {
    "decoupled": Format((*_ANSWERED, *tags(VISUAL), *tags(REASONED)), (VISUAL, REASONED)),
    "holistic": Format((*_ANSWERED, *tags(OVERALL)), (OVERALL,)),
    "none": Format(_ANSWERED, ()),
    "released": Format(
        ("<think>", *_ANSWERED[:-1], "</think>", BOX, "<analysis>", "</analysis>",
         "<confidence>", *tags(VISUAL), *tags(REASONED), "</confidence>"),
        (VISUAL, REASONED),
    ),
}  # fmt: skip
"""All formats by their names in the parameters.

decoupled has a visual and a reasoning confidence, holistic one confidence (RLCR, arXiv 2507.16806), none has none
(RLVR). released is decoupled with the three further parts that the published code asks for: <think> around description
and reasoning, <analysis> after the answer, and <confidence> around both confidences.
"""


def format_of(name: str) -> Format:
    """Return a format by its name. Raises UserError, which names the most similar one, if there is none."""
    if name not in FORMATS:
        raise UserError(f"There is no format of replies named {name!r}; {nearest(name, FORMATS)}")
    return FORMATS[name]
