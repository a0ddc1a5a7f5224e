"""What a run will need: counts by hand, memory by properties and against a real run."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from preftune.datasets import read_pairs, write_records
from preftune.engine.batches import Order
from preftune.engine.plan import Size, Workload, fitting_micro_tokens
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import DataError
from preftune.files import read_json, write_json
from preftune.models.chat import load_chat
from preftune.models.lora import LoraSettings
from preftune.training.method_settings import RewardSettings
from preftune.training.plan import DataPlan, advice, plan
from preftune.training.run import Run
from preftune.training.settings import (
    DirectSettings,
    LengthSettings,
    ProbeSettings,
    RunSettings,
    SftSettings,
)
from preftune.training.tokenise import pair_rows
from preftune.training.workload import RowSizes, coarse, settled, size_and_dtype, workload
from preftune.types import make_prompt, user

MB = 1 << 20
SIZE = Size(
    parameters=10 * MB, trained=10 * MB, table=2 * MB, vocabulary=4096, layers=10, width=8, saved=MB
)
WORK = Workload(
    size=SIZE, dtype=torch.float32, step_tokens=100, longest_row=20, own_frac=0.5, copies=1
)


@pytest.fixture
def settings(world: Path, tmp_path: Path) -> DirectSettings:
    return DirectSettings(
        model=str(world / "base"),
        data=world / "pairs.jsonl",
        run=RunSettings(out=tmp_path / "run", threads=1),
        optimizer=OptimizerSettings(batch_size=8, epochs=2.0),
    )


def test_parts_of_one_forward_a_step_by_hand() -> None:
    parts = WORK.parts(0)
    assert parts.weights == 40 * MB
    assert parts.optimizer == 80 * MB
    assert parts.copies == 40 * MB
    # start of the backward: all activations, the table's gradient, a layer's own gradients
    assert (parts.activations, parts.gradients, parts.working) == (100 * MB, 8 * MB, 10 * MB)
    assert parts.holes == pytest.approx(0.3 * 110 * MB)
    assert parts.total == sum(dataclasses.asdict(parts).values())


def test_parts_of_several_forwards_keep_the_gradients_of_those_before() -> None:
    parts = WORK.parts(20)
    assert (parts.activations, parts.gradients, parts.working) == (20 * MB, 48 * MB, 2 * MB)


def test_parts_at_the_end_of_the_backward_are_gradients_alone() -> None:
    small = dataclasses.replace(WORK, step_tokens=5, longest_row=5)
    assert (small.parts(0).activations, small.parts(0).gradients) == (0, 40 * MB)


def test_logits_count_up_to_one_chunk_and_all_of_them_in_the_plain_way() -> None:
    # 50 own tokens of 100, 1 Mi words: a chunk is 16 Mi logits, twice in fp32
    wide = dataclasses.replace(WORK, size=dataclasses.replace(SIZE, vocabulary=MB, table=0))
    assert wide.parts(0).head == 16 * MB * 8
    plain = dataclasses.replace(wide, chunked=False)
    assert plain.parts(0).head == 100 * MB * 8


def test_bf16_halves_the_copy_that_computes_and_adds_masters() -> None:
    assert dataclasses.replace(WORK, dtype=torch.bfloat16).parts(0).weights == 60 * MB


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_more_tokens_never_need_less_memory(recompute: bool) -> None:
    work = dataclasses.replace(WORK, recompute=recompute, step_tokens=10_000)
    peaks = [work.peak(tokens) for tokens in (1, 20, 50, 400, 3000, 9999)]
    assert peaks == sorted(peaks)


def test_a_row_goes_through_whole_and_a_step_is_all_there_is() -> None:
    assert [WORK.micro_tokens(wish) for wish in (1, 50, 1000, 0)] == [20, 50, 100, 100]


@pytest.mark.parametrize(
    ("available", "longest_row", "expected"),
    [(10_000, 10, 4096), (1 << 20, 10, 16384), (10_000, 5000, 8192), (10, 20_000, 32768)],
    ids=["largest-below-80-percent", "never-above-16384", "never-below-a-row", "very-long-row"],
)
def test_fitting_micro_tokens_by_hand(available: int, longest_row: int, expected: int) -> None:
    assert fitting_micro_tokens(lambda n: n, available, longest_row=longest_row) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, 0), (1, 1), (3, 3), (1000, 768), (24 << 30, 24 << 30), ((24 << 30) - 1, 16 << 30)],
)
def test_memory_is_rounded_down_to_powers_of_two_and_the_halves_between(
    size: int, expected: int
) -> None:
    assert coarse(size) == expected


SIZES = RowSizes(
    stream=np.full(64, 400), padded=np.full(64, 500), own=6400, apart=64 * 500, longest=250
)


def test_auto_is_the_largest_number_whose_peak_fits(settings: DirectSettings) -> None:
    s = dataclasses.replace(settings, optimizer=OptimizerSettings(batch_size=8))
    work = workload(s, SIZES, Order.of_lengths([400] * 64, s.optimizer, seed=0))
    assert work.step_tokens == 8 * 400
    free = coarse(round(work.peak(1024) / 0.8) + 1)
    chosen = settled(s, SIZES, free).engine.micro_tokens
    assert chosen in (512, 1024)  # the longest row is 400, and the memory was rounded down
    assert work.peak(chosen) <= 0.8 * free < work.peak(2 * chosen) or chosen == 512
    assert settled(s, SIZES, 1 << 50).engine.micro_tokens == 16384
    assert settled(s, SIZES, 0).engine.micro_tokens == 512


def test_a_little_more_memory_chooses_the_same(settings: DirectSettings) -> None:
    several = [settled(settings, SIZES, 800 * MB + more * MB) for more in range(0, 200, 50)]
    assert len({s.engine.micro_tokens for s in several}) == 1


def test_a_number_given_and_a_small_step_are_left_alone(settings: DirectSettings) -> None:
    given = dataclasses.replace(settings, engine=EngineSettings(micro_tokens=300))
    assert settled(given, SIZES, 0) == given
    small = dataclasses.replace(SIZES, stream=np.full(64, 128))
    assert settled(settings, small, 0).engine.micro_tokens == 16384  # 8 rows of 128: 1,024 tokens


def test_the_choice_is_made_once_and_stands_in_the_run(
    world: Path, settings: DirectSettings
) -> None:
    rows = pair_rows(read_pairs(world / "pairs.jsonl"), load_chat(world / "base"))
    record = settings.run.out / "run.json"
    for known in (16384, 512):
        with Run.open(settings, method="direct", inputs={"data": "d"}) as run:
            assert run.settled(settings, rows).engine.micro_tokens == known
        assert read_json(record)["micro_tokens"] == known
        write_json(record, read_json(record) | {"micro_tokens": 512})


def test_sizes_of_rows_in_arrays_are_those_of_their_sequences(world: Path) -> None:
    rows = pair_rows(read_pairs(world / "pairs.jsonl"), load_chat(world / "base"))
    fast, slow = RowSizes.of(rows), RowSizes.of(list(rows))
    assert fast.stream.tolist() == slow.stream.tolist()
    assert fast.padded.tolist() == slow.padded.tolist()
    assert (fast.own, fast.apart, fast.longest) == (slow.own, slow.apart, slow.longest)


def test_what_a_token_leaves_behind_in_a_llama_by_hand(settings: DirectSettings) -> None:
    size, dtype = size_and_dtype(settings)
    # width 128, 4 heads, feed-forward 320, fp32. A layer keeps 6 states, query, key, value and
    # result of the attention, 4 feed-forward states, 4 log-sums and 2 norms; the end a norm more.
    layer = 4 * (6 * 128 + 4 * 128 + 4 * 320 + 4 + 2)
    end = 4 * (2 * 128 + 1)
    rotary, token_id = 4 * 2 * 32, 8
    assert size.saved == pytest.approx(3 * layer + end + rotary + token_id, rel=0.02)
    assert size.saved_square == pytest.approx(3 * 4 * 4)  # the attention's weights, fp32, 4 heads
    assert dtype == torch.float32
    assert size.trained == size.parameters


def test_an_adapter_and_recomputing_need_less(settings: DirectSettings) -> None:
    full = plan(settings)
    lora = plan(dataclasses.replace(settings, lora=LoraSettings(lora_rank=4)))
    again = plan(dataclasses.replace(settings, engine=EngineSettings(recompute=True)))
    assert lora.memory.optimizer < full.memory.optimizer / 2
    assert lora.disk.checkpoints < full.disk.checkpoints / 2
    assert again.memory.total < full.memory.total


def test_a_plan_counts_rows_tokens_and_steps(settings: DirectSettings) -> None:
    found = plan(settings)
    assert (found.micro_tokens, found.chosen) == (16384, True)
    assert found.data.rows == 24
    assert found.data.steps == 6
    assert found.data.tokens < found.data.tokens_apart
    # each pair's prompt is counted once instead of twice
    prompt = (found.data.tokens_apart - found.data.tokens) / 24
    assert 5 < prompt < 12
    assert found.disk.reference == 4 * found.data.own_tokens
    assert found.fits
    assert not found.advice
    assert found.time is not None
    assert 0 < found.time.low <= found.time.training + found.time.reference <= found.time.high
    assert not settings.run.out.exists()


def test_a_loss_without_reference_needs_no_reference_pass(settings: DirectSettings) -> None:
    found = plan(dataclasses.replace(settings, loss="simpo"))
    assert found.disk.reference == 0
    assert found.time is not None
    assert found.time.reference == 0


def test_probes_keep_a_copy_of_all_weights(settings: DirectSettings) -> None:
    found = plan(dataclasses.replace(settings, probe=ProbeSettings(probe_every=2)))
    assert found.memory.copies == found.memory.weights


@pytest.fixture
def one_long(settings: DirectSettings, tmp_path: Path) -> DirectSettings:
    """All pairs are of 22 tokens but the first, whose prompt is longer."""
    first, *rest = read_pairs(settings.data)
    long = dataclasses.replace(first, prompt=make_prompt(user("can i wash my shirt ? " * 3)))
    write_records(tmp_path / "one_long.jsonl", [long, *rest], format="preftune")
    return dataclasses.replace(
        settings, data=tmp_path / "one_long.jsonl", length=LengthSettings(max_length=22)
    )


def test_rows_over_the_limit_are_counted_and_advised_on(one_long: DirectSettings) -> None:
    found = plan(one_long)
    assert (found.data.rows, found.data.too_long) == (23, 1)
    assert "--on-long drop or cut-prompt" in found.advice[0]


def test_a_cut_prompt_is_counted_as_long_as_it_is_left(one_long: DirectSettings) -> None:
    cutting = LengthSettings(max_length=22, on_long="cut-prompt")
    found = plan(dataclasses.replace(one_long, length=cutting))
    assert (found.data.rows, found.data.too_long) == (24, 0)
    assert found.data.longest_tokens == 22
    assert not found.advice


def test_no_row_that_fits_is_an_error(settings: DirectSettings) -> None:
    with pytest.raises(DataError, match="all 24 rows are longer than 3 tokens"):
        plan(dataclasses.replace(settings, length=LengthSettings(max_length=3)))


@pytest.mark.parametrize("model", ["base", "encoder"])
def test_a_reward_model_has_a_score_and_no_logits(
    world: Path, settings: DirectSettings, model: str
) -> None:
    found = plan(
        RewardSettings(model=str(world / model), data=world / "pairs.jsonl", run=settings.run)
    )
    assert found.memory.head == 0
    assert found.disk.reference == 0


def test_a_plan_of_sft_saves_nothing_by_sharing(world: Path, settings: DirectSettings) -> None:
    found = plan(SftSettings(model=str(world / "base"), data=world / "sft.jsonl", run=settings.run))
    assert found.data.tokens == found.data.tokens_apart


def test_what_does_not_fit_gets_the_figures_of_what_would(settings: DirectSettings) -> None:
    data = plan(settings).data
    lines = list(advice(settings, data, WORK, free=300 * MB, suggested=32))
    assert [line.split(":")[0].split(" ")[0] for line in lines] == [
        "--micro-tokens",
        "--recompute",
        "--lora-rank",
        "shorter",
    ]
    assert all(" GB" in line for line in lines[:3])
    assert not list(advice(settings, data, WORK, free=1 << 40, suggested=32))


def test_advice_on_long_rows_is_silent_when_they_are_dropped(settings: DirectSettings) -> None:
    data = dataclasses.replace(plan(settings).data, too_long=3)
    dropping = dataclasses.replace(settings, length=LengthSettings(on_long="drop"))
    assert isinstance(data, DataPlan)
    assert not list(advice(dropping, data, WORK, free=1 << 40, suggested=32))


RUN = """
import sys
from pathlib import Path
from preftune.cli.main import main
code = main(sys.argv[1:])
status = dict(l.split(":", 1) for l in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0])
sys.exit(code)
"""


@pytest.mark.slow
def test_the_peak_of_a_real_run_is_within_a_third_of_the_plan(world: Path, tmp_path: Path) -> None:
    flags = ["direct", "--model", world / "base", "--data", world / "pairs.jsonl"]
    flags += ["--out", tmp_path / "run", "--threads", 1, "--batch-size", 24, "--epochs", 3]
    spoken = [
        subprocess.run(
            [sys.executable, "-c", RUN, *map(str, (*command, *flags, *rest))],
            capture_output=True,
            text=True,
            check=True,
            env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PREFTUNE_CACHE": "off"},
        ).stdout
        for command, rest in ((["train"], []), (["plan"], ["--json"]))
    ]
    peak = int(spoken[0].split()[-1]) * 1024
    planned = json.loads(spoken[1].rpartition("}")[0] + "}")["peak_bytes"]
    assert 2 / 3 < planned / peak < 3 / 2
