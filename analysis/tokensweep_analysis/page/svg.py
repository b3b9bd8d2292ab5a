"""Matplotlib figures as inline SVG: text stays text, colours are the page's, bytes are stable.

Libraries were compared on the same two plots, pass@k of 8 arms with bands and their training curves of 200
steps (matplotlib 3.11, plotly 7.1, bokeh 3.9, altair 6.3; one self-contained file each):

    matplotlib, SVG        148 kB    (87 kB after the clean-up here)
    altair, vega inlined  1075 kB
    bokeh, inlined        1384 kB
    plotly, inlined       4948 kB

Matplotlib is a dependency already, its plots need no JavaScript, print as vectors and follow the page's
light and dark colours. What is lost is hovering and zooming; the numbers stand in tables beside the plots.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING, Any

from tokensweep_analysis.page.markup import Html, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for the page's own: each is replaced by its CSS variable, so dark mode changes it too.
INK, MUTED, LINE, PAGE = "#010203", "#020304", "#030405", "#040506"
_COLOURS = ("#0072b2", "#c24e00", "#00805c", "#a8467f", "#2f7fb8", "#8f6400")  # Okabe-Ito, see style.css
_VARIABLES: Mapping[str, str] = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAGE: "var(--page)",
    **{colour: f"var(--arm-{place})" for place, colour in enumerate(_COLOURS, start=1)},
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
_DASHES = ((None, None), (5.0, 2.0), (1.5, 1.5), (6.0, 2.0, 1.5, 2.0))
_STYLE: dict[Any, Any] = {  # matplotlib types the keys as a literal of all its settings
    "svg.fonttype": "none",
    "svg.hashsalt": "tokensweep",
    "text.parse_math": False,  # an arm may be called $x$
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
}
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}  # nothing that changes


@dataclass(frozen=True)
class Look:
    """How an arm is drawn everywhere: no two arms differ in colour alone."""

    colour: str
    marker: str
    dashes: tuple[float | None, ...]

    @property
    def line(self) -> tuple[int, tuple[float, ...] | None]:
        """As matplotlib's linestyle."""
        pattern = tuple(float(part) for part in self.dashes if part is not None)
        return (0, pattern or None)


BASELINE_LOOK = Look(INK, "o", (4.0, 2.0))


def looks(arms: Sequence[str], baseline: str | None) -> dict[str, Look]:
    """A look per arm. The baseline has the colour of text; the others differ in marker, then in dashes."""
    others = [arm for arm in arms if arm != baseline]
    styled = {
        arm: Look(
            _COLOURS[place % len(_COLOURS)],
            _MARKERS[place % len(_MARKERS)],
            _DASHES[place // len(_COLOURS) % len(_DASHES)],
        )
        for place, arm in enumerate(others)
    }
    return {arm: styled.get(arm, BASELINE_LOOK) for arm in arms}


@contextmanager
def panel(width: float = 4.4, height: float = 3.0) -> Iterator[tuple[Figure, Axes]]:
    """An empty plot of ``width`` by ``height`` inches in the page's style, for the length of the block."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The browser draws the text, in fonts that matplotlib does not have.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        yield figure, axes


def to_svg(figure: Figure, *, label: str, prefix: str) -> Html:
    """The figure as an ``<svg>`` for a page; ``prefix`` keeps its ids apart from those of other figures.

    ``label`` is what a screen reader says in place of it. The same figure gives the same bytes. Call it
    inside of :func:`panel`.
    """
    box, body = _drawn(figure, prefix)
    return tag("svg", body, viewBox=box, role="img", aria_label=label)


def _drawn(figure: Figure, prefix: str) -> tuple[str, Html]:
    """The view box of the figure's SVG and what is inside it, cleaned."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = StringIO()
    # savefig draws twice, once for the layout alone. Matplotlib has no types for its backends.
    FigureCanvasSVG(figure).print_svg(out, metadata=_METADATA)  # type: ignore[no-untyped-call]
    drawn = out.getvalue()
    box = re.search(r'viewBox="([^"]+)"', drawn)
    assert box, "matplotlib writes a viewBox"
    body = drawn[drawn.index(">", box.end()) + 1 : drawn.rindex("</svg>")]
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]+>", lambda found: _element(found.group(), prefix), body)
    body = re.sub(r">\s+<", "><", _named_parts_only(body)).strip()
    return box.group(1), Html(body)


@cache
def swatch(look: Look) -> Html:
    """The look of an arm as a small picture for a legend, without ids and without a meaning of its own."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.patches import PathPatch
    from matplotlib.transforms import Affine2D

    width, height, size = 36.0, 14.4, 6.0  # points
    with panel(width / 72, height / 72) as (figure, axes):
        figure.set_layout_engine("none")
        axes.set_position((0, 0, 1, 1))
        axes.axis("off")
        axes.set(xlim=(0, width), ylim=(0, height))
        axes.plot([2, width - 2], [height / 2] * 2, color=look.colour, linestyle=look.line, clip_on=False)
        marker = MarkerStyle(look.marker)
        place = marker.get_transform() + Affine2D().scale(size).translate(width / 2, height / 2)
        shape = marker.get_path().transformed(place)
        axes.add_patch(PathPatch(shape, facecolor=look.colour, edgecolor=look.colour, clip_on=False))
        box, body = _drawn(figure, "swatch")
    return tag("svg", body, viewBox=box, aria_hidden="true", class_="swatch")


def _element(markup: str, prefix: str) -> str:
    """One element: the page's colours and fonts, short numbers, ids that are unique on the page."""
    markup = re.sub(r"font-family: [^;\"]*;? ?", "", markup)
    markup = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", markup)
    markup = re.sub(r"#[0-9a-f]{6}", lambda found: _VARIABLES.get(found.group(), found.group()), markup)
    markup = re.sub(r" ?transform=\"rotate\(-0 [^\"]*\)\"", "", markup)
    markup = markup.replace("xlink:href=", "href=").replace("; ", ";").replace(": ", ":")
    markup = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", markup)
    if "base64" in markup:
        return markup.replace("\n", "")
    markup = re.sub(r"-?\d+\.\d+", lambda found: _short(found.group()), markup)
    return re.sub(r"\s*\n\s*", "", markup)


def _short(number: str) -> str:
    """Two decimals: a hundredth of a point cannot be seen."""
    shortened = f"{float(number):.2f}".rstrip("0").rstrip(".")
    return "0" if shortened == "-0" else shortened


def _named_parts_only(body: str) -> str:
    """Without the ids that nothing refers to, and without groups that group nothing."""
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' ?id="([^"]+)"', lambda found: found.group() if found.group(1) in used else "", body)
    return re.sub(r"<g\s*>\s*</g>", "", body)
