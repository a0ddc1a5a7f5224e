"""How far raters agree beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preftune.errors import DataError
from preftune.stats.bootstrap import cluster_weights, percentile_interval

Level = Literal["nominal", "ordinal", "interval", "ratio"]
Vote = tuple[Hashable, Hashable, Any]
"""(unit, rater, value): who said what about which thing."""
Array = NDArray[np.float64]
Places = NDArray[np.int64]


def cohen_kappa(
    a: Sequence[Any],
    b: Sequence[Any],
    *,
    weights: Literal["linear", "quadratic"] | None = None,
) -> float:
    """Return Cohen's kappa of two raters over the same items: 1 is full agreement, 0 is chance.

    1 - Σ W O / Σ W E over the table of observed and expected joint shares. W counts every
    disagreement as 1 (`weights=None`, the plain (po - pe) / (1 - pe)), or by the distance of the
    two labels' places in sorted order, or by its square.

    Raises:
        DataError: unequal lengths, no items, or both raters used one and the same label only.

    Source: Cohen 1960, 1968.
    """
    if len(a) != len(b) or not len(a):
        raise DataError(f"cohen_kappa: {len(a)} and {len(b)} labels. Give two equally long lists.")
    labels = sorted({*a, *b})
    place = {label: index for index, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)))
    np.add.at(table, ([place[label] for label in a], [place[label] for label in b]), 1)
    distance = np.abs(np.subtract.outer(np.arange(len(labels)), np.arange(len(labels))))
    cost = {None: distance > 0, "linear": distance, "quadratic": distance**2}[weights]
    chance = np.outer(table.sum(1), table.sum(0)) / table.sum()
    if not (cost * chance).sum():
        raise DataError(
            f"cohen_kappa: both raters only ever said {labels[0]!r}. "
            "Kappa needs items on which they could differ; add some."
        )
    return float(1 - (cost * table).sum() / (cost * chance).sum())


def fleiss_kappa(counts: ArrayLike) -> float:
    """Return Fleiss' kappa of `counts` [items, labels]: how many raters gave each label.

    Raises:
        DataError: items with unequal numbers of raters, fewer than two, or one label only.

    Source: Fleiss 1971.
    """
    table = np.asarray(counts, dtype=float)
    raters = table.sum(1) if table.ndim == 2 else np.zeros(1)
    if not len(table) or raters.min() < 2 or raters.min() != raters.max():
        raise DataError(
            "fleiss_kappa: every item needs the same number of raters, two or more. "
            "Use krippendorff_alpha where some votes are missing."
        )
    share = table.sum(0) / table.sum()
    chance = (share**2).sum()
    if chance == 1:
        raise DataError("fleiss_kappa: every vote is the same label. Add items that differ.")
    agreed = ((table**2).sum(1) - raters) / (raters * (raters - 1))
    return float((agreed.mean() - chance) / (1 - chance))


def krippendorff_alpha(votes: Iterable[Vote], *, level: Level = "nominal") -> float:
    """Return Krippendorff's alpha of sparse votes: 1 is full agreement, 0 is chance.

    1 - observed / expected disagreement over all pairs of votes within a unit. Any number of
    raters, any votes missing; a unit with fewer than two votes says nothing and is left out.
    A rater's second vote on a unit replaces the first.

    Args:
        votes: (unit, rater, value) triples. Values are numbers unless `level` is nominal.
        level: how far apart two values are. nominal: equal or not; ordinal: how many votes lie
            between them; interval: their difference; ratio: that relative to their sum (squared).

    Raises:
        DataError: no unit with two votes, all votes equal, or values that `level` cannot take.

    Source: Krippendorff 2011, Computing Krippendorff's alpha-reliability.
    """
    table = _tally(votes, level)
    return _alpha(table, np.ones(len(table.units)), level)


def alpha_interval(
    votes: Iterable[Vote],
    *,
    level: Level = "nominal",
    cluster_of: Mapping[Any, Hashable] | None = None,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of alpha from drawing units anew with all their votes.

    Args:
        votes: as in `krippendorff_alpha`.
        level: as in `krippendorff_alpha`.
        cluster_of: unit → cluster, such as its prompt; units of one cluster are drawn together.
            Without it every unit stands for itself.
        rounds: how many times the clusters are drawn.
        seed: equal seeds give equal draws.

    Raises:
        DataError: as `krippendorff_alpha`, or a unit that `cluster_of` does not name.
    """
    table = _tally(votes, level)
    _alpha(table, np.ones(len(table.units)), level)  # refuses what has no alpha at all
    missing = [unit for unit in table.units if cluster_of is not None and unit not in cluster_of]
    if missing:
        raise DataError(f"alpha_interval: unit {missing[0]!r} has no cluster. Give one for each.")
    clusters = table.units if cluster_of is None else [cluster_of[unit] for unit in table.units]
    draws = cluster_weights(clusters, rounds=rounds, seed=seed)
    drawn = [_alpha(table, draw, level, constant=1.0) for draw in draws]
    found = percentile_interval(np.array(drawn))
    return found.low, found.high


