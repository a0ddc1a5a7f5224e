"""Reward models from pairs and ranked lists: every objective, ties, what is refused, resume."""

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from preftune.datasets import read_pairs, write_records
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import DataError, PreftuneError, SettingsError
from preftune.files import read_json
from preftune.models.chat import Chat, load_chat
from preftune.models.heads import RewardModel, TieParameter, load_reward_model, new_reward_model
from preftune.models.tokens import TokenSequence
from preftune.training import reward
from preftune.training.listwise_rows import RankedRow, in_lists, ranked_rows
from preftune.training.logs import read_rows
from preftune.training.method_settings import RewardSettings
from preftune.training.reward_data import Material, check_data, check_ends
from preftune.training.rows import PairRow, TokenRows
from preftune.training.settings import RunSettings
from preftune.training.tokenise import pair_rows
from preftune.types import Message, PreferencePair, RankedList, assistant

FAST = OptimizerSettings(lr=3e-3, batch_size=8, epochs=2.0)
PER_COMPARISON = ["bradley-terry", "davidson", "rao-kupper"]
PER_LIST = ["plackett-luce", "all-pairs", "best-of-k"]
Records = Sequence[PreferencePair] | Sequence[RankedList]


def ranked(pairs: Sequence[PreferencePair], *, tied_every: int) -> list[RankedList]:
    """Return lists of three; in every `tied_every`-th the last two are tied."""
    return [
        RankedList(
            id=f"list-{place}",
            prompt=pair.prompt,
            responses=(pair.chosen, between(pair), pair.rejected),
            ranks=(1, 2, 2) if tied_every and place % tied_every == 0 else (1, 2, 3),
        )
        for place, pair in enumerate(pairs)
    ]


def between(pair: PreferencePair) -> tuple[Message, ...]:
    return (assistant(pair.chosen[0].content.removeprefix("thank you . ")),)


