"""The forms in which models state a confidence, as a table of patterns, each with a name and examples.

A pattern is matched in the plain form of a reply (:func:`csp_utils.words.text.plain`: lower case, no markup, tags and
boxes as labels). :mod:`csp_utils.words.confidence` decides whether a number that a pattern matched counts.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """One form in which models state a confidence."""

    rank: int
    """Patterns of a lower rank are tried first; the first rank that reads a number decides."""
    name: str
    regex: re.Pattern
    """The group n is the number, the group unit what marks it as a share: percent, /10, out of 10."""
    examples: tuple[tuple[str, int], ...]
    """Replies with their readings."""


NUMBER = r"(?P<n>(?<![a-z0-9_.,$#€£/])(?<!\d-)-?(?:\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})(?!\d))"
UNIT = (r"(?P<unit>\s?%+|\s?(?:percent|per\s?cent|pct)\b|\s?/\s?\d{1,3}(?:\.0{1,2})?(?![\w/])"
        r"|\s?\(?\s?out of (?:a (?:possible )?)?\d{1,3}\b(?:\s?\))?)")
CLEAR = r"(?![a-z0-9_]|[.,:]\d|\s?%)"
N = rf"{NUMBER}{UNIT}?+{CLEAR}"
"""A number, with or without a unit."""
SHARE = NUMBER + UNIT + CLEAR
"""A number with a unit."""
ABOUT = (r"(?:(?:about|around|approximately|approx\.?|roughly|exactly|only|just|maybe|perhaps|probably|a|an|some|"
         r"say|at|nearly|almost|over|above|below|under|up to|at least|at most|high|low|very|more than|less than|"
         r"greater than|[<>≤≥=])\s*){0,4}")
"""Words before a number. Bounds are among them, so that they are found and refused."""
RIGHT = r"(?:correct|right|true|accurate|valid)"
SURE = (r"(?:(?:(?:very|fully|absolutely|quite|completely|totally)\s+)?(?:sure|certain|confident|positive|convinced|"
        r"certainty|confidence|sicher|sûre?|segur[oa]|sicur[oa])\b(?! intervals?)"
        r"|\s?的?(?:把握|信心|确定|自信))")
WORD = r"\s+[\w'/-]{1,40}"
START = r"(?:^|(?<=[\n({,;.?!-])|(?<=[\n({,;.?!-] )|(?<=[\n({,;.?!-]  ))\s*"
LABEL = (r"(?:(?:final|overall|my|the|your|model|answer and)\s+)*(?:confidence|certainty|probability|likelihood|"
         r"(?:how )?(?:certain|sure|confident))(?:\s+(?:yes|of yes|level|score|rating|percentage|value|estimate))?"
         r"(?:\s+(?:in|about|of)\s+(?:(?:the|this|its|my|model's|given)\s+)*(?:answer|response))?")
LEAD = (r"(?:(?:undoubtedly|definitely|certainly|i'm|i am|i think|i believe|it's|it is|i'm not sure|well|ok|okay|so|"
        r"then|therefore)[\s,]+){0,3}")
SAY = r"\bi(?:'d|'ll| would| will| can)?\s+(?:also |still )?(?:say|put|estimate|guess|rate|give|go with|assign|assess)"
SAID = (r"(?:\s+(?:it|this|that|my|the|a|model's|answer|response|certainty|confidence|at|as|to|of|with|probability|"
        r"likelihood|be|is|score|rating|level|in|i'm|i am|for)){0,8}\s+")


def _pattern(rank: int, name: str, regex: str, *examples: tuple[str, int]) -> Pattern:
    return Pattern(rank, name, re.compile(regex, re.MULTILINE), examples)


PATTERNS = (
    # a final answer that is marked as one
    _pattern(1, "boxed", rf"^boxed: {ABOUT}{N}\s*$", (r"So it is \boxed{90\%}", 90), (r"\boxed{85}", 85)),
    # a label, as in "Confidence: 80" and JSON
    _pattern(2, "label", rf"{START}{LABEL}\s*(?:\([^)\n]{{0,20}}\)\s*)?[:=]\s*"
             rf"(?:(?:yes|no)\s*,\s*|(?:very |quite )?(?:high|low|medium|moderate)\s*\(?)?{ABOUT}{N}",
             ("Confidence: 80", 80), ('{"answer": "Yes", "confidence": 0.9}', 90), ("PROBABILITY_YES: 58", 58),
             ("<confidence>0.85</confidence>", 85), ("'Answer': False, 'Confidence': 0.8", 80),
             ("How certain: 90%", 90), ("Confidence: High (90%)", 90), ("Confidence -> 90%", 90)),
    _pattern(2, "option", r"\banswer\s*:\s*(?P<letter>[a-j])\b[\s,]*\n"
             rf"(?:\s*[a-j]\s*:\s*[\d.]{{1,8}}\s*,?\s*\n){{0,9}}?\s*(?P=letter)\s*:\s*{N}",
             ('{"Answer": "B",\n"A": 0.2,\n"B": 0.8}', 80)),
    # a sentence about being sure, or about being right
    _pattern(3, "N sure", rf"{SHARE}\s*{SURE}",
             ("I am 95% certain.", 95), ("I'm 0.9 out of 1 sure", 90), ("With 80% confidence, yes.", 80),
             ("Ich bin mir zu 95 % sicher.", 95)),
    _pattern(3, "sure (N)", r"\b(?:sure|certain|confident|positive|certainty|confidence)\s*(?:\(|: ?|- )\s*"
             rf"{ABOUT}{N}\s*\)?", ("I am highly confident (90%) that it is right.", 90), ("confident (80)", 80)),
    _pattern(3, "sure, N", rf"\b(?:sure|certain|confident), {ABOUT}{SHARE}", ("I'm very confident, 95%.", 95)),
    _pattern(3, "sure of the answer: N", rf"\b(?:sure|certain|confident) (?:about|of|in){WORD}(?:{WORD}){{0,3}}\s?:\s*"
             rf"{ABOUT}{N}", ("I am certain about the answer: 99%", 99)),
    _pattern(3, "confidence is N", rf"\b(?:confidence|certainty|sureness)(?!\s+intervals?)(?:{WORD}){{0,8}}?\s+"
             rf"(?:is|of|at|as|to|would be|should be|will be|stands at)\s+{ABOUT}{N}",
             ("My confidence in the model's answer is about 90%.", 90), ("I would rate my certainty as 85.", 85),
             ("I have a confidence level of 0.8.", 80)),
    _pattern(3, "chance that it is right", rf"{SHARE}\s*(?:chance|probability|likelihood|possibility|likely)\b"
             rf"(?=(?:{WORD}){{0,25}}?\s+(?:{RIGHT}|winning|yes|no|there)\b)",
             ("There is a 90% chance that the answer is correct.", 90), ("I estimate a 65% chance of winning.", 65),
             ("I believe there is an 85% probability that it is right", 85)),
    _pattern(3, "probability is N", rf"\b(?:probability|likelihood|chances?)(?={WORD})(?:{WORD}){{0,14}}?\s+"
             rf"(?:{RIGHT}|answer|yes)(?:{WORD}){{0,4}}?\s+(?:is|of|at|as|would be)\s+{ABOUT}{N}",
             ("The probability that the answer is correct is 95%.", 95)),
    _pattern(3, "answer is N", rf"\b(?:answer|response)(?:'s|\s+is|\s+was|\s+seems|\s+would be)\s+{ABOUT}{SHARE}"
             rf"(?=\s*(?:sure|certain|{RIGHT}|likely|[.,;!\n]|$))",
             ("The model's answer is 100% accurate.", 100), ("The answer is 90%.", 90)),
    _pattern(3, "it is N certain", rf"\b(?:it|this|that)(?:'s| is)\s+{ABOUT}{SHARE}"
             rf"(?=\s*(?:clear|obvious|{RIGHT}|likely)\b)", ("It is 100% clear that there is a dog.", 100)),
    _pattern(3, "I would say N", rf"{SAY}{SAID}{ABOUT}{N}",
             ("I'd put it at 75%.", 75), ("The dog is visible, so I'd say 83%.", 83), ("I would give it 9/10.", 90)),
    # a number by itself
    _pattern(4, "number first", r"\A\W{0,40}?"
             r"(?:(?:assistant|answer|response|final answer|(?:the|my) answer is|output)\s*:?\s*)?"
             rf"(?:(?:yes|no)\b[\s,.;:-]*)?{LEAD}{ABOUT}{SHARE}(?=\s*(?:[.,;:!?()\n-]|$|because\b|since\b|as\b|given\b|"
             r"so\b|but\b|correct\b|right\b|(?:very )?(?:high|low|medium|moderate) confidence))",
             ("90%", 90), ("Yes, 60%", 60), ("9/10", 90), ("5% because the answer is incorrect", 5),
             ("95%: the dog is clearly visible", 95)),
    _pattern(4, "number line", rf"^\W{{0,20}}?{ABOUT}{SHARE}\W{{0,20}}$", ("The dog is clearly visible.\n\n90%", 90)),
    _pattern(4, "number alone", r"\A\W{0,40}?(?:(?:assistant|response|output|rating|score)\s*:\s*|"
             rf"(?:i'd say|i would say|about|around)\s+)?(?:(?:yes|no)\b[\s,.;:-]+)?{ABOUT}{N}"
             r"(?:[^\S\n]*(?=\n)|\W{0,40}\Z)",
             ("90", 90), ("0.9", 90), ("0,95", 95), ("90\n\nThe image shows 2 dogs.", 90)),
    _pattern(5, "number last", r"(?:\n|[:?.!] |, (?=so|thus|therefore|hence))\W{0,20}"
             r"(?:(?:so|thus|therefore|hence|answer|final answer|my answer)\b[:,\s]*)?"
             rf"{ABOUT}{SHARE}\W{{0,40}}\Z",
             ("How certain are you about model's answer? 90%", 90), ("I see a dog. 95%.", 95)),
)  # fmt: skip
"""Every form that is read, in the order in which they are tried."""
