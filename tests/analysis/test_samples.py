"""Sample files are complete, typed, and can be added to and graded again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokensweep_analysis.samples import SCHEMA, next_file, read_coded, read_samples, regrade, write_samples

MakeRow = Callable[..., dict[str, Any]]


def test_samples_come_back_as_they_were_written(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [make_row(sample_idx=0), make_row(sample_idx=1, grade="no_answer", extracted=None, seed=None)]
    write_samples(tmp_path / "samples-000.parquet", rows)
    frame = read_samples([tmp_path])
    assert list(frame.columns) == SCHEMA.names
    assert list(frame["grade"]) == ["correct", "no_answer"]
    assert frame["extracted"].isna().tolist() == [False, True]


def test_later_files_add_samples_and_replace_rows(tmp_path: Path, make_row: MakeRow) -> None:
    write_samples(
        tmp_path / "samples-009.parquet", [make_row(sample_idx=0, grade="wrong"), make_row(sample_idx=1)]
    )
    write_samples(tmp_path / "samples-1000.parquet", [make_row(sample_idx=0), make_row(sample_idx=2)])
    frame = read_samples([tmp_path]).sort_values("sample_idx")
    assert list(frame["sample_idx"]) == [0, 1, 2]
    assert set(frame["grade"]) == {"correct"}
    assert next_file(tmp_path).name == "samples-1001.parquet"


def test_folders_without_samples_give_an_empty_table_with_all_columns(tmp_path: Path) -> None:
    frame = read_samples([tmp_path, tmp_path / "absent"])
    assert len(frame) == 0
    assert list(frame.columns) == SCHEMA.names


def test_texts_can_be_left_on_disk(tmp_path: Path, make_row: MakeRow) -> None:
    write_samples(tmp_path / "samples-000.parquet", [make_row()])
    assert "text" not in read_samples([tmp_path], text=False).columns


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grade": "right"}, "grade must be one of"),
        ({"grade": None}, "column grade must have a value in every row"),
        ({"question_id": None}, "column question_id must have a value in every row"),
        ({"latency_s": "long"}, "column latency_s must be double"),
        ({"colour": "red"}, r"differs in \['colour'\]"),
    ],
)
def test_a_wrong_row_is_refused_and_nothing_is_written(
    tmp_path: Path, make_row: MakeRow, changes: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_samples(tmp_path / "samples-000.parquet", [make_row(**changes)])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_written_samples(
    tmp_path: Path, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(table: pa.Table, path: Path, **_: Any) -> None:
        path.write_bytes(b"PAR1 and no more")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(
        OSError, match=r"samples-000\.parquet could not be written \(No space left on device\)"
    ):
        write_samples(tmp_path / "samples-000.parquet", [make_row()])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "samples-000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"samples-000\.parquet cannot be read"):
        read_samples([tmp_path])


def test_a_file_of_another_layout_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question_id": ["q0"]}), tmp_path / "samples-000.parquet")
    with pytest.raises(ValueError, match=r"samples-000\.parquet must have the columns of SCHEMA"):
        read_samples([tmp_path])


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("grade", pa.array([None], pa.string()), "column grade must have a value in every row"),
        ("sample_idx", pa.array([None], pa.int64()), "column sample_idx must have a value in every row"),
        ("sample_idx", pa.array([0.0]), "column sample_idx must be int64, got double"),
        ("grade", pa.array([1]), "column grade must be string, got int64"),
    ],
)
def test_a_file_of_another_writer_must_have_values_of_the_right_type(
    tmp_path: Path, make_row: MakeRow, column: str, values: pa.Array, message: str
) -> None:
    path = tmp_path / "samples-000.parquet"
    write_samples(path, [make_row()])
    table = pq.read_table(path)
    pq.write_table(table.set_column(SCHEMA.get_field_index(column), column, values), path)
    with pytest.raises(ValueError, match=rf"samples-000\.parquet: {message}"):
        read_coded(tmp_path, ["grade", "sample_idx"])


def test_coded_columns_of_several_files_share_their_codes(tmp_path: Path, make_row: MakeRow) -> None:
    write_samples(tmp_path / "samples-000.parquet", [make_row(extracted=text) for text in ("7", None)])
    write_samples(tmp_path / "samples-001.parquet", [make_row(extracted=text) for text in ("8", "7")])
    column = read_coded(tmp_path, ["extracted"])["extracted"]
    assert column.num_chunks == 1
    assert column.chunk(0).dictionary.to_pylist() == ["7", "8"]
    assert column.to_pylist() == ["7", None, "8", "7"]


def test_stored_texts_can_be_graded_again_and_the_old_grades_stay_on_disk(
    tmp_path: Path, make_row: MakeRow
) -> None:
    write_samples(tmp_path / "samples-000.parquet", [make_row(text="7"), make_row(text="8", sample_idx=1)])
    regrade(
        tmp_path,
        lambda rows: [
            {"grade": "correct" if row["text"] == "8" else "wrong", "grader": "exact 2"} for row in rows
        ],
    )
    frame = read_samples([tmp_path]).sort_values("sample_idx")
    assert list(frame["grade"]) == ["wrong", "correct"]
    assert set(frame["grader"]) == {"exact 2"}
    assert pq.read_table(tmp_path / "samples-000.parquet")["grader"].to_pylist() == ["exact 1", "exact 1"]


def test_a_grader_may_not_change_what_was_sampled(tmp_path: Path, make_row: MakeRow) -> None:
    write_samples(tmp_path / "samples-000.parquet", [make_row()])
    with pytest.raises(ValueError, match=r"a grader may set .* got \['text'\]"):
        regrade(tmp_path, lambda rows: [{"text": "9"} for _ in rows])
