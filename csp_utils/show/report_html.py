"""The report's building blocks, and the one HTML page that they become: no file beside it, no network, no script."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing
    from PIL import Image


@dataclass(frozen=True)
class Text:
    """A paragraph. A plain string is escaped; a Markup is taken as HTML. ``kind``: "", lead, note or missing."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a smaller line below it (an interval), and what it is.

    ``kind``: better or worse (said in a third line, before ``note``, and coloured), paper (shaded), words (to the
    left), or "".
    """

    text: str
    small: str = ""
    kind: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table: a caption, the columns' names, and groups of rows, each with a heading ("" for none).

    The first ``n_heads`` cells of a row are its names.
    """

    caption: str
    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Sequence[str | Cell]]]]
    n_heads: int = 1

    def cells(self) -> list[tuple[str, list[list[Cell]]]]:
        """The groups with every cell a :class:`Cell`."""
        return [(name, [[c if isinstance(c, Cell) else Cell(str(c)) for c in row] for row in rows])
                for name, rows in self.groups]


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: PNG bytes, what it shows (for those who cannot see it), and its caption."""

    png: bytes
    alt: str
    caption: str = ""
    kind: str = ""
    """pixels: a small image whose pixels are to be seen when it is enlarged; wide: scrolls on a narrow screen."""

    @property
    def uri(self) -> str:
        """The picture as a data address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Grid:
    """Pictures beside one another, as many in a row as there is room for."""

    pictures: Sequence[Picture]
    width: int = 320
    """Least width of a picture in CSS pixels."""


@dataclass(frozen=True)
class Code:
    """Text that stands as it is: a command."""

    text: str
    caption: str


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when their line is clicked, and in print."""

    summary: str
    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Card:
    """Blocks with a frame around them: one example."""

    title: str
    blocks: Sequence["Block"]


Block = Text | Bullets | Table | Picture | Grid | Code | Folded | Card


@dataclass
class Section:
    """A part of the page with its heading; ``name`` is its address in the page."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def link(text: str, address: str) -> Markup:
    """A link."""
    return Markup('<a href="{}">{}</a>').format(address, text)


def drawn(figure: "Drawing", alt: str, caption: str = "", dpi: int = 110) -> Picture:
    """A matplotlib figure as a picture of the page; closes it."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    width, height = figure.get_size_inches()
    return Picture(buffer.getvalue(), alt, caption, "wide" if width > 2 * height else "")


def photo(image: "Image.Image", alt: str, caption: str = "", side: int = 336) -> Picture:
    """A PIL image as a picture of the page; one with a side longer than ``side`` is made smaller."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return Picture(buffer.getvalue(), alt, caption, "pixels" if max(image.size) < side else "")


def page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """The whole page."""
    return _render(PAGE, title=title, subtitle=subtitle, sections=sections, footer=footer, css=Markup(CSS))


def fragment(block: Block) -> str:
    """One block with its style, for a notebook."""
    return _render("<style>{{ css }}</style><div class=csp>{{ show(block) }}</div>", block=block, css=Markup(TABLE_CSS))


def _render(template: str, **values: object) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.tests["block"] = lambda block, kind: type(block).__name__ == kind
    return environment.from_string(SHOW + template).render(**values)


TABLE_CSS = """
.csp table { border-collapse: collapse; } .csp caption { text-align: left; font-weight: 600; padding-bottom: .5em; }
.csp td, .csp th { text-align: right; padding: .25em .7em; } .csp tbody th { text-align: left !important; }
.csp .group th { font-weight: 700; border-top: 1px solid; } .csp small { display: block; opacity: .75; }
"""
"""The least that a table needs in a notebook, in colours of the reader's theme."""

SHOW = """\
{% macro show(b) %}
{% if b is block("Text") %}
<p{% if b.kind %} class="{{ b.kind }}"{% endif %}>{{ b.text }}</p>
{% elif b is block("Bullets") %}
<ul>{% for item in b["items"] %}<li>{{ item }}</li>{% endfor %}</ul>
{% elif b is block("Table") %}
<div class="scroll" role="region" tabindex="0" aria-label="{{ b.caption }}"><table>
<caption>{{ b.caption }}</caption>
<thead><tr>{% for c in b.columns %}<th scope="col">{{ c }}</th>{% endfor %}</tr></thead>
{% for name, rows in b.cells() %}
<tbody>
{% if name %}<tr class="group"><th colspan="{{ b.columns|length }}" scope="rowgroup">{{ name }}</th></tr>{% endif %}
{% for row in rows %}
<tr>{% for c in row %}
{% if loop.index <= b.n_heads %}<th scope="row"{% if c.kind %} class="{{ c.kind }}"{% endif %}>{{ c.text }}
{% if c.small %}<small>{{ c.small }}</small>{% endif %}</th>
{% else %}<td{% if c.kind %} class="{{ c.kind }}"{% endif %}>{{ c.text }}
{% if c.small %}<small{{ "" if c.small[0] == "[" else ' class="why"'|safe }}>{{ c.small }}</small>
{% set third = [c.kind if c.kind in ("better", "worse"), c.note] | select | join(", ") %}
{% if third %}<small>{{ third }}</small>{% endif %}{% endif %}</td>{% endif %}{% endfor %}</tr>
{% endfor %}
</tbody>
{% endfor %}
</table></div>
{% elif b is block("Picture") %}
<figure{% if b.kind %} class="{{ b.kind }}"{% endif %}>
<div{% if b.kind == "wide" %} class="scroll" tabindex="0" role="region" aria-label="{{ b.alt }}"{% endif %}>
<img src="{{ b.uri }}" alt="{{ b.alt }}"></div>
{% if b.caption %}<figcaption>{{ b.caption }}</figcaption>{% endif %}</figure>
{% elif b is block("Grid") %}
<div class="grid" style="--least: {{ b.width }}px">{% for p in b.pictures %}{{ show(p) }}{% endfor %}</div>
{% elif b is block("Code") %}
<p class="label">{{ b.caption }}</p>
<pre tabindex="0"><code>{{ b.text }}</code></pre>
{% elif b is block("Folded") %}
<details><summary>{{ b.summary }}</summary>{% for inner in b.blocks %}{{ show(inner) }}{% endfor %}</details>
{% elif b is block("Card") %}
<article><h3>{{ b.title }}</h3>{% for inner in b.blocks %}{{ show(inner) }}{% endfor %}</article>
{% endif %}
{% endmacro %}
"""
"""How each kind of block is shown."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<a class="skip" href="#{{ sections[0].name }}">Skip to the results</a>
<header><h1>{{ title }}</h1><p>{{ subtitle }}</p>
<nav aria-label="Contents"><ol>{% for s in sections %}<li><a href="#{{ s.name }}">{{ s.title }}</a></li>
{% endfor %}</ol></nav></header>
<main>
{% for s in sections %}
<section id="{{ s.name }}"><h2>{{ s.title }}</h2>
{% for b in s.blocks %}{{ show(b) }}{% endfor %}
</section>
{% endfor %}
</main>
<footer><p>{{ footer }}</p></footer>
</body>
</html>
"""

