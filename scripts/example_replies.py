"""Write assets/replies/example.csv: 200 invented replies to yes/no questions, for notebook 12 and README.

    python scripts/example_replies.py [FILE]

No model made these replies; this random process did (seed 0). There are 100 images with two questions each. Each image
has an ease e, uniform in 0..1, which its questions share, so that rows of an image are not independent. A truth is yes
or no with equal chances. An answer is right with probability 0.5 + 0.45 e. The stated confidence is 100 (0.75 + 0.2 e)
plus normal noise of standard deviation 6, rounded to a multiple of 5 and cut to 50..100: too sure, and higher where
answers are right more often. It is put into one of five forms of words. One reply in sixteen states no number, a range,
or no answer.
"""

import csv
import io
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from csp_utils.base.files import write_text  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "assets" / "replies" / "example.csv"
NOUNS = ("dog", "bicycle", "cup", "umbrella", "traffic light", "book", "bench", "kite", "clock", "banana")
FORMS = ("{answer}, {c}%", "{answer}. Confidence: {c}%", "Answer: {answer}\nConfidence: {c}/100",
         "{answer}. I am {c}% certain.", '{{"answer": "{answer}", "confidence": {c}}}')  # fmt: skip
UNREAD = ("{answer}. I am quite sure.", "{answer}, between {low} and {c}%", "It is hard to tell. {c}%")
COLUMNS = ("question_id", "image", "question", "target", "reply")


def rows(seed: int = 0, n_images: int = 100) -> list[tuple]:
    """Draw the rows of the process above: :data:`COLUMNS`, two rows an image."""
    rng, found = np.random.default_rng(seed), []
    for image in range(n_images):
        ease = rng.random()
        for noun in rng.choice(NOUNS, size=2, replace=False):
            truth = ("Yes", "No")[rng.integers(2)]
            right = rng.random() < 0.5 + 0.45 * ease
            answer = truth if right else {"Yes": "No", "No": "Yes"}[truth]
            said = int(np.clip(5 * np.round((100 * (0.75 + 0.2 * ease) + 6 * rng.normal()) / 5), 50, 100))
            forms = UNREAD if rng.random() < 1 / 16 else FORMS
            form = forms[rng.integers(len(forms))]
            reply = form.format(answer=answer, c=said, low=said - 15)
            article = "an" if noun[0] in "aeiou" else "a"
            found.append((len(found) + 1, f"example_{image:03d}.jpg", f"Is there {article} {noun} in the image?",
                          truth.lower(), reply))  # fmt: skip
    return found


def text(drawn: list[tuple]) -> str:
    """Return rows as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([COLUMNS, *drawn])
    return out.getvalue()


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    write_text(text(rows()), target)
    print(target)


if __name__ == "__main__":
    main()
