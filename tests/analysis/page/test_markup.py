"""Nothing that a user wrote becomes markup."""

from __future__ import annotations

from tokensweep_analysis.page.markup import Html, join, tag


def test_text_is_escaped_and_markup_is_kept() -> None:
    assert tag("td", "<b>", tag("i", "&")) == "<td>&lt;b&gt;<i>&amp;</i></td>"


def test_attributes_are_escaped_even_when_they_are_markup() -> None:
    assert tag("a", title=Html('"><script>')) == '<a title="&quot;&gt;&lt;script&gt;"></a>'


def test_names_of_attributes_follow_html_and_none_leaves_one_out() -> None:
    assert tag("div", class_="x", aria_label="y", title=None) == '<div class="x" aria-label="y"></div>'


def test_void_elements_are_not_closed() -> None:
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_joining_escapes_what_is_not_markup() -> None:
    assert join(["<", tag("br")]) == "&lt;<br>"