@pytest.fixture(scope="module")
def lists(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tied.jsonl and strict.jsonl."""
    folder = tmp_path_factory.mktemp("lists")
    pairs = read_pairs(world / "pairs.jsonl")
    write_records(folder / "tied.jsonl", ranked(pairs, tied_every=3), format="preftune")
    write_records(folder / "strict.jsonl", ranked(pairs, tied_every=0), format="preftune")
    return folder


def settings(world: Path, out: Path, **changes: object) -> RewardSettings:
    values: dict[str, object] = {
        "model": str(world / "base"),
        "data": world / "pairs.jsonl",
        "run": RunSettings(out=out, threads=1),
        "optimizer": FAST,
    }
    return RewardSettings(**(values | changes))  # type: ignore[arg-type]  # checked by the class


def row(ranks: tuple[int, ...], *, weight: float = 1.0) -> RankedRow:
    one = TokenSequence(prompt_ids=(1,), response_ids=(2,), own=(False, True))
    return RankedRow(number=0, sequences=(one,) * len(ranks), ranks=ranks, weight=weight)


def mean_loss(
    scores: list[float],
    rows: list[RankedRow],
    *,
    ties: TieParameter | None = None,
    **changes: object,
) -> float:
    s = settings(Path("w"), Path("o"), **{"centring": 0.0, **changes})
    ranked_scores = in_lists(torch.tensor(scores), [r.ranks for r in rows])
    summed = reward.summed_loss(ranked_scores, rows, s, ties=ties)
    return summed.item() / sum(reward.weight_of(r, s) for r in rows)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("plackett-luce", 0.913260),
        ("all-pairs", 0.325233),
        ("best-of-k", 0.542159),
        ("bradley-terry", (0.403186 + 0.201413 + 0.371101) / 3),
    ],
)
def test_reward_loss_of_a_ranking_of_three_is_the_published_number(
    objective: str, expected: float
) -> None:
    found = mean_loss([1.2, 0.5, -0.3], [row((1, 2, 3))], objective=objective)
    assert found == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("objective", "win", "tie"),
    [("davidson", 0.789036, 1.139036), ("rao-kupper", 0.689727, 1.206038)],
)
def test_tie_objectives_give_the_published_losses_of_win_and_tie(
    objective: str, win: float, tie: float
) -> None:
    # a third of ties: nu = 2t / (1 - t) = 1, theta = (1 + t) / (1 - t) = 2
    kind = "davidson" if objective == "davidson" else "rao-kupper"
    ties = TieParameter(kind, tie_share=1 / 3)  # type: ignore[arg-type]  # one of the two names
    scores, rows = [1.2, 0.5, 1.2, 0.5], [row((1, 2)), row((1, 1))]
    found = mean_loss(scores, rows, ties=ties, objective=objective)
    assert found == pytest.approx((win + tie) / 2, abs=2e-6)


def test_half_ties_train_on_a_probability_of_one_half() -> None:
    # soft label: d = 0.7 and p = .5 give 0.753186, a win gives 0.403186
    found = mean_loss([1.2, 0.5, 1.2, 0.5], [row((1, 2)), row((1, 1))], ties=None)
    assert found == pytest.approx(0.403186, abs=2e-6)
    s = settings(Path("w"), Path("o"), ties="half", centring=0.0)
    lists = in_lists(torch.tensor([1.2, 0.5]), [(1, 1)])
    summed = reward.summed_loss(lists, [row((1, 1))], s, ties=None)
    assert summed.item() == pytest.approx(0.753186, abs=2e-6)


@pytest.mark.parametrize("objective", ["bradley-terry", "all-pairs"])
def test_centring_adds_the_mean_square_sum_over_the_comparisons(objective: str) -> None:
    without = mean_loss([1.2, 0.5, -0.3], [row((1, 2, 3))], objective=objective)
    found = mean_loss([1.2, 0.5, -0.3], [row((1, 2, 3))], objective=objective, centring=0.01)
    assert found - without == pytest.approx(0.01 * (1.7**2 + 0.9**2 + 0.2**2) / 3, abs=1e-6)


def test_comparisons_count_once_each_and_lists_once_each() -> None:
    # one list of three has three comparisons of its pairs' losses, one of two a single one
    scores, rows = [0.0, 0.0, 0.0, 1.2, 0.5], [row((1, 2, 3)), row((1, 2))]
    by_comparison = mean_loss(scores, rows, objective="bradley-terry")
    by_list = mean_loss(scores, rows, objective="all-pairs")
    assert by_comparison == pytest.approx((3 * math.log(2) + 0.403186) / 4, abs=2e-6)
    assert by_list == pytest.approx((math.log(2) + 0.403186) / 2, abs=2e-6)


@pytest.mark.parametrize("objective", ["bradley-terry", "plackett-luce"])
def test_weight_2_is_the_row_twice(objective: str) -> None:
    ones, two = [row((1, 2))] * 3, row((1, 2), weight=2.0)
    heavy = mean_loss([1.2, 0.5, 0.0, 0.4], [two, ones[0]], objective=objective)
    twice = mean_loss([1.2, 0.5, 1.2, 0.5, 0.0, 0.4], ones, objective=objective)
    assert heavy == pytest.approx(twice, abs=1e-6)


Outcome = tuple[float, list[float]] | None


@pytest.fixture(scope="module")
def scorer(world: Path) -> tuple[RewardModel, Chat]:
    return new_reward_model(world / "base", seed=0), load_chat(world / "base")


def material_of(records: Records, chat: Chat) -> Material:
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    lists = [record for record in records if isinstance(record, RankedList)]
    return pair_rows(pairs, chat) if pairs else lists


def outcome(scorer: tuple[RewardModel, Chat], records: Records, **changes: object) -> Outcome:
    """Return loss and head gradient of one step, None where settings or data are refused."""
    try:
        s = settings(Path("w"), Path("o"), **changes)
        check_data(material_of(records, scorer[1]), s)
    except PreftuneError:
        return None
    model, chat = scorer
    model.zero_grad()
    material = material_of(records, chat)
    lists = [record for record in records if isinstance(record, RankedList)]
    rows: list[PairRow | RankedRow] = [*ranked_rows(lists, chat)]
    rows += material if isinstance(material, TokenRows) else []
    metrics = reward.backward(model, rows, s, ties=reward.tie_parameter(material, s))
    gradient = model.head.weight.grad
    assert gradient is not None
    return metrics["loss"], gradient.flatten().tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"label": "soft"},
        {"label": "margin"},
        {"label": "margin", "margin_per_strength": 1.0},
        {"margin_per_strength": 1.0},
        {"ties": "half"},
        {"centring": 0.5},
    ],
    ids=["soft", "margin", "margin-1", "margin-alone", "half", "centring"],
)
@pytest.mark.parametrize("objective", PER_COMPARISON + PER_LIST)
@pytest.mark.parametrize("tied_every", [None, 0, 3], ids=["pairs", "strict", "tied"])
def test_every_reward_option_changes_the_step_or_is_refused(
    world: Path,
    scorer: tuple[RewardModel, Chat],
    tied_every: int | None,
    objective: str,
    change: dict[str, object],
) -> None:
    pairs = read_pairs(world / "pairs.jsonl")[:4]
    records: Records = pairs if tied_every is None else ranked(pairs, tied_every=tied_every)
    without = outcome(scorer, records, objective=objective)
    changed = outcome(scorer, records, objective=objective, **change)
    assert changed is None or changed != without


def test_objectives_give_six_different_steps(world: Path, scorer: tuple[RewardModel, Chat]) -> None:
    records = ranked(read_pairs(world / "pairs.jsonl")[:4], tied_every=3)
    found = [
        outcome(scorer, records, objective=o, ties="half" if o == "bradley-terry" else "refuse")
        for o in PER_COMPARISON + PER_LIST
    ]
    losses = {round(step[0], 5) for step in found if step is not None}
    assert len(losses) == 6


@pytest.mark.parametrize("objective", PER_COMPARISON + PER_LIST)
def test_reward_micro_batches_of_any_size_give_the_same_gradient(
    world: Path, scorer: tuple[RewardModel, Chat], objective: str
) -> None:
    tied = 3 if objective in ("davidson", "rao-kupper") else 0
    records = ranked(read_pairs(world / "pairs.jsonl")[:6], tied_every=tied)
    whole, parts = (
        outcome(scorer, records, objective=objective, engine=EngineSettings(micro_tokens=tokens))
        for tokens in (0, 1)
    )
    assert whole is not None
    assert parts is not None
    assert parts[0] == pytest.approx(whole[0], abs=1e-6)
    assert parts[1] == pytest.approx(whole[1], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("objective", PER_COMPARISON + PER_LIST)
def test_reward_learns_every_objective(
    world: Path, lists: Path, tmp_path: Path, objective: str
) -> None:
    s = settings(
        world,
        tmp_path / "run",
        data=lists / ("tied.jsonl" if objective != "bradley-terry" else "strict.jsonl"),
        held_out=lists / "strict.jsonl",
        objective=objective,
    )
    final = reward.train(s)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.9
    assert read_json(tmp_path / "run" / "held_out.json")["model"]["n"] == 24  # one pair per list
    about = json.loads((final / "reward_model.json").read_text())
    assert about["objective"] == objective
    assert {"davidson": "nu", "rao-kupper": "theta"}.get(objective, "kind") in about
    assert load_reward_model(final).std.item() > 0


def test_tie_parameter_starts_at_the_share_of_ties_and_is_learnt(
    world: Path, lists: Path, tmp_path: Path
) -> None:
    s = settings(world, tmp_path / "run", data=lists / "tied.jsonl", objective="davidson")
    final = reward.train(dataclasses.replace(s, optimizer=dataclasses.replace(FAST, lr=0.05)))
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    # 8 of 24 lists hold one tied of three comparisons: t = 8 / 72, nu = 2t / (1 - t) = 1 / 4
    assert rows[0]["nu"] == pytest.approx(0.25, abs=1e-6)
    learnt = json.loads((final / "reward_model.json").read_text())["nu"]
    assert abs(learnt - 0.25) > 1e-3


def test_encoder_learns_from_ranked_lists(world: Path, lists: Path, tmp_path: Path) -> None:
    s = settings(
        world,
        tmp_path / "run",
        model=str(world / "encoder"),
        data=lists / "tied.jsonl",
        objective="davidson",
        optimizer=dataclasses.replace(FAST, lr=1e-3, epochs=4.0),
    )
    reward.train(s)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_bf16_run_learns_and_is_saved_in_full_precision(
    world: Path, lists: Path, tmp_path: Path
) -> None:
    s = settings(
        world,
        tmp_path / "run",
        data=lists / "tied.jsonl",
        objective="davidson",
        engine=EngineSettings(precision="bf16"),
    )
    model = load_reward_model(reward.train(s))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_interrupted_davidson_run_ends_in_the_same_bytes(
    world: Path, lists: Path, tmp_path: Path
) -> None:
    def run(out: Path) -> RewardSettings:
        folder = RunSettings(out=out, threads=1, save_every=2)
        return settings(world, out, data=lists / "tied.jsonl", objective="davidson", run=folder)

    reward.train(run(tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "final")
    newest = max((tmp_path / "again" / "checkpoints").iterdir())
    shutil.rmtree(newest)
    reward.train(run(tmp_path / "again"))
    for name in ("metrics.jsonl", "final/model.safetensors", "final/reward_model.json"):
        whole, again = (tmp_path / run / name for run in ("whole", "again"))
        assert whole.read_bytes() == again.read_bytes(), name


@pytest.mark.parametrize(
    ("tied_every", "changes", "said"),
    [
        (3, {}, r"2 of 4 lists hold ties, the first is list-0.*--objective davidson.*--ties half"),
        (0, {"objective": "davidson"}, "objective davidson changes nothing"),
        (0, {"ties": "half"}, "ties half changes nothing"),
        (0, {"label": "soft"}, "label soft needs pairs"),
        (None, {"objective": "plackett-luce"}, "needs ranked lists"),
        (None, {"ties": "half"}, "ties half changes nothing"),
    ],
    ids=["ties", "no-ties", "half-no-ties", "soft-lists", "pairs-ranked", "half-pairs"],
)
def test_data_an_objective_has_no_place_for_are_refused(
    world: Path,
    scorer: tuple[RewardModel, Chat],
    tied_every: int | None,
    changes: dict[str, object],
    said: str,
) -> None:
    pairs = read_pairs(world / "pairs.jsonl")[:4]
    records: Records = pairs if tied_every is None else ranked(pairs, tied_every=tied_every)
    with pytest.raises(PreftuneError, match=said):
        check_data(material_of(records, scorer[1]), settings(world, Path("o"), **changes))


@pytest.mark.parametrize(
    ("objective", "ranks", "said"),
    [
        ("best-of-k", (1, 1, 2), "1 of 2 lists have no single best response"),
        ("plackett-luce", (1, 1, 1), "1 of 2 lists put no response above another"),
    ],
)
def test_lists_without_the_order_that_is_needed_are_refused(
    world: Path, objective: str, ranks: tuple[int, ...], said: str
) -> None:
    first, second = ranked(read_pairs(world / "pairs.jsonl")[:2], tied_every=0)
    records = [first, dataclasses.replace(second, ranks=ranks)]
    with pytest.raises(DataError, match=said):
        check_data(records, settings(world, Path("o"), objective=objective))
    with pytest.raises(DataError, match="every comparison is a tie"):
        check_data(
            [dataclasses.replace(first, ranks=(1, 1, 1))],
            settings(world, Path("o"), objective="davidson"),
        )


def test_labels_that_no_pair_carries_are_refused(
    world: Path, scorer: tuple[RewardModel, Chat]
) -> None:
    pairs = [
        dataclasses.replace(pair, probability=1.0, strength=None)
        for pair in read_pairs(world / "pairs.jsonl")[:2]
    ]
    for label in ("soft", "margin"):
        with pytest.raises(SettingsError, match=f"label {label} changes nothing"):
            check_data(pair_rows(pairs, scorer[1]), settings(world, Path("o"), label=label))


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "davidson", "label": "soft"},
        {"objective": "all-pairs", "ties": "half"},
        {"margin_per_strength": 0.5},
    ],
    ids=["label", "ties", "margin"],
)
def test_reward_settings_without_effect_are_refused(
    world: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(SettingsError, match="changes nothing unless"):
        settings(world, Path("o"), **changes)


def test_response_that_does_not_end_a_turn_is_refused(world: Path) -> None:
    chat = load_chat(world / "base")
    first, *_ = ranked_rows(ranked(read_pairs(world / "pairs.jsonl")[:1], tied_every=0), chat)
    check_ends([first], chat)
    whole = first.sequences[0]
    cut = dataclasses.replace(whole, response_ids=whole.response_ids[:-1], own=whole.own[:-1])
    with pytest.raises(DataError, match="row 1: a response doesn't end with an end of turn"):
        check_ends([dataclasses.replace(first, sequences=(whole, cut))], chat)


def test_equal_responses_ranked_apart_are_refused(world: Path) -> None:
    (ranking,) = ranked(read_pairs(world / "pairs.jsonl")[:1], tied_every=0)
    twice = dataclasses.replace(ranking, responses=(ranking.responses[0],) * 2, ranks=(1, 2))
    chat = load_chat(world / "base")
    with pytest.raises(DataError, match=r"row 1 \(list-0\): two responses ranked apart"):
        ranked_rows([twice], chat)
    assert ranked_rows([dataclasses.replace(twice, ranks=(1, 1))], chat)
