"""What a job measured at each step, as charts: which figures belong together, and their points.

A figure of the events is called `train_loss`, `valid_loss` or `full_valid_loss`: where it was
measured, and what. A chart is of what: training and validation lie over each other.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Row = Mapping[str, Any]

PLACES = {
    "train_": "training",
    "full_valid_": "validation, every row",
    "valid_": "validation, a sample",
}
NOT_DRAWN = {"step", "total_steps"}
MOST_POINTS = 600  # of a curve; more cannot be told apart on a screen


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One chart: the quantities on it, and how to read them."""

    title: str
    unit: str
    quantities: dict[str, str]  # name in the events to a word for the legend
    help: str


KINDS = (
    Kind(
        title="Loss",
        unit="nats",
        quantities={"loss": ""},
        help="DPO begins at 0.6931. Validation that rises while training falls is over-fitting.",
    ),
    Kind(
        title="Token accuracy",
        unit="",
        quantities={"mean_token_accuracy": ""},
        help="The share of tokens that the model would have said itself.",
    ),
    Kind(
        title="Reward margin",
        unit="nats",
        quantities={"reward_margin": ""},
        help="How much more than the start model it prefers chosen to rejected, times beta.",
    ),
    Kind(
        title="Reward accuracy",
        unit="",
        quantities={"reward_accuracy": ""},
        help="The share of pairs whose chosen response has the higher reward.",
    ),
    Kind(
        title="Rewards",
        unit="nats",
        quantities={"chosen_reward": "chosen", "rejected_reward": "rejected"},
        help="Both may fall while the margin grows; chosen far below zero is a warning.",
    ),
    Kind(
        title="Log-probabilities",
        unit="nats",
        quantities={"chosen_logps": "chosen", "rejected_logps": "rejected"},
        help="Of whole responses under the model that is tuned.",
    ),
    Kind(
        title="KL",
        unit="nats",
        quantities={"kl": ""},
        help="How far the model has gone from its start.",
    ),
    Kind(
        title="Response length",
        unit="tokens",
        quantities={
            "chosen_length_tokens": "chosen",
            "rejected_length_tokens": "rejected",
            "completion_tokens_mean": "sampled",
            "reasoning_tokens_mean": "reasoning",
        },
        help="Preferences that follow length teach length.",
    ),
    Kind(
        title="Reward",
        unit="",
        quantities={"mean_reward": ""},
        help="What the grader gives, on average over the samples of a step.",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One curve: its points in the order of steps."""

    key: str
    label: str
    dashed: bool  # measured on rows that are not trained on
    hue: int  # curves of one hue belong together
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Curves that share an axis."""

    title: str
    unit: str
    help: str
    series: tuple[Series, ...]


def charts(rows: Iterable[Row]) -> tuple[Chart, ...]:
    """Return the charts of a job from the `data` of its metrics events, oldest first.

    Known quantities come first, in one order for all jobs; every other number has a chart of its
    own after them. A quantity that was not measured has none.
    """
    points = _points(rows)
    found = []
    for kind in (*KINDS, *_other_kinds(points)):
        names = [name for name in points if _measured(name)[1] in kind.quantities]
        if names:
            series = tuple(
                _series(name, kind, points[name], hue=hue)
                for hue, name in enumerate(sorted(names, key=_order))
            )
            found.append(Chart(title=kind.title, unit=kind.unit, help=kind.help, series=series))
    return tuple(found)


def beside(jobs: Mapping[str, Iterable[Row]]) -> tuple[Chart, ...]:
    """Return the charts of several jobs over each other, a curve named for its job.

    A chart shows one quantity: chosen and rejected rewards are two charts here.
    """
    points = {job: _points(rows) for job, rows in jobs.items()}
    names = {name: None for figures in points.values() for name in figures}
    found = []
    for kind in (*KINDS, *_other_kinds(names)):
        for quantity, word in kind.quantities.items():
            series = [
                _named(_series(name, kind, figures[name], hue=hue), job)
                for hue, (job, figures) in enumerate(points.items())
                for name in sorted(figures, key=_order)
                if _measured(name)[1] == quantity
            ]
            if series:
                title = f"{kind.title}, {word}" if word else kind.title
                found.append(
                    Chart(title=title, unit=kind.unit, help=kind.help, series=tuple(series))
                )
    return tuple(found)


def thinned(rows: Sequence[Row], *, every: int) -> list[Row]:
    """Return the rows of each `every`-th step, those measured on all validation rows, and the last.

    The same steps stay, whether the rows come at once or by and by.
    """
    last = len(rows) - 1
    return [
        row
        for at, row in enumerate(rows)
        if row["step"] % every == 0
        or at == last
        or any(name.startswith("full_valid_") for name in row)
    ]


def _points(rows: Iterable[Row]) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each figure by its name in the events."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in NOT_DRAWN and _is_number(value):
                found.setdefault(name, []).append((row["step"], value))
    return found


def _measured(name: str) -> tuple[str, str]:
    """Return where and what: "train_loss" is ("train_", "loss")."""
    where = next((place for place in PLACES if name.startswith(place)), "")
    return where, name.removeprefix(where)


def _order(name: str) -> tuple[str, int]:
    where, what = _measured(name)
    return what, list(PLACES).index(where) if where else -1


def _other_kinds(names: Iterable[str]) -> list[Kind]:
    """Return a kind for each quantity that none of ours has."""
    known = {quantity for kind in KINDS for quantity in kind.quantities}
    rest = {_measured(name)[1]: None for name in names}
    return [
        Kind(title=what.replace("_", " ").capitalize(), unit="", quantities={what: ""}, help="")
        for what in rest
        if what not in known
    ]


def _series(name: str, kind: Kind, points: list[tuple[int, float]], *, hue: int) -> Series:
    where, what = _measured(name)
    parts = (kind.quantities[what], PLACES.get(where, ""))
    return Series(
        key=name,
        label=", ".join(part for part in parts if part) or kind.title.lower(),
        dashed="valid" in where,
        hue=hue,
        steps=tuple(step for step, _ in points),
        values=tuple(value for _, value in points),
    )


def _named(series: Series, job: str) -> Series:
    label = f"{job}, {PLACES[_measured(series.key)[0]]}" if series.dashed else job
    return replace(series, key=f"{job}/{series.key}", label=label)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
