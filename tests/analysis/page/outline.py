"""A page as its elements, so that tests can ask what a browser and a screen reader would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"br", "img", "input", "link", "meta", "use", "image"})


@dataclass
class Element:
    """An element, its attributes, and what it holds in order."""

    name: str
    attributes: dict[str, str]
    content: list[Element | str] = field(default_factory=list)

    def all(self, name: str | None = None) -> Iterator[Element]:
        """It and everything inside it, or those called ``name``."""
        if name in (None, self.name):
            yield self
        for child in self.content:
            if isinstance(child, Element):
                yield from child.all(name)

    @property
    def text(self) -> str:
        """All text inside."""
        return "".join(child if isinstance(child, str) else child.text for child in self.content)

    def find(self, id_: str) -> Element:
        """The element with an id."""
        return next(each for each in self.all() if each.attributes.get("id") == id_)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("#", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].content.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].content.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


def outline(page: str) -> Element:
    """The elements of a page. Raises AssertionError where one is not closed."""
    reader = _Reader()
    reader.feed(page)
    assert len(reader.open) == 1, f"<{reader.open[-1].name}> is not closed"
    return reader.open[0]
