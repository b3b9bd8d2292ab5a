"""``tokensweep analyse tokens`` on a run that was trained for this."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tokensweep.analyse import analyse_command, token_texts
from tokensweep.files import write_json
from tokensweep.garbage import find_garbage
from tokensweep.identity import digest
from tokensweep.models.characters import character_tokenizer


@pytest.fixture
def store(trained_store: Path, tmp_path: Path) -> Path:
    """A copy of the trained store that a test may change."""
    return Path(shutil.copytree(trained_store, tmp_path / "store"))


def analyse(store: Path, *arguments: str) -> Path:
    """Run the command; the folder with its files."""
    analyse_command(["tokens", *arguments, f"store={store}"])
    return next((store / "runs").glob(f"{arguments[0]}*")) / "analysis" / "tokens"


def test_what_the_run_kept_is_the_top_of_its_batches(store: Path) -> None:
    # All rollouts are stored, so the choice of the trainer can be made again from their entropies.
    out = analyse(store, "fork", "--no-base")
    tokens = pd.read_parquet(out / "tokens.parquet")
    assert sorted(tokens["step"].unique()) == [1, 2, 3]
    for _, step in tokens.groupby("step"):
        count = int(np.ceil(0.2 * len(step)))
        threshold = step["entropy"].sort_values(ascending=False).iloc[count - 1]
        assert step["kept"].sum() == count
        assert step.loc[step["kept"], "entropy"].min() == threshold


def test_before_the_first_update_the_policy_is_the_base_model(store: Path) -> None:
    out = analyse(store, "fork")
    tokens = pd.read_parquet(out / "tokens.parquet")
    first = tokens[tokens["step"] == 1]
    assert first["entropy"].to_numpy() == pytest.approx(first["base_entropy"].to_numpy(), abs=1e-5)
    later = tokens[tokens["step"] == 3]
    assert np.abs(later["entropy"] - later["base_entropy"]).max() > 1e-4
    overlap = pd.read_csv(out / "overlap.csv")
    assert overlap["step"].tolist() == [1, 2, 3]
    assert overlap["overlap"].iloc[0] >= 0.98  # ties in the last bits may be broken otherwise
    assert overlap["chance"].iloc[0] == pytest.approx(0.2, abs=0.01)


def test_a_run_that_trained_all_tokens_has_a_supposed_choice(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = analyse(store, "dense", "--no-base", "--fraction", "0.5")
    tokens = pd.read_parquet(out / "tokens.parquet")
    assert tokens["kept"].mean() == pytest.approx(0.5, abs=0.01)
    assert "kept is a supposition, as the run trained all tokens" in " ".join(capsys.readouterr().out.split())
    assert not (out / "overlap.csv").exists()


def test_the_last_rollouts_are_compared_by_checkpoint(store: Path) -> None:
    out = analyse(store, "fork", "--on", "last")
    overlap = pd.read_csv(out / "overlap_on_last.csv")
    assert overlap["step"].tolist() == [2, 3]  # checkpoints that were kept
    # The policy of checkpoint 2 sampled the rollouts of step 3: its entropies are those stored with them.
    tokens = pd.read_parquet(out / "tokens.parquet")
    change = pd.read_csv(out / "change_on_last.csv")
    own = tokens[tokens["step"] == 3]
    both = change[change["step"] == 2]
    assert np.average(both["entropy"], weights=both["tokens"]) == pytest.approx(
        own["entropy"].mean(), abs=1e-4
    )


def test_what_the_base_model_said_is_kept_and_made_again_when_damaged(store: Path) -> None:
    out = analyse(store, "fork")
    before = (out / "overlap.csv").read_text()
    cached = out / "scores" / "base" / "step-000002.parquet"
    cached.write_bytes(b"torn")
    analyse(store, "fork")
    assert pd.read_parquet(cached)["entropy"].map(len).sum() > 0
    shutil.rmtree(store / "models")
    analyse(store, "fork")  # the model is not needed any more
    assert not (store / "models").exists()
    assert (out / "overlap.csv").read_text() == before


def test_an_analysis_is_no_garbage(store: Path) -> None:
    analyse(store, "fork")
    items = find_garbage(store, sweeps=None, protected=())
    assert not [item for item in items if "analysis" in item.path.parts]


def test_a_base_model_that_is_gone_is_said_with_the_way_around(store: Path) -> None:
    path = store / "runs" / "fork-1" / "plan.json"
    write_json(path, {**json.loads(path.read_text()), "model_revision": "tiny-other"})
    with pytest.raises(ValueError, match=r"was tiny-other, but its config gives tiny-.*--no-base"):
        analyse(store, "fork")
    analyse(store, "fork", "--no-base")


def test_an_unknown_run_is_refused(store: Path) -> None:
    with pytest.raises(ValueError, match="no run 'nothing' in"):
        analyse_command(["tokens", "nothing", f"store={store}"])


@pytest.mark.parametrize(
    ("every", "reason"),
    [(0, r"store_rollouts\.every=0 .* run it again with"), (50, r"every 50 steps .* is at step 3")],
)
def test_a_run_without_stored_rollouts_says_which_setting_stores_them(
    store: Path, every: int, reason: str
) -> None:
    folder = store / "runs" / "fork-1"
    shutil.rmtree(folder / "rollouts")
    config = json.loads((folder / "config.json").read_text())
    config["store_rollouts"]["every"] = every
    plan = json.loads((folder / "plan.json").read_text())
    write_json(folder / "config.json", config)
    write_json(folder / "plan.json", {**plan, "config_sha": digest(config)})
    with pytest.raises(ValueError, match=reason):
        analyse(store, "fork")


def test_a_run_that_goes_on_is_analysed_and_said_to(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = store / "runs" / "fork-1"
    events = folder / "attempts" / "000" / "events.jsonl"
    lines = events.read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["kind"] not in ("trained", "finished")]
    events.write_text("\n".join(kept) + "\n")
    analyse(store, "fork", "--no-base")
    assert "note: the run is interrupted at step 3 of 3" in capsys.readouterr().out


def test_a_part_of_the_rollouts_is_said_to_be_one(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = analyse(store, "fork", "--no-base", "--max-tokens", "300")
    assert len(pd.read_parquet(out / "tokens.parquet")) <= 300
    assert "chosen at random (--max-tokens)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--fraction", "1.5"], r"--fraction must be in \(0, 1\], got 1.5"),
        (["--min-count", "0"], "--min-count must be at least 1"),
        (["--on", "last", "--no-base"], "leave out --no-base"),
    ],
)
def test_options_that_make_no_sense_are_refused(store: Path, options: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        analyse(store, "fork", *options)


def test_another_folder_can_be_written_to(store: Path, tmp_path: Path) -> None:
    analyse(store, "fork", "--no-base", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "page.html").is_file()
    assert not (store / "runs" / "fork-1" / "analysis").exists()


def test_end_tokens_and_spaces_have_a_text() -> None:
    tokenizer = character_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["<eos>", " ", "7"])
    assert list(token_texts(tokenizer, set(ids)).values()) == ["<eos>", "7", " "]


class _Subwords:
    """Stands for a tokenizer whose tokens may be parts of characters, or lose the space in front of them."""

    def __init__(self, names: Sequence[str], texts: Sequence[str]) -> None:
        self._names, self._texts = names, texts

    def convert_ids_to_tokens(self, number: int) -> str:
        return self._names[number]

    def decode(self, ids: list[int], **_: object) -> str:
        return self._texts[ids[0]]


def test_parts_of_characters_are_named_and_leading_spaces_stay() -> None:
    tokenizer = _Subwords(["ðŁ", "▁so", "Ġif"], ["\N{REPLACEMENT CHARACTER}", "so", " if"])
    assert token_texts(tokenizer, {0, 1, 2}) == {0: "ðŁ", 1: " so", 2: " if"}
