"""What a reward model learns from: pairs, whose records stay in their file, or ranked lists."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from preftune.datasets import dataset_hash, scan
from preftune.errors import DataError, SettingsError
from preftune.models.chat import Chat
from preftune.text import visible
from preftune.training.facts import Leans, lean_of
from preftune.training.listwise_rows import (
    RankedRow,
    one_pair_each,
    ranked_rows,
    read_either,
    read_held_out,
    rows_that_fit,
)
from preftune.training.method_settings import RewardSettings
from preftune.training.rows import PairRow, TokenRows
from preftune.training.run import Run
from preftune.training.tokenise import pair_rows, read_pair_rows
from preftune.types import PreferencePair, RankedList

WITH_TIES = ("davidson", "rao-kupper")
PER_LIST = ("plackett-luce", "all-pairs", "best-of-k")

PreferenceRow = PairRow | RankedRow
R = TypeVar("R", bound=PreferencePair | RankedList)
Material = TokenRows[PairRow] | Sequence[RankedList]


def read_material(path: Path, chat: Chat, *, dimension: str = "") -> Material:
    """Return the rows of a file of pairs, or the ranked lists of a file of those.

    Args:
        path: the file.
        chat: tokens and template.
        dimension: take the records of this dimension alone, and hold them in memory; empty: all.

    Raises:
        DataError: it holds anything else, or both, or rows that cannot be used, or none of the
            dimension.
    """
    first = next(scan(path).rows).record
    if isinstance(first, PreferencePair) and not dimension:
        return read_pair_rows(path, chat)
    everything = [*read_either(path, RankedList, PreferencePair)]
    records = of_dimension(everything, dimension, path)
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    if pairs:
        return pair_rows(pairs, chat)
    return [record for record in records if isinstance(record, RankedList)]


def read_held_out_of(path: Path | None, dimension: str) -> list[PreferencePair]:
    """Return the pairs of a held-out file, one of each ranked list, of one dimension or of all.

    Raises:
        DataError: the file gives no pair of the dimension.
    """
    pairs = read_held_out(path)
    return pairs if path is None else of_dimension(pairs, dimension, path)


def of_dimension(records: Sequence[R], dimension: str, path: Path) -> list[R]:
    """Return the records of one dimension; all of them if it is empty.

    Raises:
        DataError: there is none; names the dimensions that there are.
    """
    if not dimension:
        return list(records)
    kept = [record for record in records if record.dimension == dimension]
    if not kept:
        there = sorted({visible(record.dimension) for record in records})
        raise DataError(
            f"{path}: no record of dimension {visible(dimension)!r}. There are: {', '.join(there)}."
        )
    return kept


def material_hash(material: Material) -> str:
    """Return the SHA-256 of all records, 64 hex digits."""
    if isinstance(material, TokenRows):
        return material.data_hash
    return dataset_hash(material)


def leans_of(material: Material) -> Leans:
    """Return which side is the longer text, per pair; of each ranked list, of one pair drawn."""
    if isinstance(material, TokenRows):
        return material.facts["lean"]
    return map(lean_of, one_pair_each(material))


def tie_share(ranks: Sequence[tuple[int, ...]]) -> float:
    """Return which share of the comparisons in these lists is tied."""
    tied = sum(places.count(place) - 1 for places in ranks for place in places) / 2
    return tied / sum(len(places) * (len(places) - 1) / 2 for places in ranks)


def check_data(material: Material, s: RewardSettings) -> None:
    """Refuse what the objective has no place for, and options that would change nothing.

    Raises:
        DataError: ties, or lists without an order, that the objective cannot use.
        SettingsError: an objective or option that the records give no cause for.
    """
    if isinstance(material, TokenRows):
        _check_pairs(material, s)
    else:
        _check_lists(material, s)


def _check_pairs(pairs: TokenRows[PairRow], s: RewardSettings) -> None:
    if s.objective != "bradley-terry":
        raise SettingsError(
            f"objective {s.objective} needs ranked lists and {s.data} holds pairs. "
            "Use bradley-terry, or give ranked lists; two equal ranks are a tie."
        )
    if s.ties == "half":
        raise SettingsError(f"ties half changes nothing: {s.data} holds pairs. Leave it out.")
    if s.label == "soft" and (pairs.facts["probability"] == 1.0).all():
        raise SettingsError(
            f"label soft changes nothing: no pair of {s.data} has a probability below 1. "
            "Use label hard."
        )
    if s.label == "margin" and not (pairs.facts["strength"] > 0).any():
        raise SettingsError(
            f"label margin changes nothing: no pair of {s.data} has a strength above 0. "
            "Use label hard."
        )


def _check_lists(lists: Sequence[RankedList], s: RewardSettings) -> None:
    if s.label != "hard":
        raise SettingsError(
            f"label {s.label} needs pairs: {s.data} holds ranked lists. Use label hard."
        )
    share = tie_share([record.ranks for record in lists])
    if share and s.objective == "bradley-terry" and s.ties == "refuse":
        tied = [record for record in lists if len(set(record.ranks)) < len(record.ranks)]
        raise DataError(
            f"{s.data}: {len(tied)} of {len(lists)} lists hold ties, the first is {tied[0].id}. "
            "Use --objective davidson, which learns from them, or --ties half."
        )
    if not share and (s.objective in WITH_TIES or s.ties == "half"):
        option = f"objective {s.objective}" if s.objective in WITH_TIES else "ties half"
        raise SettingsError(
            f"{option} changes nothing: {s.data} holds no ties. Use objective bradley-terry alone."
        )
    if share == 1.0:
        raise DataError(f"{s.data}: every comparison is a tie. Give lists with an order.")
    if s.objective in PER_LIST:
        _refuse_without_order(lists, s)


def _refuse_without_order(lists: Sequence[RankedList], s: RewardSettings) -> None:
    """Refuse lists that put nothing above anything, or no one response above all others."""
    if s.objective == "best-of-k":
        unusable = [record for record in lists if record.ranks.count(record.ranks[0]) > 1]
        what = "have no single best response"
    else:
        unusable = [record for record in lists if len(set(record.ranks)) == 1]
        what = "put no response above another"
    if unusable:
        raise DataError(
            f"{s.data}: {len(unusable)} of {len(lists)} lists {what}, the first is "
            f"{unusable[0].id}. Leave them out, or use --objective davidson."
        )


def preference_rows(
    run: Run, material: Material, chat: Chat, s: RewardSettings
) -> Sequence[PreferenceRow]:
    """Return the token rows of pairs or ranked lists that fit and that end as they must."""
    if isinstance(material, TokenRows):
        pairs = run.rows_that_fit(material, s.length, chat)
        check_ends([pairs[place] for place in _ends_elsewhere(pairs, chat)], chat)
        return pairs
    rows = rows_that_fit(run, ranked_rows(material, chat), material, s.length, chat)
    check_ends(rows, chat)
    return rows


def _ends_elsewhere(rows: TokenRows[PairRow], chat: Chat) -> Iterator[int]:
    """Yield where a response doesn't end in an own token that ends a turn, without making rows."""
    last = rows.arrays.spans[..., 3] - 1
    ends = rows.arrays.own[last] & np.isin(rows.arrays.ids[last], chat.end_ids)
    yield from np.flatnonzero(~ends.all(axis=1)).tolist()


def check_ends(rows: Sequence[PreferenceRow], chat: Chat) -> None:
    """Refuse a response whose last own token, where it is scored, doesn't end a turn.

    Raises:
        DataError: names the row.
    """
    for row in rows:
        for sequence in row.sequences:
            last = next((i for i in reversed(range(len(sequence))) if sequence.own[i]), None)
            if last is None or sequence.ids[last] not in chat.end_ids:
                raise DataError(
                    f"row {row.number + 1}: a response doesn't end with an end of turn, where it "
                    "is scored. Remove it, or give a chat template that ends turns."
                )
