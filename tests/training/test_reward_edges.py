"""Reward models at the edges: held-out pairs too long, steps of ties, rows of weight 0, memory."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.training.test_reward_train import FAST, ranked, settings

from preftune.datasets import read_pairs, write_records
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import DataError, SettingsError
from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model
from preftune.training import direct, plan, reward
from preftune.training.listwise_rows import ranked_rows
from preftune.training.logs import read_rows
from preftune.training.settings import DirectSettings, LengthSettings, RunSettings
from preftune.training.summary import summary
from preftune.training.tokenise import pair_rows
from preftune.types import PreferencePair, RankedList, assistant

ONCE = replace(FAST, epochs=1.0)


def written(path: Path, records: Sequence[PreferencePair] | Sequence[RankedList]) -> Path:
    write_records(path, records, format="preftune")
    return path


def warnings_of(run: Path) -> list[str]:
    return [row["warning"] for row in read_rows(run / "warnings.jsonl")]


@pytest.fixture
def long(world: Path, tmp_path: Path) -> Path:
    """A held-out file of one pair, longer than 40 tokens."""
    (pair, *_) = read_pairs(world / "held_out.jsonl")
    chosen = (assistant("thank you . " + "yes " * 60),)
    return written(tmp_path / "long.jsonl", [replace(pair, chosen=chosen)])


def test_held_out_pairs_that_do_not_fit_stop_a_run_before_its_first_step(
    world: Path, long: Path, tmp_path: Path
) -> None:
    s = settings(world, tmp_path / "run", held_out=long, length=LengthSettings(max_length=40))
    with pytest.raises(DataError, match="1 of 1 rows are longer than 40 tokens"):
        reward.train(s)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_whose_held_out_pairs_were_all_dropped_ends_without_a_report(
    world: Path, long: Path, tmp_path: Path
) -> None:
    length = LengthSettings(max_length=40, on_long="drop")
    s = settings(world, tmp_path / "run", held_out=long, length=length, optimizer=ONCE)
    assert reward.train(s).exists()
    assert not (tmp_path / "run" / "held_out.json").exists()
    assert any("nothing is learnt or reported" in text for text in warnings_of(tmp_path / "run"))


def test_what_was_dropped_is_told_once_by_a_run_that_goes_on(world: Path, tmp_path: Path) -> None:
    pairs = read_pairs(world / "pairs.jsonl")
    longer = replace(pairs[0], chosen=(assistant("thank you . " + "yes " * 60),))
    lists = ranked([longer, *pairs[1:]], tied_every=0)
    for name, records in (("pairs", [longer, *pairs[1:]]), ("lists", lists)):
        s = settings(
            world,
            tmp_path / name,
            data=written(tmp_path / f"{name}.jsonl", records),
            length=LengthSettings(max_length=40, on_long="drop"),
            optimizer=ONCE,
        )
        final = reward.train(s)
        (final / "MANIFEST.json").unlink()
        reward.train(s)
        assert summary(tmp_path / name).count("1 of 24 rows were too long") == 1


@pytest.mark.parametrize("kind", ["pairs", "lists"])
def test_rows_of_weight_0_are_left_out_and_counted(world: Path, tmp_path: Path, kind: str) -> None:
    pairs = read_pairs(world / "pairs.jsonl")[:9]
    records: Sequence[Any] = pairs if kind == "pairs" else ranked(pairs, tied_every=0)
    weighed = [replace(record, weight=float(n > 6)) for n, record in enumerate(records)]
    data, two = (
        written(tmp_path / f"{name}.jsonl", some)
        for name, some in (("all", weighed), ("two", weighed[7:]))
    )
    small = replace(ONCE, batch_size=2)
    reward.train(settings(world, tmp_path / "run", data=data, optimizer=small))
    reward.train(settings(world, tmp_path / "same", data=two, optimizer=small))
    assert warnings_of(tmp_path / "run") == ["7 of 9 rows weigh 0 and are left out"]
    metrics = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("run", "same")]
    assert metrics[0] == metrics[1]
    assert plan.plan(settings(world, tmp_path / "p", data=data, optimizer=small)).data.rows == 2


def test_pairs_of_weight_0_do_not_stop_a_policy(world: Path, tmp_path: Path) -> None:
    pairs = read_pairs(world / "pairs.jsonl")[:9]
    weighed = [replace(pair, weight=float(n == 8)) for n, pair in enumerate(pairs)]
    s = DirectSettings(
        model=str(world / "base"),
        data=written(tmp_path / "w.jsonl", weighed),
        run=RunSettings(out=tmp_path / "run", threads=1),
        optimizer=OptimizerSettings(lr=1e-3, epochs=1.0, batch_size=2),
    )
    assert direct.train(s).exists()
    assert warnings_of(tmp_path / "run") == ["8 of 9 rows weigh 0 and are left out"]


def test_a_step_of_ties_alone_says_nothing_of_accuracy(world: Path) -> None:
    chat, model = load_chat(world / "base"), new_reward_model(world / "base", seed=0)
    strict = ranked(read_pairs(world / "pairs.jsonl")[:2], tied_every=0)
    tied = [replace(one, ranks=(1, 1, 1)) for one in strict]
    s = settings(world, Path("o"), objective="davidson")
    ties = reward.tie_parameter([strict[0], tied[0]], s)
    found = [
        reward.backward(model, ranked_rows(lists, chat), s, ties=ties) for lists in (strict, tied)
    ]
    decided = {"accuracy", "chosen_reward", "rejected_reward", "reward_gap"}
    assert found[0].keys() - found[1].keys() == decided
    assert found[1].keys() == {"loss", "nu"}


@pytest.mark.parametrize("limit", [64, 0])
def test_scores_after_training_keep_to_the_tokens_of_one_forward(world: Path, limit: int) -> None:
    rows = pair_rows(read_pairs(world / "pairs.jsonl"), load_chat(world / "base"))
    model = new_reward_model(world / "base", seed=0)
    sizes: list[int] = []
    whole = reward.scores_of(model, rows, token_limit=0)
    model.head.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    cut = reward.scores_of(model, rows, token_limit=limit)
    assert cut.tolist() == pytest.approx(whole.tolist(), abs=1e-5)
    assert len(cut) == 48
    assert max(sizes) == (4 if limit else 48)  # a pair has about 30 tokens


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label": "soft"}, "label soft needs pairs"),
        ({"ties": "half"}, "ties half changes nothing"),
    ],
)
@pytest.mark.parametrize("ask", [plan.plan, reward.train], ids=["plan", "train"])
def test_a_plan_refuses_what_the_run_would_refuse(
    world: Path, tmp_path: Path, ask: Callable[..., Any], changes: dict[str, Any], says: str
) -> None:
    data = written(
        tmp_path / "l.jsonl", ranked(read_pairs(world / "pairs.jsonl")[:4], tied_every=0)
    )
    with pytest.raises(SettingsError, match=says):
        ask(settings(world, tmp_path / "run", data=data, **changes))
    assert not (tmp_path / "run").exists()


def test_layers_of_a_reward_model_are_not_compiled(world: Path) -> None:
    with pytest.raises(SettingsError, match="compile: reward models go without it"):
        settings(world, Path("o"), engine=EngineSettings(compile=True))


def test_a_plan_refuses_ties_that_the_objective_has_no_place_for(
    world: Path, tmp_path: Path
) -> None:
    lists = ranked(read_pairs(world / "pairs.jsonl")[:4], tied_every=2)
    s = settings(world, tmp_path / "run", data=written(tmp_path / "l.jsonl", lists))
    with pytest.raises(DataError, match="2 of 4 lists hold ties"):
        plan.plan(s)
