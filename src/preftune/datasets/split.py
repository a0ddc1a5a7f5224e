"""Split records into parts by group, never by row, so that no prompt stands on both sides."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from preftune.datasets.card import card
from preftune.datasets.inspect import inspect_file
from preftune.datasets.read import read_records
from preftune.datasets.views import comparisons_by_id, first_turn_key, loose_key, prompt_of
from preftune.datasets.write import dataset_hash, write_records
from preftune.errors import DataError, SettingsError
from preftune.files import atomic_folder, write_atomic, write_json
from preftune.types import Judgment, Prompt, Record, Response

GroupKey = Callable[[Record], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a split as written."""

    file: str
    rows: int
    groups: int
    asked_frac: float
    got_frac: float  # of the rows
    dataset_hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A finished split; `split.json` holds the same."""

    source: str
    format: str
    dataset_hash: str
    by: str
    seed: int
    rows: int
    parts: dict[str, Part]


def split_file(
    path: Path,
    out: Path,
    *,
    fractions: Mapping[str, float],
    seed: int = 0,
    by: str = "prompt",
    format: str | None = None,
) -> Split:
    """Split a file into `out`/train.jsonl, test.jsonl …, with split.json and card.md beside them.

    Args:
        path: a file in any format the readers know; one bad row stops the split.
        out: a folder that does not exist yet, or is empty.
        fractions: share of the rows per part, such as {"train": 0.8, "test": 0.2}; sum 1.
        seed: another seed, another split.
        by: what stays together, see `group_key`.
        format: format of `path`; detected when None.

    Raises:
        DataError: the file or a row cannot be used, `out` is not empty, there are fewer groups
            than parts, or `by` would leave one prompt in two parts.
        SettingsError: fractions or `by` make no sense.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists and is not empty. Give --out a new folder.")
    loaded = read_records(path, format=format)
    key = group_key(by, loaded.records)
    parts = split_by_group(loaded.records, fractions=fractions, seed=seed, key=key)
    check_disjoint(parts, key)
    check_disjoint(parts, group_key("prompt", loaded.records))
    done = Split(
        source=path.name,
        format=loaded.format,
        dataset_hash=dataset_hash(loaded.records),
        by=by,
        seed=seed,
        rows=len(loaded.records),
        parts={name: _part(name, parts, fractions[name], key) for name in fractions},
    )
    with atomic_folder(out) as folder:
        for name, part in done.parts.items():
            write_records(folder / part.file, parts[name], format="preftune")
        write_json(folder / "split.json", asdict(done))
        inspection = inspect_file(path, format=loaded.format)
        write_atomic(folder / "card.md", card(inspection, parts=part_rows(done)))
    return done


def part_rows(split: Split) -> list[tuple[str, ...]]:
    """Return the parts as a table of text, its header first."""
    header = ("part", "rows", "groups", "asked", "got", "dataset hash")
    return [
        header,
        *(
            (
                name,
                f"{part.rows:,}",
                f"{part.groups:,}",
                f"{part.asked_frac:.1%}",
                f"{part.got_frac:.1%}",
                part.dataset_hash,
            )
            for name, part in split.parts.items()
        ),
    ]


def split_by_group(
    records: Iterable[Record], *, fractions: Mapping[str, float], seed: int, key: GroupKey
) -> dict[str, list[Record]]:
    """Return the records of each part, in their own order; a group is never cut.

    The groups stand in the order of a hash of (seed, key). Each part but the largest walks that
    order and takes a group when this brings its rows nearer to the share asked for, so a part
    misses its share by at most half the largest group. A part for which every group is too large
    takes the smallest one. The largest part takes what is left. The order of the records changes
    nothing.

    Args:
        records: anything `key` can name.
        fractions: share of the rows per part, each above 0, sum 1.
        seed: chooses the order of the groups.
        key: the group of a record; equal keys stay together.

    Raises:
        DataError: fewer groups than parts.
        SettingsError: fractions not above 0, or their sum is not 1.
    """
    _check_fractions(fractions)
    grouped: dict[str, list[int]] = defaultdict(list)
    records = list(records)
    for place, record in enumerate(records):
        grouped[key(record)].append(place)
    if len(grouped) < len(fractions):
        raise DataError(
            f"split: {len(grouped)} groups for {len(fractions)} parts ({', '.join(fractions)}). "
            "Bring more prompts, or ask for fewer parts."
        )
    waiting = sorted(grouped, key=lambda group: _place(seed, group))
    members: dict[str, list[str]] = {}
    names = sorted(fractions, key=lambda name: (fractions[name], name))
    for later, name in zip(range(len(names) - 1, 0, -1), names, strict=False):
        wanted = fractions[name] * len(records)
        sizes = {group: len(grouped[group]) for group in waiting}
        members[name] = _take(sizes, wanted, keep=later)
        taken = set(members[name])
        waiting = [group for group in waiting if group not in taken]
    members[names[-1]] = waiting
    return {
        name: [records[i] for i in sorted(i for group in members[name] for i in grouped[group])]
        for name in fractions
    }