@dataclass(frozen=True, kw_only=True, slots=True)
class CountedAlpha:
    """Alpha with its 95 % interval; all None where nothing can be said."""

    alpha: float | None
    low: float | None
    high: float | None
    units: int  # with two votes or more
    votes: int  # on these


def alpha_of_counts(
    counts: ArrayLike,
    values: ArrayLike,
    *,
    level: Level = "nominal",
    rounds: int = 1000,
    seed: int = 0,
) -> CountedAlpha:
    """Return alpha from how often each value was said on each unit, fast for a million votes.

    Units on which the same was said equally often are one kind, and a draw of units is a draw of
    how often each kind comes, so the interval costs no more for many units than for few. Nothing
    is refused: with no unit of two votes, or one value only, `alpha` is None.

    Args:
        counts: how often each value was said on each unit, [U, V].
        values: the values [V], rising; places for nominal ones.
        level: as in `krippendorff_alpha`.
        rounds: how many times the units are drawn.
        seed: equal seeds give equal draws.
    """
    table = np.asarray(counts, dtype=np.int64)
    kinds, times = np.unique(table[table.sum(1) >= 2], axis=0, return_counts=True)
    units, votes = int(times.sum()), int(kinds.sum(1) @ times)
    place = np.asarray(values, dtype=float)
    alpha = _alpha_of_kinds(kinds, times[None], place, level)[0] if units else np.nan
    if np.isnan(alpha):
        return CountedAlpha(alpha=None, low=None, high=None, units=units, votes=votes)
    draws = np.random.default_rng(seed).multinomial(units, times / units, size=rounds)
    drawn = np.nan_to_num(_alpha_of_kinds(kinds, draws, place, level), nan=1.0)
    found = percentile_interval(drawn)
    return CountedAlpha(
        alpha=float(alpha), low=found.low, high=found.high, units=units, votes=votes
    )


def _alpha_of_kinds(
    kinds: NDArray[np.int64], times: NDArray[np.int64], values: Array, level: Level
) -> Array:
    """Return alpha for each row of how often each kind of unit comes [R, K]; nan for one value."""
    size = kinds.sum(1)
    pairs = kinds[:, :, None] * kinds[:, None, :] - kinds[:, :, None] * np.eye(len(values))
    met = np.tensordot(times / (size - 1), pairs, axes=1)  # [R, V, V]
    total = met.sum(2)
    distance = np.stack([_distance(values, row, level) for row in total])
    expected = np.einsum("rc,rcv,rv->r", total, distance, total)
    observed = (total.sum(1) - 1) * (met * distance).sum((1, 2))
    share = np.divide(observed, expected, out=np.full(len(times), np.nan), where=expected > 0)
    return np.asarray(1 - share)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tally:
    """Pairs of votes within each unit that has two votes or more."""

    units: list[Hashable]
    values: Array  # [V], sorted; places 0, 1, … for nominal values
    first: Places  # [P] place of the first value of each pair of values met
    second: Places  # [P]
    met: Any  # scipy CSR [P, units]: how often, divided by the unit's votes - 1


