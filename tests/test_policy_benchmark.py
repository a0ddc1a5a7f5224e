"""The benchmark of policy optimisation: both sides on a tiny model, figures by hand, the page."""

import dataclasses
from pathlib import Path

import msgspec
import pytest
from benchmarks.bench_policy import planned
from benchmarks.config import to_flags
from benchmarks.policy_report import BEGIN, END, policy, spliced
from benchmarks.policy_runs import (
    NEW_TOKENS,
    PolicyConfig,
    PolicyMeasured,
    PolicyResult,
    memory_runs,
    of_like_length,
    step_runs,
    update_runs,
)
from benchmarks.policy_worker import measure
from benchmarks.results import Line, one_line, read_lines

from preftune.errors import DataError
from preftune.files import append_jsonl
from preftune.models.chat import load_chat
from preftune.models.new import new_model
from preftune.types import PreferencePair, assistant, make_prompt, user

TEXTS = [f"question {n} ? more a kind answer to {n} . no {n} ." for n in range(40)]
RLOO = PolicyConfig(side="ours", method="rloo", prompts=2, samples=2, steps=1, warmup=1)
TRL = dataclasses.replace(RLOO, side="trl")


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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    return new_model(folder, preset="tiny", texts=TEXTS, vocab_size=80, seed=0, tokenizer="words")


def run(config: PolicyConfig, tiny: Path) -> PolicyResult:
    rows = pairs(config.prompts * (config.warmup + config.steps))
    return measure(config, tiny, rows)


@pytest.mark.parametrize("weights", ["full", "apart"])
def test_ppo_measures_every_part_of_its_timed_steps(tiny: Path, weights: str) -> None:
    config = msgspec.convert(
        {**msgspec.to_builtins(RLOO), "method": "ppo", "weights": weights, "updates": 2},
        PolicyConfig,
    )
    measured = run(config, tiny).measured
    assert len(measured.step_s) == 1
    assert set(measured.parts_s) == {"rollout", "reward", "score", "update"}
    for step, seconds in enumerate(measured.step_s):
        parts = [measured.parts_s[name][step] for name in measured.parts_s]
        assert all(part > 0 for part in parts)
        assert sum(parts) <= seconds + 0.01
    assert 4 <= measured.new_tokens <= 4 * NEW_TOKENS


@pytest.mark.parametrize("method", ["rloo", "grpo", "online"])
def test_a_step_is_timed_and_its_new_tokens_are_counted(tiny: Path, method: str) -> None:
    config = msgspec.convert({**msgspec.to_builtins(RLOO), "method": method}, PolicyConfig)
    measured = run(config, tiny).measured
    assert len(measured.step_s) == 1
    assert measured.step_s[0] > 0
    assert 4 <= measured.new_tokens <= 4 * NEW_TOKENS


def test_sft_and_dpo_count_the_tokens_of_their_rows(tiny: Path) -> None:
    chat = load_chat(tiny)
    rows = pairs(4)
    prompts = sum(len(chat.prompt_ids(pair.prompt)) for pair in rows)
    chosen = sum(len(chat.encode(pair.prompt, pair.chosen).response_ids) for pair in rows)
    rejected = sum(len(chat.encode(pair.prompt, pair.rejected).response_ids) for pair in rows)
    sft = run(dataclasses.replace(RLOO, method="sft", weights="lora", samples=1), tiny)
    dpo = run(dataclasses.replace(RLOO, method="dpo"), tiny)
    assert sft.measured.stream_tokens == pytest.approx((prompts + chosen) / 2)  # two steps
    assert dpo.measured.stream_tokens == pytest.approx((prompts + chosen + rejected) / 2)
    assert len(sft.measured.step_s) == len(dpo.measured.step_s) == 1


def test_prompts_of_like_length_are_the_nearest_ones(tiny: Path) -> None:
    chat = load_chat(tiny)
    lengths = {pair.id: len(chat.prompt_ids(pair.prompt)) for pair in pairs(40)}
    found = of_like_length(pairs(40), chat, tokens=lengths["pair-20"], count=3)
    assert {pair.id for pair in found} == {"pair-19", "pair-20", "pair-21"}
    for pair in found:
        assert pair.chosen != pair.rejected
        own = len(chat.encode(pair.prompt, pair.chosen).response_ids)
        assert NEW_TOKENS - 8 <= own <= NEW_TOKENS
    with pytest.raises(DataError, match="41 are wanted"):
        of_like_length(pairs(40), chat, tokens=8, count=41)


