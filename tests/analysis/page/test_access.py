"""A page can be read with a keyboard, with a screen reader, and without telling colours apart."""

from __future__ import annotations

import re
from importlib import resources
from itertools import pairwise

import pytest
from tests.analysis.page.made import made_curves, simulated
from tests.analysis.page.outline import Element, outline

from tokensweep_analysis.page import to_html
from tokensweep_analysis.page.selection import drawn_arms


@pytest.fixture(scope="module")
def page() -> Element:
    """A page with all of its parts."""
    comparison = simulated(num_arms=4, benchmarks=["aime24", "aime25"], num_questions=5, num_samples=4)
    return outline(to_html(comparison, made_curves(drawn_arms(comparison), num_points=5)))


def test_landmarks_and_the_language_are_there(page: Element) -> None:
    assert next(page.all("html")).attributes["lang"] == "en"
    assert [len(list(page.all(name))) for name in ("header", "nav", "main", "footer", "h1")] == [1] * 5


def test_the_first_link_skips_to_the_results(page: Element) -> None:
    first = next(page.all("a"))
    assert first.attributes["class"] == "skip"
    assert page.find(first.attributes["href"].removeprefix("#")).name == "main"


def test_every_link_and_label_leads_somewhere(page: Element) -> None:
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in page.all():
        target = element.attributes.get("aria-labelledby") or element.attributes.get("href", "#")[1:]
        assert not target or target in ids or target.startswith("ata:image")


def test_headings_do_not_skip_a_level(page: Element) -> None:
    levels = [int(e.name[1]) for e in page.all() if re.fullmatch(r"h[1-6]", e.name)]
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_table_has_a_caption_and_its_headers_a_scope(page: Element) -> None:
    tables = list(page.all("table"))
    assert len(tables) > 8
    for table in tables:
        assert next(table.all("caption")).text
        assert {e.attributes.get("scope") for e in table.all("th")} == {"col", "row"}
        widths = {
            sum(int(c.attributes.get("colspan", 1)) for c in row.content if not isinstance(c, str))
            for row in table.all("tr")
        }
        assert len(widths) == 1


def test_what_scrolls_takes_the_focus_and_has_a_name(page: Element) -> None:
    regions = [e for e in page.all() if e.attributes.get("class") == "scroll"]
    assert len(regions) == len(list(page.all("table")))
    assert all(e.attributes["tabindex"] == "0" and e.attributes["aria-labelledby"] for e in regions)
    wide = [e for e in page.all("figure") if e.attributes.get("class") == "wide"]
    assert len(wide) == 2
    assert all(e.attributes["tabindex"] == "0" and e.attributes["aria-label"] for e in wide)


def test_what_folds_out_has_a_name_of_its_own_and_hints_are_not_for_pointers_alone(page: Element) -> None:
    folded = [next(e.all("summary")).text for e in page.all("details")]
    names = [name for name in folded if "numbers as tables" in name]
    assert len(set(names)) == len(names) == 4
    for part in ("claims", "contrasts", "ranking"):
        section = page.find(part)
        hints = {e.attributes["title"] for e in section.all("th") if "title" in e.attributes}
        assert hints == {e.text for e in section.all("dd")} != set()


def test_every_plot_says_its_numbers(page: Element) -> None:
    plots = [svg for figure in page.all("figure") for svg in figure.all("svg")]
    assert len(plots) == 3 + 3 + 3 + 2 + 4 + 3  # pass@k, gains, forest pooled too, heat maps, curves, lengths
    assert all(svg.attributes["role"] == "img" and len(svg.attributes["aria-label"]) > 40 for svg in plots)
    assert all(next(figure.all("figcaption")).text for figure in page.all("figure"))


def _colours(*, dark: bool) -> dict[str, tuple[float, ...]]:
    """The variables of the style sheet as relative luminances of red, green and blue."""
    css = resources.files("tokensweep_analysis.page").joinpath("style.css").read_text()
    light_part, dark_part = css.split("prefers-color-scheme: dark", 1)
    pairs = re.findall(r"--([\w-]+): #([0-9a-f]{6})", dark_part if dark else light_part)
    return {name: tuple(int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)) for name, code in pairs}


def _contrast(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Contrast ratio as WCAG 2.2 defines it."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_lines_stand_out(dark: bool) -> None:
    colours = _colours(dark=dark)
    for name in ("ink", "muted", "link", "good", "bad", "open", "none"):
        assert _contrast(colours[name], colours["page"]) >= 4.5, name
        assert _contrast(colours[name], colours["tint"]) >= 4.5, name
    assert _contrast(colours["ink"], colours["warn"]) >= 4.5
    lines = [name for name in colours if name.startswith("arm-")]
    assert len(lines) == 6
    for name in lines:
        assert _contrast(colours[name], colours["page"]) >= 3, name
