"""The page, the terminal tables and the files, from tables made by hand."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from tests.analysis.tokens.made_up import make_rollouts

from tokensweep_analysis.tokens.examples import Example, examples
from tokensweep_analysis.tokens.files import write_findings
from tokensweep_analysis.tokens.findings import Findings, Subject, analyse
from tokensweep_analysis.tokens.page import page
from tokensweep_analysis.tokens.plots import plots
from tokensweep_analysis.tokens.selection import Rule
from tokensweep_analysis.tokens.shown import in_text, visible
from tokensweep_analysis.tokens.table import token_table
from tokensweep_analysis.tokens.terminal import renderables

_SUBJECT = Subject(run_id="r-1", method="grpo", model="tiny", temperature=1.0, notes=("<b>a note</b>",))
_HOSTILE = {
    0: "<script>alert(1)</script>",
    1: '"><img src=x onerror=alert(2)>',
    2: "\u202e",  # turns the direction of all that follows
    3: "=1+2",
}


def findings_of(rollouts: pd.DataFrame, *, pieces: dict[int, str], base: bool = True) -> Findings:
    entropies = [np.asarray(each, dtype=np.float32) + 0.1 for each in rollouts["old_entropy"]]
    table = token_table(rollouts, pieces=pieces, base_entropy=entropies if base else None)
    return analyse(table, subject=_SUBJECT, rule=Rule(), min_count=1)


def hostile() -> tuple[Findings, list[Example]]:
    rollouts = make_rollouts(
        [
            {"entropy": [0.001, 0.05, 0.7, 2.0], "problem_id": "</summary><script>"},
            {"entropy": [0.2, 0.4], "grade": "wrong", "step": 2},
        ]
    )
    found = findings_of(rollouts, pieces=_HOSTILE)
    prompts = {(1, 0): "<iframe>", (2, 1): "2=\n"}
    return found, examples(found.tokens, prompts=prompts, number=4, max_tokens=1000)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "srcset", "action")]
        if tag == "img":
            self.images.append(dict(attrs))


def parsed(text: str) -> _Tags:
    tags = _Tags()
    tags.feed(text)
    return tags


def test_no_text_of_a_model_becomes_markup() -> None:
    found, shown = hostile()
    text = page(found, plots=[], examples=shown)
    tags = parsed(text)
    assert not {"script", "iframe", "img"} & set(tags.tags)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<strong>Note:</strong> &lt;b&gt;a note&lt;/b&gt;." in text
    assert "\\u202e" in text
    assert "\u202e" not in text
    assert "default-src 'none'" in text


def test_the_page_needs_nothing_from_elsewhere_and_says_what_plots_show() -> None:
    found, shown = hostile()
    tags = parsed(page(found, plots=list(plots(found)), examples=shown))
    assert len(tags.images) == 5  # distribution, percentiles, overlap, change, positions
    assert all(link.startswith("data:image/svg+xml;base64,") for link in tags.links)
    assert all(len(image["alt"] or "") > 20 for image in tags.images)


def test_kept_tokens_are_told_by_more_than_colour() -> None:
    # Two steps; ceil(0.2 * 4) = 1 and ceil(0.2 * 2) = 1 tokens are kept, 2.0 and 0.4 nats.
    found, shown = hostile()
    text = page(found, plots=[], examples=shown)
    assert text.count('<b class="e') == 2
    assert '<b class="e5 k" title="2.00, base 2.10">=1+2</b>' in text
    assert '<span class="e0" title="0.00, base 0.10">' in text


def test_long_rollouts_are_cut_and_the_page_stays_small() -> None:
    rollouts = make_rollouts([{"entropy": np.linspace(0, 2, 5000)} for _ in range(16)])
    found = findings_of(rollouts, pieces=dict.fromkeys(range(5000), "<word>"))
    prompts = {(1, number): "prompt" for number in range(16)}
    shown = examples(found.tokens, prompts=prompts, number=12, max_tokens=40_000)
    assert [len(each.tokens) for each in shown] == [3333] * 12
    text = page(found, plots=list(plots(found)), examples=shown)
    assert len(text.encode()) < 5_000_000
    assert text.count("1,667 more tokens are in tokens.parquet") == 12


def test_right_and_wrong_rollouts_take_turns_one_per_prompt_first() -> None:
    # Kept are the 2 of 10 tokens with 0.9 nats.
    rollouts = make_rollouts(
        [
            {"entropy": [0.9, 0.9], "group": 0, "sample": 0},
            {"entropy": [0.1, 0.1], "group": 0, "sample": 1},
            {"entropy": [0.1, 0.1], "group": 1, "sample": 0},
            {"entropy": [0.1, 0.1], "group": 2, "sample": 0, "grade": "wrong"},
            {"entropy": [0.1, 0.1], "group": 3, "sample": 0, "grade": "no_answer"},
        ]
    )
    found = findings_of(rollouts, pieces={0: "a", 1: "b"})
    shown = examples(
        found.tokens, prompts={(1, group): str(group) for group in range(4)}, number=5, max_tokens=100
    )
    order = [(each.prompt, each.grade) for each in shown]
    assert order == [("0", "correct"), ("2", "wrong"), ("1", "correct"), ("3", "no_answer"), ("0", "correct")]


def test_without_a_base_nothing_is_said_of_it(tmp_path: Path) -> None:
    found = findings_of(make_rollouts([{"entropy": [0.1, 0.2]}]), pieces={0: "a", 1: "b"}, base=False)
    assert not found.has_base
    assert {plot.name for plot in plots(found)} == {"distribution", "percentiles", "positions"}
    assert "The base model" not in page(found, plots=[], examples=[])
    assert "Overlap" not in printed(found)


def printed(found: Findings) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    for part in renderables(found):
        console.print(part)
    return console.export_text()


def test_brackets_in_a_token_are_no_markup_of_the_terminal() -> None:
    found = findings_of(make_rollouts([{"entropy": [0.1, 0.9]}]), pieces={0: "[red]", 1: " x\n"})
    text = printed(found)
    assert "[red]" in text
    assert "␣x↵" in text


def test_hidden_characters_are_named() -> None:
    assert visible("a\x00\u200b b") == "a\\u0000\\u200b␣b"
    assert visible("") == "(empty)"
    assert in_text("a\n\x1b") == "a\n\\u001b"


def test_files_are_written_and_old_ones_of_other_tables_removed(tmp_path: Path) -> None:
    found, shown = hostile()
    (tmp_path / "overlap_on_last.csv").write_text("of an earlier call")
    files = write_findings(tmp_path, found, examples=shown)
    assert not (tmp_path / "overlap_on_last.csv").exists()
    assert {path.name for path in files} >= {"tokens.parquet", "page.html", "overlap.csv", "overlap.svg"}
    rows = pd.read_parquet(tmp_path / "tokens.parquet")
    assert len(rows) == 6
    assert {"entropy", "base_entropy", "kept", "top", "base_top", "weight", "advantage"} <= set(rows.columns)
    with (tmp_path / "top_tokens.csv").open() as file:
        tokens = [row["token"] for row in csv.DictReader(file)]
    assert '"=1+2"' in tokens  # no spreadsheet takes it for a formula


def test_the_same_findings_give_the_same_page() -> None:
    found, shown = hostile()
    first, second = (page(found, plots=list(plots(found)), examples=shown) for _ in range(2))
    assert first == second
