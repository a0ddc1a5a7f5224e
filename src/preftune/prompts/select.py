"""Choose prompts to label: by slice and traffic, rare slices guaranteed, held-out ones never."""

import hashlib
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from preftune.errors import DataError, RowError, SettingsError
from preftune.files import atomic_open, open_binary
from preftune.lines import head_of
from preftune.prompts.dedupe import Group
from preftune.prompts.quotas import quotas
from preftune.prompts.rows import (
    beside,
    check_paths,
    read_again,
    read_rows,
    write_report,
)
from preftune.prompts.similar import content_key
from preftune.prompts.traffic import plain_tags, seen
from preftune.records import encode
from preftune.text import visible
from preftune.types import Prompt

ALL = "all"  # the one slice when no tags were named
NO_TAG = "(no tag)"


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectSettings:
    """Which prompts to choose, and how many."""

    n: Annotated[int, Meta(gt=0, description="Prompts to choose.")]
    by: Annotated[
        str, Meta(description="How the tags that make the slices begin, such as kind: .")
    ] = ""
    min_per_slice: Annotated[
        int, Meta(ge=0, description="Least of each slice, however rarely it is asked.")
    ] = 0
    traffic_weight: Annotated[
        float,
        Meta(ge=0, le=1, description="0: every prompt alike; 1: as often as asked; .5: between."),
    ] = 0.5
    held_out: Annotated[
        float, Meta(ge=0, lt=1, description="Share of each slice to hold out for the evaluation.")
    ] = 0.0
    seed: Annotated[int, Meta(ge=0, description="Another seed, other prompts.")] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceCount:
    """One slice: prompts held out, offered and chosen, and shares of what is offered and chosen."""

    name: str
    held_out: int
    available: int
    chosen: int
    traffic_frac: float  # of all times that offered prompts were asked
    chosen_frac: float  # of all prompts chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectReport:
    """What was chosen; prompts = excluded + held_out + available."""

    source: str
    prompts: int
    excluded: int  # or near to one that is
    held_out: int
    available: int
    chosen: int
    asked_for: int
    min_per_slice: int
    seed: int
    slices: tuple[SliceCount, ...]

    @property
    def unfilled(self) -> tuple[SliceCount, ...]:
        """The slices with fewer prompts than each was to give."""
        return tuple(one for one in self.slices if one.chosen < self.min_per_slice)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The ids of prompts to label and of prompts held out; no content is in both."""

    chosen: frozenset[str]
    held_out: frozenset[str]
    prompts: int  # there were
    excluded: int
    slices: tuple[SliceCount, ...]


def select_file(
    source: Path,
    out: Path,
    settings: SelectSettings,
    *,
    exclude: Path | None = None,
    groups: Path | None = None,
    held_out_out: Path | None = None,
) -> SelectReport:
    """Write the chosen prompts to `out` and those held out to `OUT.held-out.jsonl`.

    Args:
        source: prompts, tagged `seen:N` or not.
        out: where to, in the order of `source`.
        settings: how many, of what.
        exclude: prompts that must not be offered, such as those held out before.
        groups: what `dedupe` wrote; prompts of one group are never on both sides.
        held_out_out: where held-out prompts go, if not beside `out`.

    Raises:
        RowError: a row is no prompt, or no group.
        DataError: a file cannot be read, or two prompts have one id.
        SettingsError: settings that contradict each other.
    """
    if exclude and settings.held_out:
        raise SettingsError("--held-out and --exclude: give one, either hold out anew or keep out.")
    held_out_path = held_out_out or beside(out, "held-out.jsonl")
    check_paths([source, exclude, groups], [out, held_out_path])
    found = select(
        (prompt for _, prompt in read_rows(source, Prompt)),
        settings,
        exclude=(prompt for _, prompt in read_rows(exclude, Prompt)) if exclude else (),
        groups=read_groups(groups),
    )
    with ExitStack() as files:
        out_file = files.enter_context(atomic_open(out))
        held_file = files.enter_context(atomic_open(held_out_path)) if settings.held_out else None
        for prompt in read_again(source, Prompt):
            if prompt.id in found.chosen:
                out_file.write(encode(prompt))
            elif held_file and prompt.id in found.held_out:
                held_file.write(encode(prompt))
    report = SelectReport(
        source=source.name,
        prompts=found.prompts,
        excluded=found.excluded,
        held_out=len(found.held_out),
        available=found.prompts - found.excluded - len(found.held_out),
        chosen=len(found.chosen),
        asked_for=settings.n,
        min_per_slice=settings.min_per_slice,
        seed=settings.seed,
        slices=found.slices,
    )
    write_report(out, report)
    return report


def select(
    prompts: Iterable[Prompt],
    settings: SelectSettings,
    *,
    exclude: Iterable[Prompt] = (),
    groups: Iterable[Group] = (),
) -> Selection:
    """Return what to label and what to hold out; the order of the prompts changes nothing.

    Prompts of equal content, or of one group, share their fate: all held out, or all offered. Of
    each slice so many are held out, drawn alike; so many are chosen as `quotas` says by the sum of
    seen^traffic_weight, each with a chance that grows with its own. Of each prompt some 300 bytes
    stay in memory, however long it is.

    Raises:
        DataError: two prompts have one id.
        SettingsError: `n` is less than the slices are guaranteed.
    """
    offers = [_offer(prompt, settings.by) for prompt in prompts]
    if len({one.id for one in offers}) < len(offers):
        raise DataError("two prompts have one id. Run `preftune prompts dedupe` first.")
    excluded = [_offer(prompt, settings.by) for prompt in exclude]
    family = families([*offers, *excluded], groups)
    closed = {family[one.id] for one in excluded}
    offered = [one for one in offers if family[one.id] not in closed]
    held = _held_out(offered, family, settings)
    slices = _by_slice(one for one in offered if one.id not in held)
    sizes = {name: len(inside) for name, inside in slices.items()}
    _check_floor(sizes, settings)
    weights = {
        name: math.fsum(_weight(one, settings) for one in inside) for name, inside in slices.items()
    }
    shares = quotas(weights, sizes, n=settings.n, floor=settings.min_per_slice)
    chosen = {
        one.id
        for name, inside in slices.items()
        for one in sorted(inside, key=lambda one: _rank(one, settings))[: shares[name]]
    }
    return Selection(
        chosen=frozenset(chosen),
        held_out=frozenset(held),
        prompts=len(offers),
        excluded=len(offers) - len(offered),
        slices=_counts(_by_slice(offered), held, chosen),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What counts of a prompt for choosing it."""

    id: str
    content: str  # equal for prompts that are the same
    slice: str
    seen: int


