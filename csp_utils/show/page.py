"""The parts of an HTML page (tables, images) and the page itself, rendered from the templates beside this module.

The page is one file that needs no network and no script. Tables and images render themselves where a template names
them (``{{ table }}``), through the ``__html__`` of markupsafe.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from csp_utils.base.run import maker_of
from csp_utils.base.wording import is_missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and smaller lines below it.

    ``kind``: better or worse (coloured, and named in the last line), paper (shaded), words (aligned left), or "".
    """

    text: str
    small: str = ""
    """An interval in brackets, or the reason why there is no value."""
    kind: str = ""
    note: str = ""
    """A p-value."""

    @property
    def verdict(self) -> str:
        """The last line: the verdict and the note."""
        return ", ".join(filter(None, [self.kind if self.kind in ("better", "worse") else "", self.note]))


@dataclass(frozen=True)
class Table:
    """A table: a caption, and a data frame of texts or :class:`Cell`; a missing value is shown as a dash.

    The first ``n_heads`` columns are the names of the rows. A column "group", if there is one, groups the rows under
    headings.
    """

    caption: str
    frame: pd.DataFrame
    n_heads: int = 1

    @classmethod
    def of(cls, caption: str, rows: Sequence[Sequence[Any]], columns: Sequence[str], n_heads: int = 1) -> "Table":
        """Make a table of rows. Their values keep their types: as pandas' strings, links would become plain text."""
        return cls(caption, pd.DataFrame(rows, columns=columns, dtype=object), n_heads)

    @property
    def columns(self) -> list[str]:
        """The headings of the columns."""
        return [name for name in self.frame.columns if name != "group"]

    def cells(self) -> list[tuple[str, list[list[Cell]]]]:
        """Return (heading of the group or "", rows of cells) in order."""
        if "group" not in self.frame:
            return [("", _rows(self.frame))]
        return [(name, _rows(part.drop(columns="group"))) for name, part in self.frame.groupby("group", sort=False)]

    def markdown(self) -> str:
        """Return the table as Markdown, for a page of docs/."""

        def row(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        lines = [f"**{self.caption}**", "", row(self.columns), "|" + " --- |" * len(self.columns)]
        for name, rows in self.cells():
            lines += [f"| **{name}** {'| ' * len(self.columns)}".rstrip()] if name else []
            lines += [row([f"{c.text} {c.small}".strip().replace("|", "/") for c in cells]) for cells in rows]
        return "\n".join(lines)

    def __html__(self) -> str:
        return render("table.j2", table=self)


def _rows(frame: pd.DataFrame) -> list[list[Cell]]:
    return [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, str):  # a link is a Markup, which is a string that is not escaped again
        return Cell(value)
    return Cell("–" if is_missing(value) else str(value))


@dataclass(frozen=True)
class EmbeddedImage:
    """An image inside the page: PNG bytes, a description for those who cannot see it, and a caption."""

    png: bytes
    alt: str
    caption: str = ""
    kind: str = ""
    """pixels: a small image that is enlarged with sharp pixels; wide: scrolls on a narrow screen."""

    @property
    def uri(self) -> str:
        """The image as a data address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    def __html__(self) -> str:
        return render("image.j2", image=self)


class Section(NamedTuple):
    """A part of the page: its address in the page, its heading and its HTML."""

    name: str
    title: str
    html: Markup


def embed(figure: "Figure", alt: str, caption: str = "", dpi: int = 110) -> EmbeddedImage:
    """Render a matplotlib figure as PNG, and close it."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    width, height = figure.get_size_inches()
    return EmbeddedImage(buffer.getvalue(), alt, caption, "wide" if width > 2 * height else "")


def embed_image(image: "Image.Image", alt: str, caption: str = "", side: int = 336) -> EmbeddedImage:
    """Encode a PIL image as PNG; an image with a side longer than ``side`` is scaled down."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return EmbeddedImage(buffer.getvalue(), alt, caption, "pixels" if max(image.size) < side else "")


def link(text: str, address: str) -> Markup:
    """Return a link."""
    return Markup('<a href="{}">{}</a>').format(address, text)


def missing_line(what: str, path: Path | None = None, why: str = "") -> Markup:
    """Return the line in place of something whose input is missing: what, why, and which notebook makes it."""
    if path is not None:
        maker = maker_of(path)
        why = f"{path} is not there{f' (notebook {maker} makes it)' if maker else ''}"
    return Markup('<p class="missing">Left out: {}; {}.</p>').format(what, why)


class LeftOut(Exception):
    """Raised in place of a whole section whose input is missing; takes the arguments of :func:`missing_line`."""

    def __init__(self, what: str, path: Path | None = None, why: str = "") -> None:
        super().__init__(what)
        self.line = missing_line(what, path, why)


@cache
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.globals |= {"missing_line": missing_line}
    return environment


def render(template: str, **values: Any) -> Markup:
    """Render a template of :data:`TEMPLATES`."""
    return Markup(_environment().get_template(template).render(**values))


def section(template: str, name: str, title: str, gather: Callable[[], Mapping[str, Any]]) -> Section:
    """Render one section: the macro ``name`` of a template, called with what ``gather`` returns.

    If it raises :class:`LeftOut`, the section says so in a line.
    """
    try:
        html = getattr(_environment().get_template(template).module, name)(gather())
    except LeftOut as missing:
        html = missing.line
    return Section(name, title, Markup(html))


def page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """Render the whole page."""
    css = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return str(render("page.j2", title=title, subtitle=subtitle, sections=sections, footer=footer, css=css))


def fragment(table: Table) -> str:
    """Render a table with the little style that it needs inside a notebook, in the colours of the reader's theme."""
    css = Markup((TEMPLATES / "fragment.css").read_text(encoding="utf-8"))
    return Markup("<style>{}</style><div class=csp>{}</div>").format(css, table)
