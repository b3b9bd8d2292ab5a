"""Benchmarks and metrics are known by all their spellings."""

from __future__ import annotations

import pytest

from tokensweep_analysis.published.benchmarks import benchmark
from tokensweep_analysis.published.spelling import Statistic, printed_metric


@pytest.mark.parametrize("text", ["AIME24", "AIME'24", "AIME 2024", "aime24", "AIME2024"])
def test_one_benchmark_has_many_names(text: str) -> None:
    assert (benchmark(text).name, benchmark(text).sizes) == ("aime24", (30,))


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("MATH-500", (500,)),
        ("AMC23", (40, 83)),
        ("AMC", (83, 40)),
        ("GSM8K", (1319,)),
        ("HMMT Feb 2026", (33,)),
        ("HMMT Nov 2025", (30,)),
        ("BRUMO 2025", (30,)),
        ("Minerva Math", (272,)),
        ("OlympiadBench", (675, 674)),
        ("GPQA-D", (198,)),
        ("AMC23 (39 of 40)", (39,)),
        ("OlympiadBench (633)", (633,)),
        ("AIME2024-45", (45,)),
        ("Our own exam", ()),
    ],
)
def test_sizes_are_known_or_stated_or_unknown(text: str, sizes: tuple[int, ...]) -> None:
    assert benchmark(text).sizes == sizes


def test_averages_are_told_from_benchmarks() -> None:
    assert benchmark("mean of 5").num_averaged == 5
    assert benchmark("Avg.").is_mean
    assert benchmark("Average").is_mean
    assert not benchmark("AIME24").is_mean


@pytest.mark.parametrize(
    ("text", "k", "statistic", "num_samples"),
    [
        ("avg@16 (Acc@16, %)", 16, Statistic.avg, 16),
        ("avg over 16 responses (%)", 16, Statistic.avg, 16),
        ("pass@1 from 16 samples (%)", 16, Statistic.avg, 16),
        ("pass@1 mean over 10 sampling seeds (%)", 1, Statistic.avg, 10),
        ("pass@1 greedy (%)", 1, Statistic.avg, 1),
        ("AIME 2024 acc (%)", 32, Statistic.avg, 32),
        ("accuracy (%); n not stated", None, Statistic.avg, None),
        ("pass@1 (%)", 1, Statistic.pass_at, None),
        ("pass@64 unbiased (%)", 64, Statistic.pass_at, None),
        ("maj@8", 8, Statistic.maj_at, None),
        ("cons@64", 64, Statistic.maj_at, None),
        ("G-Pass@16_0.5 (%)", 16, Statistic.g_pass, None),
        ("mean (mixed pass@1/pass@8, %)", 1, Statistic.mean, None),
        ("avg@k mean (%)", None, Statistic.avg, None),
        ("mean response tokens (Len@16)", 16, Statistic.length, None),
        ("fraction of training steps needed", None, Statistic.other, None),
    ],
)
def test_a_spelling_says_statistic_and_samples(
    text: str, k: int | None, statistic: Statistic, num_samples: int | None
) -> None:
    metric = printed_metric(text, k)
    assert (metric.statistic, metric.num_samples) == (statistic, num_samples)


def test_thresholds_tell_g_pass_apart() -> None:
    spelled = [printed_metric(f"{name} (%)", 16) for name in ("G-Pass@16_0.5", "G-Pass@16_1.0", "mG-Pass@16")]
    assert len(set(spelled)) == 3