CSS = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --paper: #f6f8fa; --blue: #0b2f5b; --better: #0f5c2e;
  --better-bg: #e3f4e8; --worse: #8a1c13; --worse-bg: #fdeae7; }
* { box-sizing: border-box; } html { scroll-behavior: smooth; }
body { margin: 0; color: var(--ink); background: #fff; font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 66rem; margin: 0 auto; padding: 0 1.25rem; }
h1 { font-size: clamp(1.7rem, 4vw, 2.5rem); line-height: 1.2; margin: 0 0 .4rem; color: var(--blue); }
header { padding-top: 2.5rem; } header > p { color: var(--soft); margin: 0 0 1rem; }
nav { border-block: 1px solid var(--line); padding: .6rem 0; }
nav ol { display: flex; flex-wrap: wrap; gap: .1rem 1.4rem; margin: 0; padding: 0; list-style: none; font-size: .9em; }
a { color: #0a4fa3; }
a:focus-visible, [tabindex]:focus-visible, summary:focus-visible { outline: 3px solid #0a4fa3; outline-offset: 2px; }
.skip { position: absolute; left: -999px; } .skip:focus { left: 1rem; top: 1rem; background: #fff; padding: .5rem; }
h2 { font-size: 1.5rem; line-height: 1.3; margin: 1.4rem 0 .6rem; color: var(--blue); }
h3 { font-size: 1.05rem; margin: 0 0 .6rem; } section { padding-top: 1.2rem; }
p, li { max-width: 46rem; } ul { padding-left: 1.3rem; } li { margin: .25rem 0; }
.lead { font-size: 1.15rem; line-height: 1.55; }
.note { color: var(--soft); font-size: .92rem; } .label { font-weight: 600; margin-bottom: .3rem; }
.missing { border-left: 4px solid #9a6700; background: #fff8e5; padding: .5rem .9rem; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; min-width: 60%; }
caption { text-align: left; font-weight: 600; padding-bottom: .5rem; font-size: .95rem; max-width: min(46rem, 88vw); }
th, td { padding: .32rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th[scope=row], th[scope=rowgroup], thead th:first-child { text-align: left; font-weight: 500; }
th[scope=row] { min-width: 6.5rem; position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; }
.group th { background: var(--paper); font-weight: 600; padding-top: .5rem; }
td small { display: block; color: var(--soft); font-size: .78rem; line-height: 1.3; white-space: nowrap; }
td small.why { white-space: normal; }
th small { display: block; color: var(--soft); font-weight: 400; max-width: 19rem; line-height: 1.35; }
td.better { color: var(--better); background: var(--better-bg); font-weight: 600; }
td.worse { color: var(--worse); background: var(--worse-bg); font-weight: 600; }
td.better small, td.worse small { color: inherit; font-weight: 400; }
td.paper, th.paper { background: var(--paper); font-style: italic; } td.words { text-align: left; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figure.pixels img { image-rendering: pixelated; width: 100%; }
figure.wide img { min-width: 44rem; } figure.wide .scroll { margin: 0; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .35rem; line-height: 1.45; max-width: 46rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(var(--least), 100%), 1fr)); gap: 1rem; }
article { border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.1rem; margin: 1.1rem 0; }
article p { margin: .4rem 0; } .grid figure { margin: 0; } summary { cursor: pointer; font-weight: 600; }
pre { background: var(--paper); border: 1px solid var(--line); border-radius: 6px; padding: .8rem; overflow-x: auto;
  font-size: .82rem; line-height: 1.45; }
details { margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; }
footer { color: var(--soft); font-size: .88rem; border-top: 1px solid var(--line); margin-top: 3rem;
  padding-block: 1rem 2rem; }
@media print {
  body { font-size: 9.5pt; } nav, .skip { display: none; } header, main, footer { max-width: none; padding: 0; }
  .scroll { overflow: visible; } figure.wide img { min-width: 0; }
  table { font-size: 7.5pt; } th, td { padding: .15rem .35rem; }
  figure, article, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } a { color: inherit; }
  details::details-content { content-visibility: visible; block-size: auto; } pre { white-space: pre-wrap; }
  td.better, td.worse, td.paper, th.paper { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
