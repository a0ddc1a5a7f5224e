"""Plackett–Luce DPO on ranked lists: first loss, equality with DPO, lists of any length, resume."""

import dataclasses
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from preftune.datasets import read_pairs, read_rankings, write_records
from preftune.engine.core import Core
from preftune.engine.logprobs import TokenLogprobs
from preftune.engine.reference import reference_logprobs
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import DataError
from preftune.files import read_json
from preftune.losses.direct import dpo_loss
from preftune.models.chat import Chat, load_chat
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.training import listwise
from preftune.training.listwise_rows import (
    Lists,
    in_lists,
    one_pair_each,
    ranked_rows,
    read_held_out,
)
from preftune.training.logs import read_rows
from preftune.training.method_settings import ListwiseSettings
from preftune.training.settings import LengthSettings, RunSettings
from preftune.types import PreferencePair, RankedList, assistant

FAST = OptimizerSettings(lr=3e-3, batch_size=8, epochs=2.0)


def of_two(pairs: Sequence[PreferencePair]) -> list[RankedList]:
    return [
        RankedList(
            id=f"two-{p.id}", prompt=p.prompt, responses=(p.chosen, p.rejected), ranks=(1, 2)
        )
        for p in pairs
    ]


def of_three(pairs: Sequence[PreferencePair]) -> list[RankedList]:
    return [
        RankedList(
            id=f"three-{p.id}",
            prompt=p.prompt,
            responses=(
                p.chosen,
                (assistant(p.chosen[0].content.removeprefix("thank you . ")),),
                p.rejected,
            ),
            ranks=(1, 2, 3),
        )
        for p in pairs
    ]


def settings(world: Path, data: Path, out: Path, **changes: object) -> ListwiseSettings:
    values: dict[str, object] = {
        "model": str(world / "base"),
        "data": data,
        "run": RunSettings(out=out, threads=1),
        "optimizer": FAST,
    }
    return ListwiseSettings(**(values | changes))  # type: ignore[arg-type]  # checked by the class