def _tally(votes: Iterable[Vote], level: Level) -> _Tally:
    last = {(unit, rater): value for unit, rater, value in votes}
    values = list(dict.fromkeys(last.values()))
    if level != "nominal":
        values = sorted(_number(value, level) for value in values)
    column = {value: index for index, value in enumerate(values)}
    row: dict[Hashable, int] = {}
    rows = [row.setdefault(unit, len(row)) for unit, _ in last]
    from scipy import sparse  # a server that counts with `alpha_of_counts` starts without it

    cells = (np.ones(len(rows)), (rows, [column[value] for value in last.values()]))
    counts = sparse.csr_matrix(cells, shape=(len(row), len(values)))
    kept = np.flatnonzero(np.asarray(counts.sum(1)).ravel() >= 2)
    if not len(kept):
        raise DataError("krippendorff_alpha: no unit has two votes. Let two raters judge some.")
    places = np.arange(len(values)) if level == "nominal" else np.array(values)
    units = list(row)
    codes, met = _pairs(counts[kept])
    return _Tally(
        units=[units[place] for place in kept.tolist()],
        values=places.astype(float),
        first=codes // len(values),
        second=codes % len(values),
        met=met,
    )


def _pairs(counts: Any) -> tuple[Places, Any]:
    """Return the codes of the pairs of values met, [P], and how often in each unit, [P, units]."""
    from scipy import sparse

    size = np.asarray(counts.sum(1)).ravel()
    several = np.diff(counts.indptr)  # different values in each unit
    row = np.repeat(np.arange(len(size)), several)
    times = several[row]
    left = np.repeat(np.arange(len(row)), times)  # every cell beside every cell of its unit
    begin = np.repeat(np.cumsum(times) - times, times)
    right = counts.indptr[row[left]] + np.arange(len(left)) - begin
    often = counts.data[left] * (counts.data[right] - (left == right)) / (size[row[left]] - 1)
    code = counts.indices[left].astype(np.int64) * counts.shape[1] + counts.indices[right]
    codes, place = np.unique(code, return_inverse=True)
    return codes, sparse.csr_matrix((often, (place, row[left])), shape=(len(codes), len(size)))


def _number(value: Any, level: Level) -> float:
    if isinstance(value, str) or not np.isfinite(value) or (level == "ratio" and value < 0):
        wanted = "numbers from 0 up" if level == "ratio" else "finite numbers"
        raise DataError(f"krippendorff_alpha: value {value!r} at level {level}. Give {wanted}.")
    return value  # type: ignore[no-any-return]  # a number, as just checked


def _alpha(table: _Tally, weight: Array, level: Level, *, constant: float | None = None) -> float:
    """Alpha, each unit counted `weight` times; `constant` is alpha where all votes are equal."""
    coincidence = np.zeros((len(table.values), len(table.values)))
    coincidence[table.first, table.second] = table.met @ weight
    total = coincidence.sum(1)
    distance = _distance(table.values, total, level)
    expected = total @ distance @ total
    if expected == 0:
        if constant is None:
            raise DataError(
                "krippendorff_alpha: all votes that can be compared are equal, so chance cannot be "
                "told from agreement. Add units that differ."
            )
        return constant
    return float(1 - (total.sum() - 1) * (coincidence * distance).sum() / expected)


def _distance(values: Array, total: Array, level: Level) -> Array:
    if level == "nominal":
        return 1 - np.eye(len(values))
    where = np.cumsum(total) - total / 2 if level == "ordinal" else values
    gap = np.subtract.outer(where, where)
    if level == "ratio":
        both = np.add.outer(values, values)
        gap = np.divide(gap, both, out=np.zeros_like(gap), where=both > 0)
    return np.asarray(gap**2)
