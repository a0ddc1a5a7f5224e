import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import LlamaForCausalLM

from preftune.datasets.read import read_pairs
from preftune.datasets.write import write_records
from preftune.engine.logprobs import token_logprobs
from preftune.errors import DataError
from preftune.inference.generate import GenerateSettings, generate
from preftune.inference.passes import by_length
from preftune.inference.score import (
    pair_accuracy,
    sampled_kl,
    score,
    sequence_logps,
    shared_batches,
)
from preftune.models.chat import load_chat
from preftune.models.heads import load_reward_model
from preftune.models.tokens import TokenSequence
from preftune.types import PreferencePair, Response, assistant, make_prompt, user

PROMPTS = [make_prompt(user(text)) for text in ("wash it ?", "dry it or iron it ?", "cat")]
ANSWERS = ["yes , wash it .", "no .", "no , iron the cat ."]


def sequence(prompt: tuple[int, ...], response: tuple[int, ...]) -> TokenSequence:
    own = (False,) * len(prompt) + (True,) * len(response)
    return TokenSequence(prompt_ids=prompt, response_ids=response, own=own)


SEQUENCES = [
    sequence((1, 2), (3, 4, 5)),
    sequence((7,), (8,)),
    sequence((1, 2, 3, 4, 5, 6, 7), (8, 9, 10, 11)),
    sequence((4, 4), (4, 4)),
]


