"""A published table is read as it is printed, or refused with file, line and column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tokensweep_analysis.published.reader import COLUMNS, Cell, read_published

Write = Callable[..., Path]
Read = Callable[..., tuple[Cell, ...]]


def test_printed_decimals_say_what_rounding_can_hide(read: Read) -> None:
    one, two, none = read({"value": "40.0"}, {"value": "45.70"}, {"value": "47"})
    assert [cell.value.rounding for cell in (one, two, none)] == pytest.approx([0.05, 0.005, 0.5])
    assert two.value.text == "45.70"


def test_values_up_to_one_without_percent_are_shares(read: Read) -> None:
    first, second = read({"value": "0.558", "metric": "avg@16"}, {"value": "0.5", "metric": "avg@8"})
    assert first.value.points == pytest.approx(55.8)
    assert first.value.text == "55.8"
    assert second.value.points == pytest.approx(50)


def test_small_values_with_percent_stay_percent(read: Read) -> None:
    assert read({"value": "0.6", "metric": "avg@16 (%)"})[0].value.points == pytest.approx(0.6)


def test_lines_count_line_breaks_inside_quotes(read: Read) -> None:
    cells = read({"value": "40.0", "source_note": "first\nsecond"}, {"value": "43.3"})
    assert [cell.line for cell in cells] == [2, 4]


def test_training_runs_are_read_from_the_row(read: Read) -> None:
    cells = read(
        {"value": "40.0", "source_note": "mean of 3 training seeds"},
        {"value": "43.3", "variant": "4 TRAINING seeds"},
        {"value": "36.7", "source_note": "10 sampling seeds"},
    )
    assert [cell.num_seeds for cell in cells] == [3, 4, 1]


def test_a_remark_on_where_a_number_stands_makes_no_other_arm(read: Read) -> None:
    cells = read(
        {"value": "1.0", "variant": "p=-1 (as printed in Table 1)"},
        {"value": "2.0", "variant": "p=-1"},
        {"value": "3.0", "variant": "all tokens (100%)"},
    )
    assert [cell.same_arm for cell in cells] == ["GRPO, p=-1", "GRPO, p=-1", "GRPO, all tokens (100%)"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"value": "about 40"}, r"line 2: column value must be a number .*'about 40'"),
        ({"value": ""}, "line 2: column value must not be empty"),
        ({"value": "140.0"}, r"line 2: column value must be between 0 and 100 .*'140.0'"),
        ({"value": "-1"}, "between 0 and 100"),
        ({"value": "nan"}, "column value must be a number .*'nan': leave the row out"),
        ({"value": "inf"}, "column value must be a number .*'inf': leave the row out"),
        ({"value": "4_0.0"}, "column value must be a number .*'4_0.0'"),
        ({"value": "40,0"}, "column value must be a number .*'40,0': decimals come after a point"),
        ({"value": "40", "baseline_value": "NaN"}, "column baseline_value must .*'NaN': leave it empty"),
        ({"value": "40", "baseline_value": "x"}, "line 2: column baseline_value must be a number"),
        ({"value": "40", "k": "half"}, "line 2: column k must be a whole number"),
        ({"value": "40", "metric": "goodness"}, "line 2: metric must be spelled like one of .*'goodness'"),
        ({"value": "40", "metric": "pass@8 (%)", "k": "16"}, "column k must agree .*got 16"),
        ({"value": "40", "base_model": ""}, "column base_model must not be empty"),
    ],
)
def test_a_bad_row_is_named_by_line_and_column(write: Write, row: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_published(write(row))


def test_missing_columns_are_named(write: Write) -> None:
    path = write({"value": "40"}, columns=tuple(name for name in COLUMNS if name != "metric"))
    with pytest.raises(ValueError, match=r"table.csv line 1 must name the columns .*missing: metric"):
        read_published(path)


def test_a_repeated_row_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match="line 3: the row must not repeat line 2"):
        read_published(write({"value": "40.0"}, {"value": "40.0"}))


def test_many_problems_come_in_one_message(write: Write) -> None:
    rows = [{"value": "x", "variant": str(place)} for place in range(7)]
    with pytest.raises(ValueError, match=r"(?s)line 2.*line 6.*and 2 more"):
        read_published(write(*rows))


@pytest.mark.parametrize("text", ["", ",".join(COLUMNS) + "\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "empty.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.csv must"):
        read_published(path)


def test_a_ragged_line_is_refused(write: Write) -> None:
    path = write({"value": "40.0"})
    path.write_text(path.read_text(encoding="utf-8") + ",".join("x" * 20) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 3: must have 11 fields like line 1, got 20"):
        read_published(path)