@pytest.fixture(scope="module")
def rankings(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve lists of two and twelve of three."""
    path = tmp_path_factory.mktemp("rankings") / "rankings.jsonl"
    pairs = read_pairs(world / "pairs.jsonl")
    write_records(path, of_two(pairs[:12]) + of_three(pairs[12:]), format="preftune")
    return path


@pytest.fixture(scope="module")
def tiny(world: Path) -> tuple[Core, Chat]:
    return Core.of(load_policy(world / "base").eval(), EngineSettings()), load_chat(world / "base")


def test_lists_of_three_start_at_ln_6_and_put_the_best_on_top(
    world: Path, rankings: Path, tmp_path: Path
) -> None:
    path = tmp_path / "three.jsonl"
    write_records(path, of_three(read_pairs(world / "pairs.jsonl")), format="preftune")
    final = listwise.train(
        settings(
            world,
            path,
            tmp_path / "run",
            held_out=rankings,
            lora=LoraSettings(lora_rank=4, lora_alpha=16),
        )
    )
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(math.factorial(3)), abs=1e-6)
    assert [rows[0][n] for n in ("largest_logratio", "margin", "accuracy")] == [0, 0, 0]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.8
    assert read_json(tmp_path / "run" / "held_out.json")["model"]["n"] == 24
    assert (final / "adapter_model.safetensors").exists()


def test_lists_of_two_have_the_loss_and_gradient_of_dpo(
    world: Path, tiny: tuple[Core, Chat]
) -> None:
    core, chat = tiny
    rows = ranked_rows(of_two(read_pairs(world / "pairs.jsonl")[:6]), chat)
    sequences = [row.sequences for row in rows]
    frozen = reference_logprobs(core, rows, [range(6)])
    shift = torch.linspace(-0.2, 0.2, len(frozen.logprobs))  # a policy that has left its reference
    reference = dataclasses.replace(frozen, logprobs=frozen.logprobs + shift)
    core.model.zero_grad()
    s = settings(world, Path("d"), Path("o"))
    metrics = listwise.backward(core, rows, range(6), reference, s)
    found = [p.grad.clone() for p in core.model.parameters() if p.grad is not None]
    core.model.zero_grad()
    policy, ref = core.token_logprobs(sequences).sums(), reference.of(range(6)).sums()
    loss = dpo_loss(
        policy_chosen_logps=policy[0::2],
        policy_rejected_logps=policy[1::2],
        reference_chosen_logps=ref[0::2],
        reference_rejected_logps=ref[1::2],
        beta=s.beta,
    ).mean()
    loss.backward()
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    expected = [p.grad for p in core.model.parameters() if p.grad is not None]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_lists_of_two_and_three_share_a_step(world: Path, rankings: Path, tmp_path: Path) -> None:
    listwise.train(
        settings(
            world, rankings, tmp_path / "run", optimizer=dataclasses.replace(FAST, batch_size=24)
        )
    )
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx((math.log(2) + math.log(6)) / 2, abs=1e-6)


@pytest.mark.parametrize("tokens", [1, 60])
def test_listwise_micro_batches_give_the_same_step(
    world: Path, tiny: tuple[Core, Chat], tokens: int
) -> None:
    core, chat = tiny
    pairs = read_pairs(world / "pairs.jsonl")[:6]
    rows = ranked_rows(of_two(pairs[:3]) + of_three(pairs[3:]), chat)
    frozen = reference_logprobs(core, rows, [range(6)])
    reference = dataclasses.replace(frozen, logprobs=frozen.logprobs - 0.1)
    found = []
    for budget in (0, tokens):
        core.model.zero_grad()
        s = settings(world, Path("d"), Path("o"), engine=EngineSettings(micro_tokens=budget))
        metrics = listwise.backward(core, rows, range(6), reference, s)
        norms = [p.grad.norm() for p in core.model.parameters() if p.grad is not None]
        found.append((metrics["loss"], torch.stack(norms).norm().item()))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_beta_changes_the_gradient_from_the_first_step(
    world: Path, tiny: tuple[Core, Chat]
) -> None:
    core, chat = tiny
    rows = ranked_rows(of_three(read_pairs(world / "pairs.jsonl")[:2]), chat)
    reference = reference_logprobs(core, rows, [range(2)])
    norms = []
    for beta in (0.1, 0.2):
        core.model.zero_grad()
        s = settings(world, Path("d"), Path("o"), beta=beta)
        listwise.backward(core, rows, range(2), reference, s)
        grads = [p.grad.norm() for p in core.model.parameters() if p.grad is not None]
        norms.append(torch.stack(grads).norm().item())
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-4)  # d loss = beta * d score at 0


def test_interrupted_listwise_run_ends_in_the_same_bytes(
    world: Path, rankings: Path, tmp_path: Path
) -> None:
    def run(out: Path) -> ListwiseSettings:
        return settings(world, rankings, out, run=RunSettings(out=out, threads=1, save_every=2))

    listwise.train(run(tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "final")
    shutil.rmtree(max((tmp_path / "again" / "checkpoints").iterdir()))
    listwise.train(run(tmp_path / "again"))
    for name in ("metrics.jsonl", "final/model.safetensors"):
        whole, again = (tmp_path / run / name for run in ("whole", "again"))
        assert whole.read_bytes() == again.read_bytes(), name


def test_lists_without_any_order_are_refused_with_their_count(world: Path, tmp_path: Path) -> None:
    first, second = of_two(read_pairs(world / "pairs.jsonl")[:2])
    path = tmp_path / "tied.jsonl"
    write_records(path, [first, dataclasses.replace(second, ranks=(1, 1))], format="preftune")
    with pytest.raises(DataError, match="1 of 2 lists put no response above another"):
        listwise.train(settings(world, path, tmp_path / "run"))


def test_long_lists_stop_are_dropped_or_lose_their_prompts_start(
    world: Path, tmp_path: Path
) -> None:
    pairs, path = read_pairs(world / "pairs.jsonl"), tmp_path / "lists.jsonl"
    shorter = [
        dataclasses.replace(ranking, responses=ranking.responses[1:], ranks=(1, 2))
        for ranking in of_three(pairs[4:8])
    ]
    write_records(path, of_two(pairs[:4]) + shorter, format="preftune")

    def run(name: str, limit: int, on_long: str) -> Path:
        length = LengthSettings(max_length=limit, on_long=on_long)  # type: ignore[arg-type]  # a choice
        s = settings(world, path, tmp_path / name, length=length)
        return listwise.train(s)

    with pytest.raises(DataError, match=r"4 of 8 rows are longer than 20.*--on-long"):
        run("stop", 20, "stop")
    with pytest.raises(DataError, match="is never cut"):
        run("short", 3, "cut-prompt")
    assert run("cut", 20, "cut-prompt").is_dir()
    assert not (tmp_path / "cut" / "dropped_train.jsonl").exists()
    assert run("drop", 20, "drop").is_dir()
    dropped = read_rankings(tmp_path / "drop" / "dropped_train.jsonl")
    assert [ranking.id for ranking in dropped] == [ranking.id for ranking in of_two(pairs[:4])]
    warned = read_rows(tmp_path / "drop" / "warnings.jsonl")
    assert "4 of 8 rows were too long" in warned[0]["warning"]


def test_comparisons_of_a_list_are_all_its_pairs_in_order() -> None:
    lists: Lists = in_lists(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), [(1, 2, 2), (1, 2)])
    found = lists.comparisons()
    assert found.row.tolist() == [0, 0, 0, 1]
    assert found.first.tolist() == [1, 1, 2, 4]
    assert found.second.tolist() == [2, 3, 3, 5]
    assert found.tied.tolist() == [False, False, True, False]
    assert lists.values.tolist() == [[1, 2, 3], [4, 5, 0]]


def test_one_pair_is_drawn_of_each_list_and_always_the_same(world: Path, tmp_path: Path) -> None:
    rankings = of_three(read_pairs(world / "pairs.jsonl"))
    drawn = one_pair_each(rankings)
    assert len(drawn) == len(rankings)
    assert drawn == one_pair_each(rankings[::-1])[::-1]
    assert len({(p.chosen[0].content[:5], p.rejected[0].content[:5]) for p in drawn}) > 1
    path = tmp_path / "tied.jsonl"
    write_records(path, [dataclasses.replace(rankings[0], ranks=(1, 1, 1))], format="preftune")
    with pytest.raises(DataError, match="no list puts a response above another"):
        read_held_out(path)


def test_reference_has_the_shape_of_the_policy(world: Path, tiny: tuple[Core, Chat]) -> None:
    core, chat = tiny
    rows = ranked_rows(of_three(read_pairs(world / "pairs.jsonl")[:3]), chat)
    sequences = [row.sequences for row in rows]
    reference: TokenLogprobs = reference_logprobs(core, rows, [[2, 0], [1]]).of([1, 2])
    policy = core.token_logprobs(sequences[1:])
    torch.testing.assert_close(reference.logprobs, policy.logprobs, rtol=0, atol=1e-4)
