"""Drop prompts that were asked before, exactly or nearly; the most seen one stays."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

import msgspec

from preftune.errors import DataError
from preftune.files import atomic_open, make_folder
from preftune.progress import progress
from preftune.prompts.near_index import NearIndex
from preftune.prompts.rows import beside, check_paths, read_again, read_rows, write_report
from preftune.prompts.similar import content_key
from preftune.prompts.traffic import (
    LogRows,
    Tags,
    asked,
    log_rows_of,
    plain_tags,
    seen,
    united,
)
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
    make_folder(out.parent)
    groups = group((prompt for _, prompt in read_rows(source, Prompt)), near=near, work=out.parent)
    with atomic_open(groups_path) as file:
        for one in groups:
            if one.dropped:
                file.write(msgspec.json.encode(one) + b"\n")
    with atomic_open(out) as file:
        for prompt in kept(lambda: read_again(source, Prompt), groups):
            file.write(encode(prompt))
    dropped = [member for one in groups for member in one.dropped]
    report = DedupeReport(
        source=source.name,
        prompts=len(groups) + len(dropped),
        written=len(groups),
        exact=sum(member.exact for member in dropped),
        near=sum(not member.exact for member in dropped),
        threshold=near,
        groups=sum(bool(one.dropped) for one in groups),
        seen=sum(one.seen for one in groups),
    )
    write_report(out, report)
    return report


def group(
    prompts: Iterable[Prompt], *, near: float | None = None, work: Path | None = None
) -> list[Group]:
    """Return who stands for whom, every prompt in just one, in the order of the prompts.

    The most seen prompt of equal content stays, then the most seen of those that are near: every
    one dropped is itself near to the one that stays, never by way of a third. The order of the
    prompts changes nothing but the order of the groups.

    Args:
        prompts: read once; in memory stay about 700 bytes of each, however long it is.
        near: likeness above 0, at most 1, from which two prompts are the same; None: exact only.
        work: folder for a file without a name; None: the system's temporary folder.

    Raises:
        DataError: two contents have one id, or a count is broken.
        SettingsError: `near` is out of range.
    """
    with TemporaryFile(dir=work) as file:
        index = None if near is None else NearIndex(near, file)
        read: list[_Read] = []
        places: dict[str, int] = {}  # of a content in the index
        for prompt in prompts:
            key = content_key(prompt)
            if index and key not in places:
                places[key] = index.add(prompt)
            read.append(_Read(id=prompt.id, key=key, seen=seen(prompt)))
        firsts, dropped = _join_equal(read)
        if index:
            _join_near(firsts, index, places, dropped)
    counts = {first.id: first.seen for first in firsts}
    return [
        Group(
            kept=id,
            seen=counts[id] + sum(member.seen for member in dropped[id]),
            dropped=tuple(dropped[id]),
        )
        for id in dict.fromkeys(one.id for one in read)
        if id in dropped
    ]


def kept(prompts: Callable[[], Iterable[Prompt]], groups: Iterable[Group]) -> Iterator[Prompt]:
    """Yield the prompts that stay, with the count and the tags of those they stand for.

    Log rows are united where the content is equal; those of a near prompt asked something else.

    Args:
        prompts: reads them, from the first on each time it is called.
        groups: what `group` said of them.
    """
    left = {one.kept: one for one in groups}
    joined = {
        name
        for one in left.values()
        if one.dropped
        for name in (one.kept, *(member.id for member in one.dropped))
    }
    tags: dict[str, Tags] = {}
    rows: dict[str, LogRows] = {}
    for prompt in prompts() if joined else ():
        if prompt.id in joined:
            tags[prompt.id] = united(tags.get(prompt.id, ()), plain_tags(prompt))
            rows[prompt.id] = log_rows_of(rows.get(prompt.id, ()), prompt.log_rows)
    for prompt in prompts():
        if one := left.pop(prompt.id, None):
            same = [member.id for member in one.dropped if member.exact]
            all_tags = united(
                tags.get(prompt.id, plain_tags(prompt)),
                tuple(tag for member in one.dropped for tag in tags[member.id]),
            )
            equal = (prompt.id, *same) if same else ()
            all_rows = log_rows_of(prompt.log_rows, *(rows[id] for id in equal))
            yield asked(replace(prompt, tags=all_tags, log_rows=all_rows), one.seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What is kept in memory of a prompt."""

    id: str
    key: str  # equal for equal content
    seen: int


def _join_equal(read: Sequence[_Read]) -> tuple[list[_Read], dict[str, list[Member]]]:
    """Return the most seen prompt of each content, the most seen first, and whom each stands for.

    Raises:
        DataError: two contents have one id.
    """
    firsts: dict[str, _Read] = {}
    dropped: dict[str, list[Member]] = {}
    for one in sorted(read, key=lambda one: (-one.seen, one.id)):
        first = firsts.setdefault(one.key, one)
        if first is not one:
            dropped[first.id].append(_member(one, 1.0, exact=True))
        elif one.id in dropped:
            raise DataError(f"prompt {one.id}: two prompts have this id. Give each its own.")
        else:
            dropped[one.id] = []
    return list(firsts.values()), dropped


def _join_near(
    firsts: Sequence[_Read],
    index: NearIndex,
    places: Mapping[str, int],
    dropped: dict[str, list[Member]],
) -> None:
    """Move each prompt that is near to one more seen, and what it stands for, to that one."""
    at = {places[one.key]: one for one in firsts}
    with progress("comparing", len(firsts)) as advance:
        for one, near in zip(firsts, index.near(at), strict=True):
            advance()
            if near:
                place, alike = near
                same = dropped.pop(one.id)
                joined = dropped[at[place].id]
                joined.append(_member(one, alike, exact=False))
                joined += (replace(member, likeness=alike, exact=False) for member in same)


def _member(one: _Read, alike: float, *, exact: bool) -> Member:
    return Member(id=one.id, seen=one.seen, likeness=alike, exact=exact)