def _offer(prompt: Prompt, by: str) -> Offer:
    return Offer(
        id=prompt.id,
        content=content_key(prompt),
        slice=sys.intern(slice_of(prompt, by)),
        seen=seen(prompt),
    )


def families(offers: Iterable[Offer], groups: Iterable[Group]) -> dict[str, str]:
    """Return the family of each prompt id: equal for equal content and within a group."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while (parent := above.setdefault(name, name)) != name:
            above[name] = above[parent]
            name = parent
        return name

    def join(one: str, other: str) -> None:
        first, second = sorted((top(one), top(other)))
        above[second] = first

    for one in groups:
        for member in one.dropped:
            join(one.kept, member.id)
    ids = []
    for offer in offers:
        join(offer.id, offer.content)
        ids.append(offer.id)
    return {id: top(id) for id in ids}


def read_groups(path: Path | None) -> list[Group]:
    """Return the groups that `dedupe` wrote; an empty file says that no prompt stands for another.

    Raises:
        RowError: a row is no group.
        DataError: the file cannot be read.
    """
    if path is None or (path.is_file() and not path.stat().st_size):
        return []
    head_of(path)
    groups: list[Group] = []
    with open_binary(path) as file:
        for line, text in enumerate(file, start=1):
            try:
                groups.append(msgspec.json.decode(text, type=Group))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                fix = "Give the groups file of `preftune prompts dedupe`."
                raise RowError(path, line, visible(str(error)), fix) from error
    return groups


def slice_of(prompt: Prompt, by: str) -> str:
    """Return the slice of a prompt: its tags that begin with `by`, several joined by ` + `."""
    if not by:
        return ALL
    return " + ".join(sorted(t for t in plain_tags(prompt) if t.startswith(by))) or NO_TAG


def _held_out(
    offered: Sequence[Offer], family: Mapping[str, str], settings: SelectSettings
) -> set[str]:
    """Return the ids held out: of each slice whole families, in an order drawn by the seed."""
    if not settings.held_out:
        return set()
    members: dict[str, list[Offer]] = defaultdict(list)
    for one in sorted(offered, key=attrgetter("id")):
        members[family[one.id]].append(one)
    homes: dict[str, list[list[Offer]]] = defaultdict(list)
    for inside in members.values():
        homes[inside[0].slice].append(inside)
    held: set[str] = set()
    for groups in homes.values():
        wanted = settings.held_out * sum(map(len, groups))
        taken = 0
        for inside in sorted(groups, key=lambda g: _drawn(settings.seed, "held out", g[0].id)):
            if taken + len(inside) / 2 <= wanted:
                held |= {one.id for one in inside}
                taken += len(inside)
    return held


def _by_slice(offers: Iterable[Offer]) -> dict[str, list[Offer]]:
    slices: dict[str, list[Offer]] = defaultdict(list)
    for one in offers:
        slices[one.slice].append(one)
    return dict(sorted(slices.items()))


def _check_floor(sizes: Mapping[str, int], settings: SelectSettings) -> None:
    least = sum(min(settings.min_per_slice, size) for size in sizes.values())
    if least > settings.n:
        raise SettingsError(
            f"--n {settings.n}: {len(sizes)} slices with --min-per-slice {settings.min_per_slice} "
            f"take {least}. Choose more, or guarantee less."
        )


def _rank(one: Offer, settings: SelectSettings) -> float:
    """Return the place of a prompt in its slice: the lower, the sooner chosen.

    Drawing -log(u) / weight and taking the smallest draws without putting back, by weight.

    Source: Efraimidis and Spirakis 2006, Weighted random sampling with a reservoir.
    """
    u = _drawn(settings.seed, "chosen", one.id)
    return -math.log(u) / _weight(one, settings)


def _weight(one: Offer, settings: SelectSettings) -> float:
    return math.pow(one.seen, settings.traffic_weight)


def _drawn(seed: int, what: str, id: str) -> float:
    """Return a number above 0, at most 1, that only seed, purpose and prompt decide."""
    digest = hashlib.sha256(f"{seed}\n{what}\n{id}".encode()).digest()
    return (int.from_bytes(digest[:8]) + 1) / 2**64


def _counts(
    offered: Mapping[str, list[Offer]], held: set[str], chosen: set[str]
) -> tuple[SliceCount, ...]:
    asked_of = {
        name: sum(one.seen for one in inside if one.id not in held)
        for name, inside in offered.items()
    }
    total = sum(asked_of.values())
    return tuple(
        SliceCount(
            name=name,
            held_out=(held_here := sum(one.id in held for one in inside)),
            available=len(inside) - held_here,
            chosen=(chosen_here := sum(one.id in chosen for one in inside)),
            traffic_frac=asked_of[name] / total if total else 0.0,
            chosen_frac=chosen_here / len(chosen) if chosen else 0.0,
        )
        for name, inside in offered.items()
    )