def group_key(by: str, records: Iterable[Record] = ()) -> GroupKey:
    """Return the function that names the group of a record.

    Args:
        by: `prompt`: prompts equal but for case and white space; `first-turn`: the same for the
            first user turn, so that a conversation and its continuations stay together;
            `tag:PREFIX`: the one tag of the prompt that starts with PREFIX, such as `tag:debate=`.
        records: where judgments find their comparison and responses their prompt.

    Raises:
        SettingsError: `by` is none of these.
        DataError: (by the returned function) a record has no prompt, no such tag, or several.
    """
    keys: dict[str, Callable[[Prompt], str]] = {"prompt": loose_key, "first-turn": first_turn_key}
    prefix = by.removeprefix("tag:")
    if by not in keys and (prefix == by or not prefix):
        raise SettingsError(f"by: {by!r} is unknown. Use prompt, first-turn or tag:PREFIX.")
    name = keys.get(by) or (lambda prompt: _tag(prompt, prefix))
    find = _prompt_finder(list(records))
    return lambda record: name(find(record))


def check_disjoint(parts: Mapping[str, Iterable[Record]], key: GroupKey) -> None:
    """Raise `DataError` when a group stands in two parts."""
    home: dict[str, str] = {}
    for name, records in parts.items():
        for record in records:
            first = home.setdefault(key(record), name)
            if first != name:
                raise DataError(
                    f"split: the prompt of {record.id} is in {first} and in {name}. "
                    "Split by prompt or first-turn, or give that prompt one tag."
                )


def _take(sizes: Mapping[str, int], wanted: float, *, keep: int) -> list[str]:
    """Return the groups that come nearest to the rows wanted, at least one, leaving `keep`."""
    taken: list[str] = []
    rows = 0
    for group, size in sizes.items():
        if len(sizes) - len(taken) > keep and rows + size / 2 <= wanted:
            taken.append(group)
            rows += size
    return taken or [min(sizes, key=sizes.__getitem__)]


def _place(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()


def _check_fractions(fractions: Mapping[str, float]) -> None:
    total = math.fsum(fractions.values())
    if len(fractions) < 2 or min(fractions.values()) <= 0 or not math.isclose(total, 1.0):
        raise SettingsError(
            f"fractions: {dict(fractions)}. Give two or more shares above 0 that add up to 1."
        )


def _prompt_finder(records: list[Record]) -> Callable[[Record], Prompt]:
    comparisons = comparisons_by_id(records)
    carried = (prompt_of(record) for record in records)
    prompts = {prompt.id: prompt for prompt in carried if prompt is not None}

    def find(record: Record) -> Prompt:
        prompt = prompt_of(record)
        if isinstance(record, Judgment) and record.comparison_id in comparisons:
            return comparisons[record.comparison_id].prompt
        if isinstance(record, Response):
            prompt = prompts.get(record.prompt_id)
        if prompt is None:
            raise DataError(
                f"split: {record.id} has no prompt in this file. "
                "Put its prompt or comparison into the same file."
            )
        return prompt

    return find


def _tag(prompt: Prompt, prefix: str) -> str:
    tags = [tag for tag in prompt.tags if tag.startswith(prefix)]
    if len(tags) != 1:
        raise DataError(
            f"split: prompt {prompt.id} has {len(tags)} tags that start with {prefix!r}. "
            "Give each prompt exactly one."
        )
    return tags[0]


def _part(name: str, parts: Mapping[str, list[Record]], asked_frac: float, key: GroupKey) -> Part:
    records = parts[name]
    return Part(
        file=f"{name}.jsonl",
        rows=len(records),
        groups=len(Counter(map(key, records))),
        asked_frac=asked_frac,
        got_frac=len(records) / sum(map(len, parts.values())),
        dataset_hash=dataset_hash(records),
    )
