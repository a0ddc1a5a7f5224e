"""Drop prompts that were asked before, exactly or nearly; the most seen one stays."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from preftune.errors import DataError
from preftune.files import atomic_open
from preftune.progress import progress
from preftune.prompts.rows import beside, check_paths, read_rows, write_report
from preftune.prompts.similar import NearIndex, content_key
from preftune.prompts.traffic import Tags, asked, plain_tags, seen, united
from preftune.records import encode
from preftune.types import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A prompt that was dropped: how alike it is to the one kept, 1.0 when exactly the same."""

    id: str
    seen: int
    likeness: float
    exact: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A prompt that stands for others; `seen` is how often all of them were asked."""

    kept: str
    seen: int
    dropped: tuple[Member, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DedupeReport:
    """What became of the prompts: prompts = written + exact + near."""

    source: str
    prompts: int
    written: int
    exact: int  # dropped: the same as another but for case, white space and Unicode form
    near: int  # dropped: of at least `threshold` likeness to the one kept
    threshold: float | None
    groups: int  # prompts that stand for others
    seen: int  # how often all were asked; the same before and after


def dedupe_file(
    source: Path, out: Path, *, near: float | None = None, groups_out: Path | None = None
) -> DedupeReport:
    """Write the prompts that stay to `out`, and who stands for whom to `OUT.groups.jsonl`.

    Args:
        source: prompts, tagged `seen:N` or not.
        out: where to, in the order of `source`.
        near: likeness above 0, at most 1, from which two prompts are the same; None: exact only.
        groups_out: where to put the groups, if not beside `out`.

    Raises:
        RowError: a row is no prompt.
        DataError: the file cannot be read, or a count is broken.
        SettingsError: `near` is out of range.
    """
    groups_path = groups_out or beside(out, "groups.jsonl")
    check_paths([source], [out, groups_path])
    prompts = [prompt for _, prompt in read_rows(source, Prompt)]
    groups = group(prompts, near=near)
    with atomic_open(groups_path) as file:
        for one in groups:
            if one.dropped:
                file.write(msgspec.json.encode(one) + b"\n")
    with atomic_open(out) as file:
        for prompt in kept(prompts, groups):
            file.write(encode(prompt))
    dropped = [member for one in groups for member in one.dropped]
    report = DedupeReport(
        source=source.name,
        prompts=len(prompts),
        written=len(groups),
        exact=sum(member.exact for member in dropped),
        near=sum(not member.exact for member in dropped),
        threshold=near,
        groups=sum(bool(one.dropped) for one in groups),
        seen=sum(one.seen for one in groups),
    )
    write_report(out, report)
    return report


def group(prompts: Sequence[Prompt], *, near: float | None = None) -> list[Group]:
    """Return who stands for whom, every prompt in just one, in the order of the prompts.

    The most seen prompt of equal content stays, then the most seen of those that are near: every
    one dropped is itself near to the one that stays, never by way of a third. The order of the
    prompts changes nothing but the order of the groups.
    """
    ranked = sorted(prompts, key=lambda prompt: (-seen(prompt), prompt.id, prompt.tags))
    firsts: dict[str, Prompt] = {}
    dropped: dict[str, list[Member]] = {}
    for prompt in ranked:
        first = firsts.setdefault(content_key(prompt), prompt)
        if first is not prompt:
            dropped[first.id].append(_member(prompt, 1.0, exact=True))
        elif prompt.id in dropped:
            raise DataError(f"prompt {prompt.id}: two prompts have this id. Give each its own.")
        else:
            dropped[prompt.id] = []
    if near is not None:
        _join_near(firsts.values(), near, dropped)
    counts = {prompt.id: seen(prompt) for prompt in firsts.values()}
    return [
        Group(
            kept=id,
            seen=counts[id] + sum(member.seen for member in dropped[id]),
            dropped=tuple(dropped[id]),
        )
        for id in dict.fromkeys(prompt.id for prompt in prompts)
        if id in dropped
    ]


def kept(prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[Prompt]:
    """Return the prompts that stay, with the count and the tags of those they stand for."""
    by_id: dict[str, Prompt] = {}
    tags: dict[str, Tags] = {}
    for prompt in prompts:
        by_id.setdefault(prompt.id, prompt)
        tags[prompt.id] = united(tags.get(prompt.id, ()), plain_tags(prompt))
    staying: list[Prompt] = []
    for one in groups:
        all_tags = tags[one.kept]
        for member in one.dropped:
            all_tags = united(all_tags, tags[member.id])
        staying.append(asked(replace(by_id[one.kept], tags=all_tags), one.seen))
    return staying


def _join_near(ranked: Collection[Prompt], near: float, dropped: dict[str, list[Member]]) -> None:
    """Move each prompt that is near to one more seen, and what it stands for, to that one."""
    index = NearIndex(near)
    with progress("comparing", len(ranked)) as advance:
        for prompt in ranked:
            advance()
            if found := index.nearest_or_add(prompt):
                staying, alike = found
                same = dropped.pop(prompt.id)
                joined = dropped[staying.id]
                joined.append(_member(prompt, alike, exact=False))
                joined += (replace(member, likeness=alike, exact=False) for member in same)


def _member(prompt: Prompt, alike: float, *, exact: bool) -> Member:
    return Member(id=prompt.id, seen=seen(prompt), likeness=alike, exact=exact)
