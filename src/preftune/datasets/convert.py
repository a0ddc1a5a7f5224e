"""Turn one kind of record into another: ranked lists into pairs, pairs into demonstrations."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any, Literal

from preftune.datasets.formats.columns import demonstration_id, pair_id, unpaired_id
from preftune.datasets.formats.row import KIND_NAMES
from preftune.errors import DataError
from preftune.types import (
    Demonstration,
    PreferencePair,
    Prompt,
    RankedList,
    Record,
    UnpairedRow,
)

Target = Literal["pairs", "best-worst", "unpaired", "demonstrations", "prompts"]
KIND_OF: dict[Target, type[Record]] = {
    "pairs": PreferencePair,
    "best-worst": PreferencePair,
    "unpaired": UnpairedRow,
    "demonstrations": Demonstration,
    "prompts": Prompt,
}
"""The kind of record that each target is made of."""

_HAVE_TURNS = frozenset({"id", "responses", "ranks", "chosen", "rejected", "response"})


def target_named(name: str) -> Target:
    """Return the target of that name; raise `DataError` when there is none."""
    for target in KIND_OF:
        if target == name:
            return target
    raise DataError(f"target {name!r}: not known. Use one of: {', '.join(KIND_OF)}.")


def convert(records: Iterable[Record], target: Target, lost: Counter[str]) -> Iterator[Record]:
    """Yield the records turned into `target`; those that are it already pass unchanged.

    What the new record has no place for is added to `lost`, by field. Tied or equal responses
    make no pair and repeated prompts are given once; all are counted there too.

    Args:
        records: of any kind; one pass, in order.
        target: `pairs` makes every pair of a ranked list that is not tied, `best-worst` just the
            first against the last; `unpaired` makes two rows of a pair; `demonstrations` keeps the
            chosen or best response, or the desirable one.
        lost: filled while the result is read.

    Raises:
        DataError: a kind of record that cannot become `target`.
    """
    seen: set[str] = set()
    for record in records:
        made = _made(record, target, lost)
        for one in made:
            if isinstance(one, Prompt):
                if one.id in seen:
                    lost["repeated prompt"] += 1
                    continue
                seen.add(one.id)
            yield one


def _made(record: Record, target: Target, lost: Counter[str]) -> list[Record]:
    if isinstance(record, KIND_OF[target]):
        return [record]
    maker = _MAKERS.get((type(record), target))
    if maker is None:
        possible = sorted({name for kind, name in _MAKERS if kind is type(record)})
        fix = f"They can become {', '.join(possible)}." if possible else "Write preftune."
        raise DataError(f"record {record.id!r}: {KIND_NAMES[type(record)]} hold no {target}. {fix}")
    made = maker(record, lost)
    if made:
        lost.update(_left_out(record, made[0]))
    return made


def _left_out(record: Record, made: Record) -> list[str]:
    """Return the fields of `record` that say something and that `made` has no place for."""
    kept = {field.name for field in dataclasses.fields(made)} | _HAVE_TURNS
    if isinstance(made, PreferencePair):
        kept = kept | {"scores"}
    told = [f for f in dataclasses.fields(record) if f.name not in kept and f.name != "desirable"]
    return [f.name for f in told if getattr(record, f.name) != _default(f)]


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _all_pairs(ranked: RankedList, lost: Counter[str]) -> list[Record]:
    made: list[Record] = []
    for better, worse in combinations(range(len(ranked.responses)), 2):
        made += _pair(ranked, better, worse, lost)
    return made


def _best_worst(ranked: RankedList, lost: Counter[str]) -> list[Record]:
    made = _pair(ranked, 0, len(ranked.responses) - 1, lost)
    if made:
        lost["responses between best and worst"] += len(ranked.responses) - 2
    return made


def _pair(ranked: RankedList, better: int, worse: int, lost: Counter[str]) -> list[Record]:
    """Return the pair of two places, or none where they are tied or say the same."""
    chosen, rejected = ranked.responses[better], ranked.responses[worse]
    if ranked.ranks[better] == ranked.ranks[worse]:
        lost["tied responses, no pair"] += 1
        return []
    if chosen == rejected:
        lost["equal responses, no pair"] += 1
        return []
    pair = PreferencePair(
        id=pair_id(ranked.prompt, chosen, rejected),
        prompt=ranked.prompt,
        chosen=chosen,
        rejected=rejected,
        weight=ranked.weight,
        dimension=ranked.dimension,
        chosen_score=ranked.scores[better] if ranked.scores else None,
        rejected_score=ranked.scores[worse] if ranked.scores else None,
        why=ranked.why,
        provenance=ranked.provenance,
    )
    return [pair]


def _demonstration(
    record: PreferencePair | RankedList | UnpairedRow, lost: Counter[str]
) -> list[Record]:
    match record:
        case PreferencePair():
            response, left_out = record.chosen, 1
        case RankedList():
            response, left_out = record.responses[0], len(record.responses) - 1
        case UnpairedRow():
            if not record.desirable:
                lost["undesirable response"] += 1
                return []
            response, left_out = record.response, 0
    lost["rejected response"] += left_out
    identity = demonstration_id(record.prompt, response)
    return [
        Demonstration(id=identity, prompt=record.prompt, response=response, weight=record.weight)
    ]


def _unpaired(pair: PreferencePair, _lost: Counter[str]) -> list[Record]:
    return [
        UnpairedRow(
            id=unpaired_id(pair.prompt, response, desirable=desirable),
            prompt=pair.prompt,
            response=response,
            desirable=desirable,
            weight=pair.weight,
            dimension=pair.dimension,
            provenance=pair.provenance,
        )
        for response, desirable in ((pair.chosen, True), (pair.rejected, False))
    ]


def _prompt(
    record: PreferencePair | RankedList | UnpairedRow | Demonstration, lost: Counter[str]
) -> list[Record]:
    lost["responses"] += 1
    return [record.prompt]


_MAKERS: dict[tuple[type[Record], str], Callable[..., list[Record]]] = {
    (RankedList, "pairs"): _all_pairs,
    (RankedList, "best-worst"): _best_worst,
    (RankedList, "demonstrations"): _demonstration,
    (PreferencePair, "demonstrations"): _demonstration,
    (UnpairedRow, "demonstrations"): _demonstration,
    (PreferencePair, "unpaired"): _unpaired,
    **{
        (kind, "prompts"): _prompt
        for kind in (PreferencePair, RankedList, UnpairedRow, Demonstration)
    },
}
