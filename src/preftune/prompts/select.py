"""Choose prompts to label: by slice and traffic, rare slices guaranteed, held-out ones never."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from preftune.errors import DataError, RowError, SettingsError
from preftune.files import atomic_open, open_binary
from preftune.lines import head_of
from preftune.prompts.dedupe import Group
from preftune.prompts.quotas import quotas
from preftune.prompts.rows import beside, check_paths, printable, read_rows, write_report
from preftune.prompts.similar import content_key
from preftune.prompts.traffic import plain_tags, seen
from preftune.records import encode
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
    """Prompts to label and prompts held out; no content is in both."""

    chosen: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
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
    prompts = [prompt for _, prompt in read_rows(source, Prompt)]
    kept_out = [prompt for _, prompt in read_rows(exclude, Prompt)] if exclude else []
    found = select(prompts, settings, exclude=kept_out, groups=read_groups(groups))
    if settings.held_out:
        _write(held_out_path, found.held_out)
    _write(out, found.chosen)
    report = SelectReport(
        source=source.name,
        prompts=len(prompts),
        excluded=found.excluded,
        held_out=len(found.held_out),
        available=len(prompts) - found.excluded - len(found.held_out),
        chosen=len(found.chosen),
        asked_for=settings.n,
        min_per_slice=settings.min_per_slice,
        seed=settings.seed,
        slices=found.slices,
    )
    write_report(out, report)
    return report


def select(
    prompts: Sequence[Prompt],
    settings: SelectSettings,
    *,
    exclude: Iterable[Prompt] = (),
    groups: Iterable[Group] = (),
) -> Selection:
    """Return what to label and what to hold out; the order of the prompts changes nothing.

    Prompts of equal content, or of one group, share their fate: all held out, or all offered. Of
    each slice so many are held out, drawn alike; so many are chosen as `quotas` says by the sum of
    seen^traffic_weight, each with a chance that grows with its own.

    Raises:
        DataError: two prompts have one id.
        SettingsError: `n` is less than the slices are guaranteed.
    """
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise DataError("two prompts have one id. Run `preftune prompts dedupe` first.")
    family = families([*prompts, *(excluded := list(exclude))], groups)
    closed = {family[prompt.id] for prompt in excluded}
    offered = [prompt for prompt in prompts if family[prompt.id] not in closed]
    held = _held_out(offered, family, settings)
    available = [prompt for prompt in offered if prompt.id not in held]
    slices = _by_slice(available, settings.by)
    sizes = {name: len(inside) for name, inside in slices.items()}
    _check_floor(sizes, settings)
    weights = {
        name: math.fsum(_weight(prompt, settings) for prompt in inside)
        for name, inside in slices.items()
    }
    shares = quotas(weights, sizes, n=settings.n, floor=settings.min_per_slice)
    chosen = {
        prompt.id
        for name, inside in slices.items()
        for prompt in sorted(inside, key=lambda prompt: _rank(prompt, settings))[: shares[name]]
    }
    return Selection(
        chosen=tuple(prompt for prompt in prompts if prompt.id in chosen),
        held_out=tuple(prompt for prompt in prompts if prompt.id in held),
        excluded=len(prompts) - len(offered),
        slices=_counts(_by_slice(offered, settings.by), held, chosen),
    )


def families(prompts: Iterable[Prompt], groups: Iterable[Group]) -> dict[str, str]:
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
    for prompt in prompts:
        join(prompt.id, content_key(prompt))
        ids.append(prompt.id)
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
                raise RowError(path, line, printable(str(error)), fix) from error
    return groups


def slice_of(prompt: Prompt, by: str) -> str:
    """Return the slice of a prompt: its tags that begin with `by`, several joined by ` + `."""
    if not by:
        return ALL
    return " + ".join(sorted(t for t in plain_tags(prompt) if t.startswith(by))) or NO_TAG


def _held_out(
    offered: Sequence[Prompt], family: Mapping[str, str], settings: SelectSettings
) -> set[str]:
    """Return the ids held out: of each slice whole families, in an order drawn by the seed."""
    if not settings.held_out:
        return set()
    members: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in sorted(offered, key=lambda prompt: prompt.id):
        members[family[prompt.id]].append(prompt)
    homes: dict[str, list[list[Prompt]]] = defaultdict(list)
    for inside in members.values():
        homes[slice_of(inside[0], settings.by)].append(inside)
    held: set[str] = set()
    for groups in homes.values():
        wanted = settings.held_out * sum(map(len, groups))
        taken = 0
        for inside in sorted(groups, key=lambda g: _drawn(settings.seed, "held out", g[0].id)):
            if taken + len(inside) / 2 <= wanted:
                held |= {prompt.id for prompt in inside}
                taken += len(inside)
    return held


def _by_slice(prompts: Iterable[Prompt], by: str) -> dict[str, list[Prompt]]:
    slices: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        slices[slice_of(prompt, by)].append(prompt)
    return dict(sorted(slices.items()))


def _check_floor(sizes: Mapping[str, int], settings: SelectSettings) -> None:
    least = sum(min(settings.min_per_slice, size) for size in sizes.values())
    if least > settings.n:
        raise SettingsError(
            f"--n {settings.n}: {len(sizes)} slices with --min-per-slice {settings.min_per_slice} "
            f"take {least}. Choose more, or guarantee less."
        )


def _rank(prompt: Prompt, settings: SelectSettings) -> float:
    """Return the place of a prompt in its slice: the lower, the sooner chosen.

    Drawing -log(u) / weight and taking the smallest draws without putting back, by weight.

    Source: Efraimidis and Spirakis 2006, Weighted random sampling with a reservoir.
    """
    u = _drawn(settings.seed, "chosen", prompt.id)
    return -math.log(u) / _weight(prompt, settings)


def _weight(prompt: Prompt, settings: SelectSettings) -> float:
    return math.pow(seen(prompt), settings.traffic_weight)


def _drawn(seed: int, what: str, id: str) -> float:
    """Return a number above 0, at most 1, that only seed, purpose and prompt decide."""
    digest = hashlib.sha256(f"{seed}\n{what}\n{id}".encode()).digest()
    return (int.from_bytes(digest[:8]) + 1) / 2**64


def _counts(
    offered: Mapping[str, list[Prompt]], held: set[str], chosen: set[str]
) -> tuple[SliceCount, ...]:
    asked_of = {
        name: sum(seen(prompt) for prompt in inside if prompt.id not in held)
        for name, inside in offered.items()
    }
    total = sum(asked_of.values())
    return tuple(
        SliceCount(
            name=name,
            held_out=(held_here := sum(prompt.id in held for prompt in inside)),
            available=len(inside) - held_here,
            chosen=(chosen_here := sum(prompt.id in chosen for prompt in inside)),
            traffic_frac=asked_of[name] / total if total else 0.0,
            chosen_frac=chosen_here / len(chosen) if chosen else 0.0,
        )
        for name, inside in offered.items()
    )


def _write(path: Path, prompts: Iterable[Prompt]) -> None:
    with atomic_open(path) as file:
        for prompt in prompts:
            file.write(encode(prompt))
