"""What must not break: the same pass/fail check on the same items, before and after."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from preftune.errors import DataError
from preftune.stats.paired import (
    PairedDifference,
    clustered_paired_difference,
    holm,
    paired_p_value,
)
from preftune.types import Response

Item = tuple[str, int]
"""A prompt id and which of its samples, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedSlice:
    """One slice of a check; `tag` is empty for all items."""

    tag: str
    difference: PairedDifference
    baseline_frac: float  # share of items the baseline passes
    candidate_frac: float
    at_risk: int  # clusters with an item the baseline passes: only there something can be lost
    p_value: float  # two-sided: both systems pass equally often
    p_holm: float  # the same after Holm's correction over the slices


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedCheck:
    """A pass/fail check of candidate and baseline on the same items, over all and per slice."""

    name: str
    overall: PairedSlice
    slices: tuple[PairedSlice, ...] = ()

    def slice(self, tag: str) -> PairedSlice | None:
        """Return the slice with this tag, all items for an empty tag, None for an unknown one."""
        return next((s for s in (self.overall, *self.slices) if s.tag == tag), None)


def check_responses(
    responses: Iterable[Response], check: Callable[[Response], bool]
) -> dict[Item, bool]:
    """Return whether each response passes, by prompt id and place among the prompt's samples."""
    found: dict[Item, bool] = {}
    samples: dict[str, int] = defaultdict(int)
    for response in responses:
        found[response.prompt_id, samples[response.prompt_id]] = bool(check(response))
        samples[response.prompt_id] += 1
    return found


def paired_check(
    name: str,
    *,
    baseline: Mapping[Item, bool],
    candidate: Mapping[Item, bool],
    tags: Mapping[str, Sequence[str]] | None = None,
    clusters: Mapping[str, str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> PairedCheck:
    """Return what the candidate gained and lost against the baseline, item by item.

    Args:
        name: how a gate will call the check.
        baseline: whether each item passed under the baseline; see `check_responses`.
        candidate: the same items under the candidate. Several samples per prompt on both sides
            average over the chance in sampling; they are clustered, not counted as new prompts.
        tags: slices of each prompt id.
        clusters: the independent unit of each prompt id, where several prompts ask for one fact
            in other words; the prompt itself when left out.
        level: one-sided level of the bounds.
        seed: of the bootstrap for the p-value.

    Raises:
        DataError: no items, or items that only one side has.
    """
    if not baseline or baseline.keys() != candidate.keys():
        odd = sorted(baseline.keys() ^ candidate.keys())
        named = f"first: prompt {odd[0][0]}, sample {odd[0][1]}" if odd else "both are empty"
        raise DataError(
            f"check {name}: {len(odd)} items on one side only ({named}). "
            "Check the same prompts and samples under both systems."
        )
    by_tag: dict[str, list[Item]] = defaultdict(list)
    for item in baseline:
        for tag in dict.fromkeys((tags or {}).get(item[0], ())):
            by_tag[tag].append(item)

    def measured(tag: str, items: Sequence[Item]) -> PairedSlice:
        before, after = [baseline[i] for i in items], [candidate[i] for i in items]
        units = [(clusters or {}).get(prompt_id, prompt_id) for prompt_id, _ in items]
        return _slice(tag, before, after, units, level=level, seed=seed)

    found = [measured(tag, by_tag[tag]) for tag in sorted(by_tag)]
    adjusted = holm([s.p_value for s in found])
    return PairedCheck(
        name=name,
        overall=measured("", list(baseline)),
        slices=tuple(replace(s, p_holm=p) for s, p in zip(found, adjusted, strict=True)),
    )


def _slice(
    tag: str,
    before: Sequence[bool],
    after: Sequence[bool],
    units: Sequence[str],
    *,
    level: float,
    seed: int,
) -> PairedSlice:
    p_value = paired_p_value(baseline=before, candidate=after, clusters=units, seed=seed)
    return PairedSlice(
        tag=tag,
        difference=clustered_paired_difference(
            baseline=before, candidate=after, clusters=units, level=level
        ),
        baseline_frac=sum(before) / len(before),
        candidate_frac=sum(after) / len(after),
        at_risk=len({unit for unit, passed in zip(units, before, strict=True) if passed}),
        p_value=p_value,
        p_holm=p_value,
    )
