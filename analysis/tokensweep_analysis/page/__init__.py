"""The page of a sweep: :func:`to_html` and :func:`write_page`."""

from tokensweep_analysis.page.document import to_html, write_page

__all__ = ["to_html", "write_page"]
