"""KTO, BCO and unpaired APO-zero: first loss, reference point, balance, resume."""

import dataclasses
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from preftune.datasets import read_pairs, write_records
from preftune.engine.core import Core
from preftune.engine.reference import reference_logprobs
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import DataError, HealthError, SettingsError
from preftune.files import read_json
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.models.tokens import TokenSequence
from preftune.training import unpaired
from preftune.training.listwise_rows import SingleRow
from preftune.training.logratios import check_step_0
from preftune.training.logs import read_rows
from preftune.training.method_settings import UnpairedSettings
from preftune.training.settings import RunSettings
from preftune.types import UnpairedRow

FAST = OptimizerSettings(lr=3e-3, batch_size=8, epochs=2.0)
LOSSES = ["kto", "bco", "apo_zero_unpaired"]
FIRST = {"kto": 0.5, "bco": math.log(2), "apo_zero_unpaired": 0.5}


@pytest.fixture(scope="module")
def thumbs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows: every other prompt has its good answer, the others their bad one."""
    path = tmp_path_factory.mktemp("thumbs") / "thumbs.jsonl"
    rows = [
        UnpairedRow(
            id=f"row-{place}",
            prompt=pair.prompt,
            response=pair.rejected if place % 2 else pair.chosen,
            desirable=place % 2 == 0,
        )
        for place, pair in enumerate(read_pairs(world / "pairs.jsonl"))
    ]
    write_records(path, rows, format="preftune")
    return path


def settings(world: Path, data: Path, out: Path, **changes: object) -> UnpairedSettings:
    values: dict[str, object] = {
        "model": str(world / "base"),
        "data": data,
        "run": RunSettings(out=out, threads=1),
        "optimizer": FAST,
    }
    return UnpairedSettings(**(values | changes))  # type: ignore[arg-type]  # checked by the class


def single(
    prompt: int, response: int, *, desirable: bool = True, prompt_length: int = 2
) -> SingleRow:
    sequence = TokenSequence(
        prompt_ids=(prompt,) * prompt_length,
        response_ids=(response, response, 2),
        own=(False,) * prompt_length + (True,) * 3,
    )
    return SingleRow(number=0, sequences=(sequence,), desirable=desirable, weight=1.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_unpaired_starts_at_its_known_loss_and_tells_good_from_bad(
    world: Path, thumbs: Path, tmp_path: Path, loss: str
) -> None:
    unpaired.train(settings(world, thumbs, tmp_path / "run", loss=loss))
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    first, last = rows[0], rows[-1]
    assert first["loss"] == pytest.approx(FIRST[loss], abs=1e-6)
    for name in ("chosen_logratio", "rejected_logratio", "mean_reward", "largest_logratio"):
        assert first[name] == 0.0
    assert first["accuracy"] == 0.0
    assert first.get("kl_mismatched", 0.0) == first.get("delta", 0.0) == 0.0
    assert last["loss"] < 0.5 * first["loss"]
    assert last["chosen_reward"] > 0 > last["rejected_reward"]
    assert last["accuracy"] > 0.9


def test_pairs_become_two_rows_each_and_give_a_held_out_report(world: Path, tmp_path: Path) -> None:
    s = settings(
        world,
        world / "pairs.jsonl",
        tmp_path / "run",
        held_out=world / "held_out.jsonl",
        lora=LoraSettings(lora_rank=4),
    )
    final = unpaired.train(s)
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == 2 * 48 // 8
    assert read_json(tmp_path / "run" / "held_out.json")["model"]["share"] == 1.0
    assert (final / "adapter_model.safetensors").exists()


def test_response_is_matched_with_the_next_other_prompt() -> None:
    batch = [single(5, 50), single(5, 51), single(6, 60), single(7, 70)]
    found = [row.sequences[0] for row in unpaired.mismatched(batch, limit=100)]
    assert [s.prompt_ids[0] for s in found] == [5, 5, 6, 7]
    assert [s.response_ids[0] for s in found] == [60, 60, 70, 50]
    assert [s.own for s in found] == [(False, False, True, True, True)] * 4


def test_mismatched_prompt_loses_its_start_where_the_model_ends() -> None:
    batch = [single(5, 50, prompt_length=6), single(6, 60)]
    long, short = (row.sequences[0] for row in unpaired.mismatched(batch, limit=8))
    assert (len(long), len(long.prompt_ids), long.response_ids) == (8, 5, (60, 60, 2))
    assert (len(short), short.prompt_ids) == (5, (6, 6))


def test_step_with_one_prompt_only_is_refused() -> None:
    for batch in ([single(5, 50)], [single(5, 50), single(5, 51)]):
        with pytest.raises(DataError, match=r"one prompt only.*--batch-size"):
            unpaired.mismatched(batch, limit=100)


def test_kto_reference_point_is_the_mean_over_the_whole_step(
    world: Path, thumbs: Path, tmp_path: Path
) -> None:
    # the same run in one forward and in forwards of one row: the same KL in every step
    found = []
    for name, tokens in (("whole", 0), ("parts", 1)):
        s = settings(world, thumbs, tmp_path / name, engine=EngineSettings(micro_tokens=tokens))
        unpaired.train(dataclasses.replace(s, optimizer=dataclasses.replace(FAST, lr=3e-4)))
        found.append(read_rows(tmp_path / name / "metrics.jsonl"))
    assert max(row["kl_mismatched"] for row in found[0]) > 0
    for whole, parts in zip(*found, strict=True):
        for key in ("loss", "kl_mismatched", "chosen_logratio", "mean_reward"):
            assert whole[key] == pytest.approx(parts[key], rel=1e-2, abs=2e-3), key


@pytest.fixture(scope="module")
def policy_and_reference(world: Path) -> tuple[Core, Sequence[SingleRow]]:
    torch.manual_seed(0)
    core = Core.of(load_policy(world / "base"), EngineSettings())
    return core, [single(n + 5, n + 20, desirable=n % 3 > 0) for n in range(6)]


def gradient(
    world: Path, fixed: tuple[Core, Sequence[SingleRow]], **changes: object
) -> tuple[float, float]:
    """Return loss and gradient norm of a step from a policy that has left its reference."""
    core, rows = fixed
    s = settings(world, Path("d"), Path("o"), **changes)
    reference = reference_logprobs(core, rows, [range(len(rows))])
    away = dataclasses.replace(reference, logprobs=reference.logprobs + 0.3)
    core.model.zero_grad()
    metrics = unpaired.backward(core, rows, range(len(rows)), away, s, point=torch.tensor(0.2))
    norms = [p.grad.norm() for p in core.model.parameters() if p.grad is not None]
    return metrics["loss"], torch.stack(norms).norm().item()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["beta", "desirable_weight", "undesirable_weight"])
def test_every_unpaired_option_changes_the_step_or_is_refused(
    world: Path,
    policy_and_reference: tuple[Core, Sequence[SingleRow]],
    loss: str,
    name: str,
) -> None:
    without = gradient(world, policy_and_reference, loss=loss)
    if loss != "kto" and name != "beta":
        with pytest.raises(SettingsError, match=f"{name} changes nothing unless loss is kto"):
            settings(world, Path("d"), Path("o"), loss=loss, **{name: 2.0})
        return
    changed = gradient(world, policy_and_reference, loss=loss, **{name: 2.0})
    assert changed[0] != pytest.approx(without[0], rel=1e-3)
    assert changed[1] != pytest.approx(without[1], rel=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_unpaired_losses_are_those_of_the_formulas(
    world: Path, policy_and_reference: tuple[Core, Sequence[SingleRow]], loss: str
) -> None:
    # every token is .3 nats below the reference: logratio -.9 for each response of three tokens
    def s(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = {
        "kto": (4 * (1 - s(0.1 * (-0.9 - 0.2))) + 2 * s(0.1 * (-0.9 - 0.2))) / 6,
        "bco": -(4 * math.log(s(-0.09 - 0.2)) + 2 * math.log(s(0.09 + 0.2))) / 6,
        "apo_zero_unpaired": (4 * (1 - s(-0.09)) + 2 * s(-0.09)) / 6,
    }
    found, _ = gradient(world, policy_and_reference, loss=loss)
    assert found == pytest.approx(expected[loss], abs=1e-5)


def test_bco_delta_is_the_mean_reward_of_all_rows_before(
    world: Path, thumbs: Path, tmp_path: Path
) -> None:
    optimizer = dataclasses.replace(FAST, batch_size=10)  # a smaller step in each pass
    s = settings(world, thumbs, tmp_path / "run", loss="bco", optimizer=optimizer)
    unpaired.train(s)
    sizes = [len(rows) for rows in unpaired.mixed_order([single(5, 50)] * 24, s).batches()]
    assert sorted(sizes) == [4, 4, 10, 10, 10, 10]
    total, seen = 0.0, 0
    for row, size in zip(read_rows(tmp_path / "run" / "metrics.jsonl"), sizes, strict=True):
        assert row["delta"] == pytest.approx(total / max(1, seen), abs=1e-6)
        total, seen = total + size * row["mean_reward"], seen + size
    assert abs(total) > 1e-3


def test_steps_are_mixed_where_good_answers_are_longer(world: Path) -> None:
    rows = [single(n, 50, desirable=n < 20, prompt_length=2 + 9 * (n < 20)) for n in range(40)]
    s = settings(world, Path("d"), Path("o"), loss="kto")
    order = unpaired.mixed_order(rows, s)
    kinds = [{rows[n].desirable for n in numbers} for numbers in order.batches()]
    assert kinds == [{True, False}] * 10
    once = [n for micro in unpaired.first_pass(order, rows, s) for n in micro]
    assert sorted(once) == list(range(40))


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_interrupted_unpaired_run_ends_in_the_same_bytes(
    world: Path, thumbs: Path, tmp_path: Path, loss: str
) -> None:
    def run(out: Path) -> UnpairedSettings:
        folder = RunSettings(out=out, threads=1, save_every=2)
        lora = LoraSettings(lora_rank=4, lora_dropout=0.1)
        return settings(world, thumbs, out, loss=loss, run=folder, lora=lora)

    unpaired.train(run(tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "final")
    shutil.rmtree(max((tmp_path / "again" / "checkpoints").iterdir()))
    unpaired.train(run(tmp_path / "again"))
    for name in ("metrics.jsonl", "final/adapter_model.safetensors"):
        whole, again = (tmp_path / run / name for run in ("whole", "again"))
        assert whole.read_bytes() == again.read_bytes(), name


def test_kto_warns_of_a_class_that_outweighs_the_other(
    world: Path, thumbs: Path, tmp_path: Path
) -> None:
    heavy = settings(world, thumbs, tmp_path / "heavy", desirable_weight=2.0)
    even = settings(world, thumbs, tmp_path / "even", desirable_weight=4 / 3)
    one_step = dataclasses.replace(FAST, batch_size=24, epochs=1.0)
    for s in (heavy, even):
        unpaired.train(dataclasses.replace(s, optimizer=one_step))
    said = [row["warning"] for row in read_rows(tmp_path / "heavy" / "warnings.jsonl")]
    assert any("weigh 2.00 times" in w and "--undesirable-weight 2" in w for w in said)
    assert not any("weigh" in r["warning"] for r in read_rows(tmp_path / "even" / "warnings.jsonl"))


def test_rows_of_one_kind_and_held_out_without_pairs_are_refused(
    world: Path, thumbs: Path, tmp_path: Path
) -> None:
    pairs = read_pairs(world / "pairs.jsonl")
    good = [UnpairedRow(id=p.id, prompt=p.prompt, response=p.chosen, desirable=True) for p in pairs]
    write_records(tmp_path / "good.jsonl", good, format="preftune")
    with pytest.raises(DataError, match="all rows are desirable"):
        unpaired.train(settings(world, tmp_path / "good.jsonl", tmp_path / "run"))
    with pytest.raises(SettingsError, match="held_out needs pairs"):
        unpaired.train(settings(world, thumbs, tmp_path / "run", held_out=world / "held_out.jsonl"))
    with pytest.raises(DataError, match="holds Demonstration"):
        unpaired.train(settings(world, world / "sft.jsonl", tmp_path / "run"))


def test_step_0_stops_a_policy_that_is_not_its_reference() -> None:
    check_step_0({"largest_logratio": 0.0, "loss": 0.5})
    for worst in (1e-3, math.nan):
        with pytest.raises(HealthError, match="policy and reference differ"):
            check_step_0({"largest_logratio": worst, "loss": 0.5})
