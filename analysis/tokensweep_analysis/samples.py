"""Graded samples: the table that every evaluation writes and every number of a report comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tokensweep.files import replacing

# One row per sample. Counts, pass@k and intervals are derived from these rows, never stored beside them.
SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),  # revision of the model when no run of ours trained it
        ("arm", pa.string()),  # null in the file: an arm is a matter of the sweep, joined from sweep.json
        ("config_hash", pa.string()),
        ("seed", pa.int64()),  # training seed
        ("step", pa.int64()),
        ("benchmark", pa.string()),
        ("benchmark_revision", pa.string()),
        ("question_id", pa.string()),
        ("sample_idx", pa.int64()),  # 0 .. num_samples - 1 within the question
        ("sampling_seed", pa.int64()),
        ("prompt_hash", pa.string()),
        ("decode_hash", pa.string()),  # temperature, top_p, top_k, max_tokens, stop, engine
        ("n_prompt_tokens", pa.int64()),
        ("n_output_tokens", pa.int64()),
        ("finish_reason", pa.string()),  # stop | length
        ("extracted", pa.string()),  # the answer that was found, null without one
        ("extract_rule", pa.string()),
        ("grade", pa.string()),  # correct | wrong | no_answer | truncated | error
        ("confidence", pa.float64()),  # that the text states, in [0, 1]; null without one
        ("grader", pa.string()),  # name and version
        ("grader_status", pa.string()),  # ok, or what kept the grader from deciding
        ("latency_s", pa.float64()),
        ("text", pa.string()),  # as it is graded: with the <think> that its prompt ended with
    ]
)
NULLABLE = frozenset({"arm", "seed", "step", "extracted", "extract_rule", "confidence", "latency_s"})
_OPTIONAL = frozenset({"arm", "confidence"})  # null where a row lacks them; files of old have no confidence
_KEY = ["run_id", "benchmark", "question_id", "sample_idx"]  # of a sample
_CODED = pa.dictionary(pa.int32(), pa.string())
GRADES = frozenset({"correct", "wrong", "no_answer", "truncated", "error"})


def write_samples(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as one Parquet file, whole or not at all.

    Raises ValueError naming the column for a missing or unknown one, a wrong type, a null where a value must
    be, or an unknown grade; OSError when there is no space.
    """
    table = _table([dict(row) for row in rows], path)
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_samples(folders: Iterable[Path], *, text: bool = True) -> pd.DataFrame:
    """All samples of evaluation folders, one row per (run, benchmark, question, sample).

    ``text=False`` leaves out the column ``text``, by far the largest.

    Files of a folder add samples (``samples-000.parquet``, ``samples-001.parquet``, ...); of a sample that is
    in several, the row of the last file counts. Columns are those of ``SCHEMA``. Raises ValueError naming a
    file that cannot be read, has other columns, or holds a sample twice.
    """
    frames = [_read_folder(folder, text=text) for folder in folders]
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else _empty()