def pair(number: int, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(
        id=f"pair-{number}",
        prompt=PROMPTS[number % len(PROMPTS)],
        chosen=(assistant(chosen),),
        rejected=(assistant(rejected),),
    )


def test_sequence_logps_equal_one_sequence_at_a_time_in_any_batch(llama: LlamaForCausalLM) -> None:
    with torch.no_grad():
        alone = [token_logprobs(llama, [s]).sums().item() for s in SEQUENCES]
    for batch_size in (1, 3, 256):
        logps, lengths = sequence_logps(llama, SEQUENCES, batch_size=batch_size)
        assert logps.tolist() == pytest.approx(alone, abs=1e-5)
        assert lengths.tolist() == [3, 1, 4, 2]


def test_model_that_knows_nothing_gives_log_vocab_per_token(llama: LlamaForCausalLM) -> None:
    blank = type(llama)(llama.config)
    torch.nn.init.zeros_(blank.lm_head.weight)
    logps, lengths = sequence_logps(blank, SEQUENCES)
    assert logps.tolist() == pytest.approx([-int(n) * math.log(13) for n in lengths])


def test_kl_of_a_model_with_itself_is_exactly_0(llama: LlamaForCausalLM) -> None:
    assert sampled_kl(llama, llama, SEQUENCES).tolist() == [0.0] * 4


def test_kl_of_drawn_replies_estimates_the_exact_kl(
    llama: LlamaForCausalLM, other_llama: LlamaForCausalLM
) -> None:
    prompt, n = (3, 1, 4), 4000
    settings = GenerateSettings(max_new_tokens=1, batch_size=n)
    drawn = generate(llama, [prompt] * n, settings, seeds=range(n), end_ids=(99,), pad_id=0)
    found = sampled_kl(llama, other_llama, [sequence(prompt, g.ids) for g in drawn])
    with torch.no_grad():
        p, q = (
            model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            for model in (llama, other_llama)
        )
    exact = (p.exp() * (p - q)).sum().item()
    assert exact > 0.5
    standard_error = found.std().item() / math.sqrt(n)
    assert found.mean().item() == pytest.approx(exact, abs=3 * standard_error)


def test_scores_keep_the_order_and_ignore_the_batch(reward_folder: Path) -> None:
    model, chat = load_reward_model(reward_folder), load_chat(reward_folder)
    rows = [(p, (assistant(a),)) for p in PROMPTS for a in ANSWERS]
    together = score(model, chat, rows)
    assert together == pytest.approx([score(model, chat, [r])[0] for r in rows], abs=1e-5)
    assert together == pytest.approx(score(model, chat, rows, batch_size=2), abs=1e-5)
    assert len(set(together)) == len(rows)


def test_a_prompt_is_read_once_for_all_its_responses(reward_folder: Path) -> None:
    model, chat = load_reward_model(reward_folder), load_chat(reward_folder)
    long = make_prompt(user("wash it ? " * 60))
    rows = [(long, (assistant(f"{'no , ' * n}."),)) for n in range(20)]
    places = 0

    def count(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal places
        places += inputs[0].numel()

    score(model, chat, rows)  # the first rows of a model are read in both ways
    handle = model.backbone.get_input_embeddings().register_forward_pre_hook(count)
    found = score(model, chat, rows)
    handle.remove()
    sequences = [chat.encode(*row) for row in rows]
    prompt = len(sequences[0].prompt_ids)
    assert places == prompt + sum(len(one.response_ids) for one in sequences)
    with torch.no_grad():
        alone = [model([one]).item() for one in sequences]
    assert found == pytest.approx(alone, abs=1e-5)


def testshared_batches_hold_every_row_once_within_both_limits() -> None:
    prompts = [(1,) * 900, (2,) * 30, (3,) * 4]
    sequences = [sequence(prompts[n % 3], (4,) * (n % 7 + 1)) for n in range(120)]
    sequences.append(sequence((5,) * 20_000, (6,)))  # longer than the limit: alone
    batches = list(shared_batches(sequences, 32))
    flat = [row for batch in batches for group in batch for row in group]
    assert sorted(flat) == list(range(121))
    assert batches[0] == [[120]]
    for batch in batches[1:]:
        rows = [row for group in batch for row in group]
        assert len(rows) <= 32
        assert len(rows) * max(len(sequences[row]) for row in rows) <= 16_384
        for group in batch:
            assert len({sequences[row].prompt_ids for row in group}) == 1
    assert len(batches) == 8  # the lone one; 40 long rows by 18; twice 40 shorter ones by 32


def test_pair_accuracy_by_hand() -> None:
    pairs = [
        pair(0, "long answer", "no"),  # longer chosen
        pair(1, "no", "long answer"),
        pair(2, "nn", "a longer one"),
        pair(3, "ab", "cd"),  # equal lengths: wrong for both rules
    ]
    found = pair_accuracy(pairs, [2.0, 1.0, 0.5, 0.0], [1.0, 1.0, 0.7, -1.0])
    assert (found.right, found.ties, found.pairs) == (2, 1, 4)
    assert (found.longer_right, found.shorter_right) == (1, 2)
    assert (found.baseline, found.baseline_right) == ("shorter wins", 2)
    assert found.accuracy == 0.5
    # Wilson, n 4, 2 right: (2 + 1.9208) / (4 + 3.8415) -+ …, symmetric about one half
    assert found.interval.low == pytest.approx(0.1500, abs=1e-4)
    assert found.interval.high == pytest.approx(0.8500, abs=1e-4)


def test_accuracy_of_no_pairs_is_refused() -> None:
    with pytest.raises(DataError, match="no pairs"):
        pair_accuracy([], [], [])


def test_batches_hold_every_row_once_within_both_limits() -> None:
    lengths = [5, 9, 9, 2, 40, 7, 1, 9]
    found = list(by_length(lengths, batch_size=3, batch_tokens=20))
    assert found == [[4], [1, 2], [7, 5], [0, 3, 6]]


def test_score_command_on_pairs_prints_accuracy_beside_length(
    run_cli: Callable[..., Any], reward_folder: Path, tmp_path: Path
) -> None:
    pairs = [pair(i, ANSWERS[0], ANSWERS[1]) for i in range(3)]
    write_records(tmp_path / "pairs.jsonl", pairs, format="preftune")
    out = tmp_path / "scored.jsonl"
    ran = run_cli("score", tmp_path / "pairs.jsonl", "--model", reward_folder, "--out", out)
    assert ran.code == 0, ran.err
    scored = read_pairs(out)
    model, chat = load_reward_model(reward_folder), load_chat(reward_folder)
    wanted = score(model, chat, [(p.prompt, p.chosen) for p in pairs])
    assert [p.chosen_score for p in scored] == pytest.approx(wanted, abs=1e-5)
    right = sum((p.chosen_score or 0) > (p.rejected_score or 0) for p in scored)
    assert f"{right}/3" in ran.out
    assert "length only (longer wins)" in ran.out
    assert "(43.85% to 100.00%)  3/3" in ran.out
    again = run_cli("score", out, "--model", reward_folder, "--out", tmp_path / "again.jsonl")
    assert "3 pairs held other scores" in again.out


def responses_file(path: Path) -> list[Response]:
    rows = [
        Response(id=f"r-{i}", prompt_id=p.id, messages=(assistant(a),))
        for i, (p, a) in enumerate(zip(PROMPTS, ANSWERS, strict=True))
    ]
    write_records(path, rows, format="preftune")
    return rows


def test_score_command_on_responses_writes_one_line_each(
    run_cli: Callable[..., Any], reward_folder: Path, tmp_path: Path
) -> None:
    responses = responses_file(tmp_path / "responses.jsonl")
    write_records(tmp_path / "prompts.jsonl", PROMPTS, format="preftune")
    ran = run_cli(
        *("score", tmp_path / "responses.jsonl", "--model", reward_folder),
        *("--prompts", tmp_path / "prompts.jsonl", "--out", tmp_path / "out.jsonl"),
    )
    assert ran.code == 0, ran.err
    lines = [msgspec.json.decode(x) for x in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [line["response_id"] for line in lines] == ["r-0", "r-1", "r-2"]
    model, chat = load_reward_model(reward_folder), load_chat(reward_folder)
    wanted = score(model, chat, [(p, r.messages) for p, r in zip(PROMPTS, responses, strict=True)])
    assert [line["score"] for line in lines] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("place", ["file.jsonl", "prompts.jsonl"])
def test_score_command_writes_over_none_of_its_inputs(
    run_cli: Callable[..., Any], reward_folder: Path, tmp_path: Path, place: str
) -> None:
    file, prompts = tmp_path / "file.jsonl", tmp_path / "prompts.jsonl"
    responses_file(file)
    write_records(prompts, PROMPTS, format="preftune")
    before = (tmp_path / place).read_bytes()
    ran = run_cli(
        *("score", file, "--model", reward_folder, "--prompts", prompts, "--out", tmp_path / place)
    )
    assert ran.code == 2
    assert f"{place}: is an input" in ran.err
    assert (tmp_path / place).read_bytes() == before


def test_average_command_makes_nothing_when_the_answers_cannot_be_read(
    run_cli: Callable[..., Any], reward_folder: Path, tmp_path: Path
) -> None:
    responses_file(tmp_path / "responses.jsonl")
    write_records(tmp_path / "prompts.jsonl", PROMPTS, format="preftune")
    command = ["reward", "average", reward_folder, tmp_path / "second", "--out", tmp_path / "warm"]
    shutil.copytree(reward_folder, tmp_path / "second")
    ran = run_cli(*command, "--on", tmp_path / "responses.jsonl")
    assert ran.code == 2
    assert "Give --prompts FILE" in ran.err
    assert not (tmp_path / "warm").exists()
    again = run_cli(
        *(*command, "--on", tmp_path / "responses.jsonl", "--prompts", tmp_path / "prompts.jsonl")
    )
    assert again.code == 0, again.err
    assert (tmp_path / "warm").is_dir()


@pytest.mark.parametrize("given", ["none", "too few", "not wanted", "wrong kind"])
def test_score_command_refuses_files_that_do_not_fit(
    run_cli: Callable[..., Any], reward_folder: Path, tmp_path: Path, given: str
) -> None:
    file, prompts = tmp_path / "file.jsonl", tmp_path / "prompts.jsonl"
    responses_file(file)
    write_records(prompts, PROMPTS[:1], format="preftune")
    extra: list[object] = ["--prompts", prompts]
    says = {
        "none": "responses name their prompts by id only. Give --prompts FILE.",
        "too few": "2 responses answer prompts that are not there",
        "not wanted": "pairs bring their own prompts",
        "wrong kind": "holds Prompt. Give a file of pairs",
    }[given]
    if given == "none":
        extra = []
    if given == "not wanted":
        write_records(file, [pair(0, "a", "b")], format="preftune")
    if given == "wrong kind":
        file = prompts
    ran = run_cli("score", file, "--model", reward_folder, *extra, "--out", tmp_path / "out.jsonl")
    assert ran.code == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()
