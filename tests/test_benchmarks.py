"""The benchmarks without TRL: our worker on a tiny model, the floor by hand, the page."""

import dataclasses
import math
from pathlib import Path

import msgspec
import pytest
from benchmarks.config import RunConfig, chosen, to_flags
from benchmarks.contests import CONTESTS, Goal, length_runs, loss_runs
from benchmarks.data import long_pair, stratified
from benchmarks.floor import Peaks, floor_pairs_per_s
from benchmarks.prepare_worker import PrepareConfig, PrepareResult
from benchmarks.report import report
from benchmarks.results import Line, Measured, Result, one_line, read_lines
from benchmarks.runner import Job, run_groups
from benchmarks.sizes import PRESETS, VOCABULARY, pair_gflop, parameters
from benchmarks.worker import measure

from preftune.errors import DataError, SettingsError
from preftune.files import append_jsonl
from preftune.models.chat import load_chat
from preftune.models.new import new_model
from preftune.models.presets import Preset
from preftune.types import PreferencePair, assistant, make_prompt, user


def pairs(count: int) -> list[PreferencePair]:
    return [
        PreferencePair(
            id=f"pair-{n}",
            prompt=make_prompt(user(f"question {n} ? " + "more " * n)),
            chosen=(assistant(f"a kind answer to {n} ."),),
            rejected=(assistant(f"no {n} ."),),
        )
        for n in range(count)
    ]


TEXTS = [f"question {n} ? more a kind answer to {n} . no {n} ." for n in range(40)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks") / "tiny"
    return new_model(folder, preset="tiny", texts=TEXTS, vocab_size=80, seed=0, tokenizer="words")


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_our_worker_measures_dpo_from_log_2_down(tiny: Path, mode: str) -> None:
    config = msgspec.convert(
        {"side": "ours", "precision": "fp32", "mode": mode, "losses": True, "epochs": 3},
        RunConfig,
    )
    result = measure(config, tiny, pairs(12))
    losses = result.measured.losses
    assert len(losses) == 8  # 8 + 4 pairs, one epoch of warm-up and three timed ones
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[1]
    assert len(result.measured.epoch_s) == 3
    assert result.pairs_per_s == [12 / seconds for seconds in result.measured.epoch_s]
    assert 0 < result.measured.reference_s < result.measured.start_s
    assert result.peak_mb > 50
    assert result.foreign_cores >= 0


def test_our_worker_measures_a_reward_model(tiny: Path) -> None:
    config = RunConfig(side="ours", method="rm", precision="fp32", losses=True, epochs=2)
    losses = measure(config, tiny, pairs(8)).measured.losses
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_the_models_have_the_sizes_the_page_names() -> None:
    # S: 4096 x 256 + 6 (4 x 256^2 + 3 x 256 x 704 + 2 x 256) + 256
    assert parameters("S") == 1_048_576 + 6 * (262_144 + 540_672 + 512) + 256 == 5_868_800
    assert [round(parameters(name) / 1e6) for name in "SMV"] == [6, 107, 100]
    assert VOCABULARY == {"S": 4096, "M": 32_000, "V": 151_936}
    assert all(PRESETS[name].max_length >= 8192 for name in "SMV")


def test_pair_gflop_matches_hand_calculation() -> None:
    preset = Preset(kind="decoder", width=2, layers=1, heads=1, feed_forward=4, max_length=8)
    assert preset.body_parameters == 46  # 4 x 4 + 3 x 8 + 2 x 2, and 2 of the last norm
    # prompt 3, chosen 2, rejected 1: 6 tokens, 3 scored; 6 + 3 + 3 + (3 + 3) + 1 keys seen
    body, head, attention = 6 * 46 * 6, 6 * 10 * 2 * 3, 12 * 2 * (6 + 9 + 3 + 1)
    found = pair_gflop(preset, vocabulary=10, prompt=3, chosen=2, rejected=1)
    assert found == pytest.approx((body + head + attention) / 1e9)


def test_floor_matches_hand_calculation() -> None:
    peaks = Peaks(fp32_gflops=300.0, bf16_gflops=2000.0, read_gb_s=40.0, foreign_cores=0.0)
    # bf16: 112 / 2000 s of products, 106.9M x 34 bytes / 40 GB/s / 8 pairs of traffic
    traffic_s = parameters("M") * 34 / 40e9 / 8
    found = floor_pairs_per_s("M", "bf16", gflop=112.0, pairs_per_step=8, peaks=peaks)
    assert found == pytest.approx(1 / (0.056 + traffic_s))
    assert 14 < found < 17
    slow = floor_pairs_per_s("M", "fp32", gflop=112.0, pairs_per_step=8, peaks=peaks)
    assert slow == pytest.approx(1 / (112 / 300 + traffic_s * 28 / 34))


def test_stratified_pairs_spread_over_lengths_and_group_them(tiny: Path) -> None:
    chat = load_chat(tiny)
    drawn = stratified(pairs(40), chat, count=8, batch=4)
    lengths = [len(chat.encode(pair.prompt, pair.chosen)) for pair in drawn]
    groups = sorted([sorted(lengths[:4]), sorted(lengths[4:])])
    assert groups[0][-1] < groups[1][0]  # a step holds pairs of like length
    # pair n is n tokens longer than pair 0, so the middles of eight equal parts are 5 apart
    assert [a - groups[0][0] for group in groups for a in group] == [0, 5, 10, 15, 20, 25, 30, 35]
    with pytest.raises(DataError, match="41 are wanted"):
        stratified(pairs(40), chat, count=41, batch=4)


def test_a_long_pair_has_the_length_asked_for(tiny: Path) -> None:
    chat = load_chat(tiny)
    pair = long_pair([" ".join(TEXTS)] * 2, chat, length=128)
    for answer in (pair.chosen, pair.rejected):
        assert 120 <= len(chat.encode(pair.prompt, answer)) <= 128
    assert pair.chosen != pair.rejected


def test_flags_give_the_configuration_back() -> None:
    config = RunConfig(side="trl", model="M", micro=2, thp=True)
    assert to_flags(config) == ["--side", "trl", "--model", "M", "--micro", "2", "--thp"]
    assert config.label == "trl-dpo-M-bf16-full-mb2-best-thp"


def test_only_takes_configurations_with_every_word() -> None:
    every = [config for contest in CONTESTS for config in contest.runs]
    found = chosen(every, "S,bf16,full,dpo,trl")
    assert [c.label.removeprefix("trl-dpo-S-bf16-full-") for c in found] == [
        *("mb1-best", "mb2-best", "mb2-grouped", "mb8-default", "mb1-best-thp", "mb2-best-thp")
    ]
    assert chosen(every, "") == every


def test_every_planned_configuration_has_a_label_of_its_own() -> None:
    groups = [*[contest.runs for contest in CONTESTS], *loss_runs(), *length_runs()]
    labels = [config.label for group in groups for config in group]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    "wrong",
    [
        {"side": "ours", "flags": "default"},
        {"side": "ours", "micro": 2},
        {"side": "trl", "method": "rm", "mode": "lora"},
    ],
    ids=["flags", "micro", "rm-lora"],
)
def test_a_configuration_nobody_measures_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises((SettingsError, msgspec.ValidationError)):
        msgspec.convert(wrong, RunConfig)


