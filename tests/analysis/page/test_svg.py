"""Plots are small, stable, and safe beside each other in a page."""

from __future__ import annotations

import re

import pytest

from tokensweep_analysis.page.markup import Html
from tokensweep_analysis.page.svg import INK, looks, panel, swatch, to_svg


def _plot(label: str = "arm", prefix: str = "p") -> Html:
    with panel() as (figure, axes):
        axes.plot([1, 2], [1, 2], color=INK, marker="o")
        axes.set_xlabel(label)
        return to_svg(figure, label=label, prefix=prefix)


def test_the_same_plot_gives_the_same_bytes() -> None:
    assert _plot() == _plot()


def test_ids_of_two_plots_differ() -> None:
    first, second = (set(re.findall(r'id="([^"]+)"', _plot(prefix=prefix))) for prefix in "pq")
    assert first
    assert not first & second


def test_every_reference_leads_to_an_id() -> None:
    drawn = _plot()
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawn)) == set(re.findall(r'id="([^"]+)"', drawn))


def test_colours_are_those_of_the_page_and_fonts_too() -> None:
    drawn = _plot()
    assert "var(--ink)" in drawn
    assert INK not in drawn
    assert "DejaVu" not in drawn


@pytest.mark.parametrize("name", ["$x_1$", "<script>alert(1)</script>", "算法", "a & b"])
def test_any_name_is_drawn_as_it_is(name: str) -> None:
    drawn = _plot(name)
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f">{escaped}</text>" in drawn
    assert "<script" not in drawn


def test_a_plot_has_a_text_alternative() -> None:
    assert 'role="img" aria-label="arm"' in _plot()


def test_a_swatch_is_silent_and_may_stand_on_a_page_twice() -> None:
    drawn = swatch(looks(["all"], "all")["all"])
    assert 'aria-hidden="true"' in drawn
    assert "id=" not in drawn
