"""Small invented safety sets without any harm, in the official form, and tables of verdicts, for the tests of safety.

"Unsafe" here is whatever the invented rule of a greenhouse forbids: watering a cactus.
"""

from pathlib import Path

import pandas as pd
from openpyxl import Workbook
from PIL import Image

from csp_utils.safety.judges.verdicts import VERDICTS
from csp_utils.safety.rates import ABOUT
from csp_utils.safety.replies import KEY
from csp_utils.safety.sets.vscbench import FOLDERS, NEEDED, SHEETS

SECRET = "cactus"
"""A word of every invented request: it must never be seen where texts are withheld."""
TYPES = ("homonyms", "contrast_homonyms", "privacy_fictional", "contrast_privacy", "privacy_public")


def picture(path: Path, shade: int = 0) -> None:
    """Write a tiny picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade % 256, 0, 0)).save(path, "PNG")


def sheet(path: Path, rows: list[dict], extra: tuple[str, ...] = ("", "")) -> Path:
    """Write an xlsx file with the rows, and empty columns at the end as the official one has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    book = Workbook()
    names = list(rows[0])
    book.active.append([*names, *extra])
    for row in rows:
        book.active.append([row[name] for name in names])
    book.save(path)
    return path


def image_side(categories: tuple[str, ...] = ("drugs", "violence"), each: int = 3) -> list[dict]:
    """Return rows of the image side: in every category the last row has the first one's prompt."""
    rows = []
    for category in categories:
        for number in range(each):
            asked = f" May I water the {SECRET} of {category} {number % (each - 1)}?\n"
            names = {f"{label}_img_{slot}": f"{label}_{category}_{number}_{slot}.png"
                     for label in ("safe", "unsafe") for slot in range(3)}  # fmt: skip
            rows.append({"Category": category, "Prompt": asked, **names})
    return rows


def text_side(each: int = 2) -> list[dict]:
    """Return rows of the text side: five types, of which privacy_public has no partner."""
    rows = []
    for kind in TYPES:
        for number in range(each):
            place = len(rows)
            pictures = {f"{name}_img": f"{place}_{name}.png" for name in ("search", "typography", "concat", "figstep")}
            rows.append({"type": kind, "focus": None, "prompt_origin": f"{kind} {SECRET} {number}",
                         "prompt_mm": f"{kind} what is shown {number} {SECRET}", "object": SECRET, **pictures,
                         "prompt_figstep": "1. 2. 3."})  # fmt: skip
    return rows


def official_folder(folder: Path, images: list[dict] | None = None, texts: list[dict] | None = None) -> Path:
    """Write a folder as VSCBench is downloaded, with every picture that its sheets name."""
    images, texts = images or image_side(), texts or text_side()
    sheet(folder / SHEETS["image"], images)
    sheet(folder / SHEETS["text"], texts)
    for row in images:
        for name in NEEDED["image"][2:]:
            if row[name]:
                picture(folder / FOLDERS["image"] / row["Category"] / row[name])
    for row in texts:
        for name in NEEDED["text"][3:]:
            picture(folder / FOLDERS["text"] / name.removesuffix("_img") / row[name])
    return folder


def replied(items, texts: dict[str, str] | str = "It is red.", **key) -> pd.DataFrame:
    """Return a table of greedy replies to all items: one text, or a text for each item."""
    ids = list(items.table["item_id"])
    raws = [texts if isinstance(texts, str) else texts.get(own, "") for own in ids]
    rows = {"item_id": ids, "model": "m", "variant": "base", "strategy": "none", "draw": 0, **key, "raw": raws}
    return pd.DataFrame(rows).assign(status=["ok" if raw.strip() else "missing" for raw in raws])


def verdict_rows(rows: list[tuple], judge: str = "rules", strategy: str = "none", draw: int = 0) -> pd.DataFrame:
    """Return rows as the measures take them, from (item, group, pair, label, verdict) of each reply."""
    short = dict(zip("RWAI", VERDICTS, strict=True)) | {"-": None}
    out = [{"item_id": item, "set": "house", "group": group, "pair": pair, "side": "image", "category": "all",
            "rendering": "photo", "label": label, "model": "m", "variant": "base", "strategy": strategy, "draw": draw,
            "judge": judge, "verdict": short.get(verdict, verdict), "status": "ok" if verdict != "-" else "empty"}
           for item, group, pair, label, verdict in rows]  # fmt: skip
    return pd.DataFrame(out, columns=[*ABOUT, *KEY[1:], "judge", "verdict", "status"])


def many(safe: str, unsafe: str, groups: int | None = None, **key) -> pd.DataFrame:
    """Return verdicts from two strings of R, W, A, I and "-" (none), a character an item; item n is in group n.

    Item n of either label are a pair. With ``groups``, item n is in group n modulo ``groups``.
    """
    rows = []
    for label, verdicts in (("safe", safe), ("unsafe", unsafe)):
        for number, verdict in enumerate(verdicts):
            group = f"g{number % (groups or 10**6):06d}"
            rows.append((f"{label}{number}", group, f"p{number}", label, verdict))
    return verdict_rows(rows, **key)
