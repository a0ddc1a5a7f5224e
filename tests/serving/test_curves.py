"""Figures of events become charts: what belongs together, in one order, none lost."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from preftune.serving.curves import Chart, beside, charts, thinned

DPO = [
    {"step": 1, "total_steps": 2, "train_loss": 0.6931, "train_chosen_reward": 0.0},
    {
        "step": 2,
        "total_steps": 2,
        "train_loss": 0.5,
        "train_chosen_reward": -0.1,
        "train_rejected_reward": -0.4,
        "valid_loss": 0.6,
        "full_valid_loss": 0.61,
    },
]


def titled(found: tuple[Chart, ...], title: str) -> Chart:
    return next(chart for chart in found if chart.title == title)


def test_training_and_validation_of_one_quantity_share_a_chart() -> None:
    loss = titled(charts(DPO), "Loss")
    assert [(one.key, one.label, one.dashed) for one in loss.series] == [
        ("train_loss", "training", False),
        ("full_valid_loss", "validation, every row", True),
        ("valid_loss", "validation, a sample", True),
    ]
    assert (loss.series[0].steps, loss.series[0].values) == ((1, 2), (0.6931, 0.5))
    assert (loss.series[2].steps, loss.series[2].values) == ((2,), (0.6,))


def test_chosen_and_rejected_share_a_chart_and_say_which_is_which() -> None:
    rewards = titled(charts(DPO), "Rewards")
    assert [one.label for one in rewards.series] == ["chosen, training", "rejected, training"]
    assert rewards.unit == "nats"


def test_known_charts_come_first_and_an_unknown_number_has_its_own() -> None:
    rows = [{"step": 1, "odd_thing": 3, "entropy_loss_sum": 0.5, "train_loss": 1.0}]
    assert [chart.title for chart in charts(rows)] == ["Loss", "Odd thing", "Entropy loss sum"]


def test_what_is_no_number_is_not_drawn() -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "train_loss": None, "scores": {"a": 1}, "is_it": True, "name": "x"},
        {"step": 2, "train_loss": float("nan"), "valid_loss": float("inf")},
    ]
    assert charts(rows) == ()


def test_jobs_lie_over_each_other_one_quantity_a_chart() -> None:
    found = beside({"a": DPO, "b": DPO[:1]})
    assert [chart.title for chart in found] == ["Loss", "Rewards, chosen", "Rewards, rejected"]
    assert [one.label for one in found[0].series] == [
        "a",
        "a, validation, every row",
        "a, validation, a sample",
        "b",
    ]
    assert [one.hue for one in found[0].series] == [0, 0, 0, 1]  # a hue is a job
    assert len({one.key for chart in found for one in chart.series}) == 7


def test_thinning_keeps_every_nth_step_validation_and_the_last() -> None:
    rows = [{"step": n, "train_loss": 1.0} for n in range(1, 24)]
    rows[6]["full_valid_loss"] = 1.0
    assert [row["step"] for row in thinned(rows, every=10)] == [7, 10, 20, 23]
    assert thinned(rows, every=1) == rows


@given(st.integers(1, 300), st.integers(1, 50), st.lists(st.integers(1, 300), max_size=5))
def test_steps_that_stay_do_not_depend_on_how_the_rows_came(
    count: int, every: int, cuts: list[int]
) -> None:
    rows = [{"step": n} for n in range(1, count + 1)]
    whole = {row["step"] for row in thinned(rows, every=every)}
    ends = sorted({0, *(cut for cut in cuts if cut < count), count})
    pieces = [rows[a:b] for a, b in pairwise(ends)]
    found = {row["step"] for piece in pieces for row in thinned(piece, every=every)}
    assert whole <= found
    assert found - whole <= set(ends)  # the last of each piece


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["train_loss", "full_valid_kl", "train_odd", "odd", "valid_"]),
            st.one_of(st.floats(-1e6, 1e6), st.none(), st.booleans(), st.text(max_size=3)),
        ),
        max_size=20,
    )
)
def test_no_number_is_lost_and_none_is_drawn_twice(rows: list[dict[str, Any]]) -> None:
    told = [{**row, "step": at} for at, row in enumerate(rows)]
    drawn = [
        (step, one.key, value)
        for chart in charts(told)
        for one in chart.series
        for step, value in zip(one.steps, one.values, strict=True)
    ]
    wanted = [
        (at, name, value)
        for at, row in enumerate(rows)
        for name, value in row.items()
        if isinstance(value, float)
    ]
    assert sorted(drawn) == sorted(wanted)
