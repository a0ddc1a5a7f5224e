"""The generation benchmark: both sides write as much, and the page says what they took."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
from benchmarks.generate_worker import GenerateConfig, GenerateResult, measure
from benchmarks.report_generate import generate_runs, generation

from preftune.errors import SettingsError

IDS = [(5, 6, 7), (8, 9), (5, 6, 7, 8), (9,)]


@pytest.mark.parametrize("side", ["ours", "transformers"])
def test_both_sides_write_32_replies_of_64_tokens(
    policy_folder: Path, side: Literal["ours", "transformers"]
) -> None:
    config = GenerateConfig(side=side, samples=8, epochs=1, warmup=0)
    result = measure(config, policy_folder, IDS)
    assert (result.prompt_tokens, result.new_tokens) == (10, 32 * 64)
    assert result.tokens_per_s == [2048 / result.epoch_s[0]]


def test_page_gives_the_ratio_to_the_fastest_setting() -> None:
    ours, usual, static, _ = generate_runs()[0]
    seconds = {ours: [1.0, 2.0, 3.0], usual: [4.0], static: [5.0]}
    found = {
        config.label: [
            GenerateResult(
                config=config,
                prompt_tokens=3917,
                new_tokens=2048,
                epoch_s=epoch_s,
                peak_mb=900.0,
                foreign_cores=0.05,
                threads=2,
                processor="one",
            )
        ]
        for config, epoch_s in seconds.items()
    }
    # 2048 / 2 = 1024 a second against 512: twice as fast
    row = "| S fp32, n = 1 | 3,917 | 1,024 / 900 / 0.05 | 512 / 900 / 0.05 | 410 / 900 / 0.05 | – |"
    assert f"{row} **2.00** | 1.7 | 3 | must met |" in generation(found)
    assert generation({}) == ""


def test_configurations_have_labels_of_their_own_and_odd_ones_are_refused() -> None:
    labels = [config.label for group in generate_runs() for config in group]
    assert len(set(labels)) == len(labels) == 16
    with pytest.raises(SettingsError, match="ours does not take static"):
        dataclasses.replace(generate_runs()[0][0], flags="static")