def test_every_planned_run_has_a_label_and_flags_of_its_own() -> None:
    every = [one for group in (*step_runs(), *update_runs(), memory_runs()) for one in group]
    assert len({config.label for config in every}) == len(every)
    assert to_flags(TRL) == [
        *("--side", "trl", "--method", "rloo", "--prompts", "2", "--samples", "2"),
        *("--steps", "1", "--warmup", "1"),
    ]
    assert TRL.label == "trl-rloo-S-full-2x2-mball"


def test_only_and_quick_choose_the_runs() -> None:
    kept = planned(step_runs(), "rloo,ours", quick=False)
    assert [[config.label for config in group] for group in kept] == [["ours-rloo-S-full-2x4"]]
    quick = planned([memory_runs()], "", quick=True)[0]
    assert {(config.model, config.steps, config.warmup) for config in quick} == {("S", 1, 0)}


def kept(path: Path, config: PolicyConfig, **changes: object) -> None:
    figures: dict[str, object] = {"step_s": [1.0, 3.0], "parts_s": {}, "peak_mb": 1000.0}
    figures |= {"stream_tokens": 2000.0, "new_tokens": 500.0} | changes
    peak_mb = figures.pop("peak_mb")
    result = {
        "config": config,
        "measured": msgspec.convert(figures, PolicyMeasured),
        "peak_mb": peak_mb,
        "foreign_cores": 0.02,
        "threads": 2,
        "processor": "a processor",
    }
    made = msgspec.convert(msgspec.to_builtins(result), PolicyResult)
    raw = msgspec.Raw(one_line(made).encode())
    append_jsonl(path, Line(label=config.label, round=0, tries=1, failed="", result=raw))


def test_the_section_says_what_the_results_say(tmp_path: Path) -> None:
    path = tmp_path / "policy.jsonl"
    sft, ppo, halves, _, copies = memory_runs()[:5]
    for config, peak in ((sft, 1000.0), (ppo, 1300.0), (halves, 1400.0), (copies, 3000.0)):
        kept(path, config, peak_mb=peak)
    ours, trl, in_twos, huge = step_runs()[0]
    kept(path, ours, step_s=[0.25, 0.75])
    kept(path, trl, step_s=[2.0, 1.0])
    kept(path, in_twos, step_s=[4.0, 1.0])
    kept(path, huge, step_s=[1.0, 1.0])
    dpo, rloo, ppo_update = update_runs()[0]
    kept(path, dpo)  # 2000 tokens in 2 s
    kept(path, rloo, parts_s={"rollout": [0.5, 0.5], "update": [1.0, 1.5]})
    kept(path, ppo_update, parts_s={"update": [8.0, 8.0]}, step_s=[10.0, 10.0])
    text = policy(read_lines(path))
    assert text.startswith(BEGIN)
    assert text.endswith(END)
    assert "one copy | 8 | 1,300 | **1.30** | must met | **0.43** | must met |" in text
    assert "one copy | 4 | 1,400 | 1.40 | – | 0.47 | – |" in text
    assert "RLOO S, 2 prompts x 4 | 0.5 / 1,000 (0.02) | 1.5 / 1,000 (0.02)" in text
    assert "all responses a forward | **3.00** | 2.5 | 4 | must met | 2.00 | 500 / 500 |" in text
    assert "0.02) | 25% | 0% | 0% | 62% | 12% |" in text  # 1 and 2.5 of 4 s
    # RLOO: 2000 tokens in 1.25 s to DPO's 1000 a second; PPO: 2 x 2 x 2000 in 8 s
    assert "| RLOO S full | 2,000 | 1 | 1,600 | **1.60** | 0.95 | 1 | aim met |" in text
    assert "| PPO S full | 2,000 | 4 | 1,000 | **1.00** | 0.95 | 1 | aim met |" in text


def test_the_section_takes_the_place_of_the_one_before_and_leaves_the_rest() -> None:
    page = f"# Page\n\n{BEGIN}\nold\n{END}\n\n## Other\n"
    assert spliced(page, f"{BEGIN}\nnew\n{END}") == page.replace("old", "new")
    assert spliced("# Page\n", "part") == "# Page\n\npart\n"
    assert spliced("# Page\n", "") == "# Page\n"
    assert policy([]) == ""


def test_a_failed_run_is_named_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "policy.jsonl"
    nothing = msgspec.Raw(b"null")
    append_jsonl(path, Line(label="one", round=0, tries=1, failed="exit code 137", result=nothing))
    assert "| `one` | exit code 137 |" in policy(read_lines(path))