def read_coded(folder: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of all sample rows of a folder, files in the order in which they were written.

    Texts come as dictionary arrays, one chunk per column; rows that a later file replaces are still in it.
    Raises ValueError naming a file that cannot be read, has other columns, or a null where a value must be.
    """
    tables = [_read_columns(path, columns) for path in sample_files(folder)]
    if not tables:
        return SCHEMA.empty_table().select(columns)
    whole = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
    single = all(column.num_chunks <= 1 for column in whole.columns)
    return whole if single else whole.unify_dictionaries().combine_chunks()


def refuse_repeats(folder: Path) -> None:
    """Raise ValueError for a file that holds a sample twice: nobody knows which of the rows is right."""
    for path in sample_files(folder):
        _refuse_repeats(_read_table(path, _KEY).to_pandas(), path)


def sample_files(folder: Path) -> list[Path]:
    """The sample files of an evaluation folder, in the order in which they were written."""
    return sorted(folder.glob("samples-*.parquet"), key=_number)


def regrade(
    folder: Path, grade: Callable[[Sequence[Mapping[str, Any]]], Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Grade the stored texts of an evaluation folder again, without a model; gives back the new rows.

    ``grade(rows)`` gives for each row the columns that change (``grade``, ``grader``, ``extracted``,
    ``extract_rule``, ``grader_status``, ``confidence``). The rows are written as one more sample file, which
    :func:`read_samples` prefers; the old files stay. Raises ValueError for a folder without samples or for
    other columns.
    """
    rows = [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in read_samples([folder]).to_dict("records")
    ]
    if not rows:
        raise ValueError(f"{folder} has no samples to grade: evaluate first")
    graded = [{**row, **_graded(columns)} for row, columns in zip(rows, grade(rows), strict=True)]
    write_samples(next_file(folder), graded)
    return graded


def next_file(folder: Path) -> Path:
    """The path of the next sample file of an evaluation folder."""
    files = sample_files(folder)
    number = _number(files[-1]) + 1 if files else 0
    return folder / f"samples-{number:03d}.parquet"


def evaluate_again(folder: Path) -> str:
    """What a person does to get the samples that an evaluation folder lacks. A sweep takes it for done."""
    run = folder.parent.parent
    if run.parent.name == "runs":
        return f"give tokensweep evaluate run={run.name}, which samples what is missing"
    return "evaluate again"  # of a model: what it was called is not written there


def _replace(path: Path) -> str:
    return f"delete it, then {evaluate_again(path.parent)}"


_GRADING = frozenset({"grade", "grader", "extracted", "extract_rule", "grader_status", "confidence"})


def _graded(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    odd = sorted(set(columns) - _GRADING)
    if odd:
        raise ValueError(f"a grader may set {sorted(_GRADING)}, got {odd}")
    return columns


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _read_folder(folder: Path, *, text: bool) -> pd.DataFrame:
    frames = [_read(path, text=text) for path in sample_files(folder)]
    if not frames:
        return _empty()
    rows = pd.concat(frames, ignore_index=True)
    return rows.drop_duplicates(_KEY, keep="last", ignore_index=True)


def _read(path: Path, *, text: bool) -> pd.DataFrame:
    columns = [name for name in SCHEMA.names if text or name != "text"]
    frame: pd.DataFrame = _read_table(path, columns).to_pandas()
    _refuse_repeats(frame, path)
    return frame


def _refuse_repeats(frame: pd.DataFrame, path: Path) -> None:
    repeated = frame[frame.duplicated(_KEY)]
    if len(repeated):
        first = repeated.iloc[0]
        raise ValueError(
            f"{path} must hold every sample once, got sample {first['sample_idx']} of "
            f"{first['question_id']} twice: {_replace(path)}"
        )


def _read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    texts = [name for name in columns if SCHEMA.field(name).type == pa.string()]
    table = _read_table(path, columns, dictionaries=texts)
    for name in columns:
        known, got = SCHEMA.field(name).type, table.schema.field(name).type
        if got != (_CODED if name in texts else known):
            raise ValueError(f"{path}: column {name} must be {known}, got {got}: {_replace(path)}")
        if name not in NULLABLE and table[name].null_count:
            raise ValueError(f"{path}: column {name} must have a value in every row: {_replace(path)}")
    return table


def _read_table(path: Path, columns: Sequence[str], *, dictionaries: Sequence[str] = ()) -> pa.Table:
    """Columns of one file in one thread: files are small, and threads cost more than they save."""
    try:
        # Buffering ahead, the default, is for remote files and hands each column to another thread.
        with pq.ParquetFile(path, read_dictionary=list(dictionaries), pre_buffer=False) as file:
            names = file.schema_arrow.names
            lacking = _OPTIONAL - set(names)
            if names != [name for name in SCHEMA.names if name not in lacking]:
                odd = sorted(set(names) ^ set(SCHEMA.names))
                raise ValueError(
                    f"{path} must have the columns of SCHEMA, but differs in {odd}: {_replace(path)}"
                )
            there = [name for name in columns if name not in lacking]
            return _completed(file.read(columns=there, use_threads=False), columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} cannot be read ({error}): {_replace(path)}") from error


def _completed(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The table with a column of nulls for each that its file lacks."""
    for name in columns:
        if name not in table.column_names:
            nulls = pa.nulls(len(table), type=SCHEMA.field(name).type)
            table = table.append_column(SCHEMA.field(name), nulls)
    return table.select(columns)


def _empty() -> pd.DataFrame:
    frame: pd.DataFrame = SCHEMA.empty_table().to_pandas()
    return frame


def _table(rows: Sequence[dict[str, Any]], path: Path) -> pa.Table:
    for row in rows:
        if set(row) - _OPTIONAL != set(SCHEMA.names) - _OPTIONAL:
            odd = sorted((set(row) ^ set(SCHEMA.names)) - _OPTIONAL)
            raise ValueError(f"{path.name}: a sample must have the columns of SCHEMA, but differs in {odd}")
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA.names}
    for name, values in columns.items():
        if name not in NULLABLE and any(value is None for value in values):
            raise ValueError(f"{path.name}: column {name} must have a value in every row, got None")
    unknown = sorted({str(grade) for grade in columns["grade"]} - GRADES)
    if unknown:
        raise ValueError(f"{path.name}: grade must be one of {sorted(GRADES)}, got {unknown}")
    arrays = [_array(columns[field.name], field, path) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _array(values: list[Any], field: Any, path: Path) -> Any:
    try:
        return pa.array(values, type=field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{path.name}: column {field.name} must be {field.type}: {error}") from error