def test_runner_takes_turns_goes_on_and_keeps_failures(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    program = "import sys; print('{\"foreign_cores\": %s}'); sys.exit(%d)"
    good = Job(label="good", command=("-c", program % ("0.0", 0)))
    busy = Job(label="busy", command=("-c", program % ("0.5", 0)))
    bad = Job(label="bad", command=("-c", "raise SystemExit('no luck')"))
    run_groups([[good, busy, bad]], rounds=2, path=path)
    lines = read_lines(path)
    assert [(line.label, line.round) for line in lines] == [
        *[("good", 0), ("busy", 0), ("bad", 0), ("good", 1), ("busy", 1), ("bad", 1)]
    ]
    assert [line.tries for line in lines] == [1, 3, 1, 1, 3, 1]
    assert [line.failed for line in lines[:3]] == ["", "", "exit code 1: no luck"]
    run_groups([[good, busy, bad]], rounds=2, path=path)
    assert [line.label for line in read_lines(path)[6:]] == ["bad", "bad"]


def kept(path: Path, label: str, result: object) -> None:
    raw = msgspec.Raw(one_line(result).encode())
    append_jsonl(path, Line(label=label, round=0, tries=1, failed="", result=raw))


def made_up(config: RunConfig, *, rate: float, peak_mb: float, losses: list[float]) -> Result:
    measured = Measured(
        start_s=2.0, reference_s=1.0, epoch_s=[config.pairs / rate] * 3, losses=losses
    )
    return Result(
        config=config,
        measured=measured,
        pairs=config.pairs,
        tokens_per_pair=300.0,
        lean_gflop=112.0,
        peak_mb=peak_mb,
        foreign_cores=0.2 if config.side == "trl" else 0.0,
        threads=2,
        processor="a processor, 2 cores, 24 GiB",
        versions={"torch": "2.13.0"},
    )


def test_the_page_says_what_the_results_say(tmp_path: Path) -> None:
    contest = CONTESTS[1]  # M, DPO, full, bf16: must 4, aim 8
    peaks = Peaks(fp32_gflops=300.0, bf16_gflops=2000.0, read_gb_s=40.0, foreign_cores=0.0)
    dpo = tmp_path / "dpo.jsonl"
    kept(dpo, "peaks-ours-dpo-M-bf16-full", peaks)
    for config, rate, peak_mb in (
        (contest.ours, 5.0, 3000.0),
        (contest.trl(1), 1.0, 4000.0),
        (contest.trl(2), 0.8, 5000.0),
        (contest.default, 0.5, 9000.0),
        (contest.trl(1, thp=True), 2.0, 4000.0),
    ):
        kept(dpo, config.label, made_up(config, rate=rate, peak_mb=peak_mb, losses=[]))
    for config in loss_runs()[0]:
        losses = [0.7, 0.6 if config.side == "ours" else 0.60003]
        kept(dpo, config.label, made_up(config, rate=1.0, peak_mb=1.0, losses=losses))
    for side, processes, seconds in (("ours", 1, 2.0), ("trl", 2, 5.0)):
        prepare = msgspec.convert(
            {"side": side, "rows": 10_000, "processes": processes}, PrepareConfig
        )
        prepared = PrepareResult(
            config=prepare, prepare_s=seconds, start_s=9.0, peak_mb=500.0, foreign_cores=0.0
        )
        kept(tmp_path / "prepare.jsonl", prepare.label, prepared)
    page = report(tmp_path)
    assert "| M DPO full bf16 | 5 | 1 (mb1) | **5.00** | 4 | 8 | must met | 10.0 |" in page
    assert "huge pages for TRL | 5 | 2 (mb1) | **2.50** | 3.2 | 6 | **missed** | – |" in page
    # 2 s to start, then 16 pairs at 5 and at 1 a second: 18 / 5.2
    assert "1.00 / 2.00 / 5.20 | 1.00 / 2.00 / 18.00 | **3.46** | 5 | 8 | **missed** |" in page
    assert "| 3,000 (5) | 4,000 (mb1) | **0.75** | 0.85 | 0.5 | must met |" in page
    share = 5.0 * (112 / 2000 + parameters("M") * 34 / 40e9 / 8)
    assert f"| **{share:.1%}** | 0.28 | 0.5 | must met |" in page
    assert "| S DPO full fp32 | 2 | 5.0e-05 | met |" in page
    assert "| **2.50** | 1.7 | 4 | must met |" in page
    assert "0.20 (busy)" in page
    assert "Machine: a processor, 2 cores, 24 GiB, 2 threads." in page


def test_the_page_of_no_results_is_its_introduction(tmp_path: Path) -> None:
    assert report(tmp_path).startswith("# Performance")
    assert "##" not in report(tmp_path)


def test_a_failed_run_is_on_the_page_until_it_succeeds(tmp_path: Path) -> None:
    config = CONTESTS[0].ours
    failed = Line(
        label=config.label,
        round=0,
        tries=1,
        failed="exit code 137: ",
        result=msgspec.Raw(b"null"),
    )
    append_jsonl(tmp_path / "dpo.jsonl", failed)
    assert "exit code 137" in report(tmp_path)
    kept(tmp_path / "dpo.jsonl", config.label, made_up(config, rate=1.0, peak_mb=1.0, losses=[]))
    assert "exit code 137" not in report(tmp_path)


def test_goals_judge_both_ways() -> None:
    more, less = Goal(must=2.0, aim=3.0), Goal(must=1.0, aim=0.5)
    assert [more.verdict(r) for r in (3.0, 2.0, 1.9)] == ["aim met", "must met", "**missed**"]
    assert [less.verdict_at_most(r) for r in (0.5, 1.0, 1.1)] == [
        *("aim met", "must met", "**missed**")
    ]


def test_an_epoch_of_made_up_length_is_one_pair() -> None:
    config = dataclasses.replace(CONTESTS[0].ours, length=8192)
    assert (config.pairs, config.pairs_per_step) == (1, 1)
