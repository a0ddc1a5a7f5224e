"""What must be looked at before training: odd rows, repeats, contradictions, near-equals, leaks."""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from preftune.datasets.read import scan
from preftune.datasets.scanned import Problem, Scanned
from preftune.datasets.views import Messages, exact_key, loose_key, prompt_of, wins_of
from preftune.errors import DataError
from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    PreferencePair,
    Prompt,
    RankedList,
    Record,
    Response,
    UnpairedRow,
)

# A word is a run of letters and digits; a Chinese or Japanese character is a word of its own.
WORD = re.compile(r"[^\W\u3040-\u30ff\u3400-\u9fff]+|[\u3040-\u30ff\u3400-\u9fff]")
_PLAIN = map(chr, range(128))
_PLAIN_WORDS = str.maketrans({c: c.lower() if WORD.match(c) else " " for c in _PLAIN})
_MARKS = "’‘“”–—…•"  # of print: no part of a word


class Known:
    """What was worked out of records once, however many checks ask."""

    def __init__(self) -> None:
        # the record is kept beside what is known of it, so that nothing else gets its id
        self._keys: dict[int, tuple[Prompt, str]] = {}
        self._near: dict[int, tuple[PreferencePair, bool]] = {}

    def key(self, prompt: Prompt) -> str:
        """Return the `exact_key` of a prompt."""
        found = self._keys.get(id(prompt))
        if found is None:
            found = self._keys[id(prompt)] = prompt, exact_key(prompt)
        return found[1]

    def one_word_apart(self, pair: PreferencePair) -> bool:
        """Whether chosen and rejected are `one_word_apart`."""
        found = self._near.get(id(pair))
        if found is None:
            found = self._near[id(pair)] = pair, one_word_apart(pair.chosen, pair.rejected)
        return found[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One kind of thing to look at: what it is, what to do, and every line it stands on."""

    kind: str  # short and stable, such as "conflict"
    what: str
    fix: str
    lines: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The outcome of checking one file."""

    source: str
    format: str
    rows: int
    usable: int  # rows that may be trained on
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0: clean. 1: something must be looked at. 2: no row can be used."""
        if not self.usable:
            return 2
        return 1 if self.findings else 0


def check_file(path: Path, *, against: Iterable[Path] = (), format: str | None = None) -> Checked:
    """Return everything that must be looked at in a file, leaks into other files included.

    Args:
        path: the file to check, in any format `scan` reads.
        against: files that must share no prompt with it, such as its test set.
        format: the format of `path`; detected when None. The other files are always detected.

    Raises:
        DataError: a file cannot be read at all, or `against` names the file itself.
    """
    others = list(against)
    for other in others:
        if other.resolve() == path.resolve():
            raise DataError(
                f"{other}: the same file as the one checked. Give --against another file."
            )
    opened = scan(path, format=format)
    rows = list(opened.rows)
    findings = check_rows(rows)
    for other in others:
        findings += find_leaks(rows, list(scan(other).rows), other.name)
    return Checked(
        source=path.name,
        format=opened.format,
        rows=len(rows),
        usable=sum(row.usable for row in rows),
        findings=tuple(findings),
    )


def check_rows(rows: Iterable[Scanned], known: Known | None = None) -> list[Finding]:
    """Return the findings within one file, each kind once, in a fixed order.

    Args:
        rows: of the file.
        known: what other checks have worked out of the same records; each check takes it.
    """
    rows, known = list(rows), known or Known()
    repeats = [line for group in find_duplicates(rows, known) for line in group[1:]]
    conflicts = {line for group in find_conflicts(rows, known) for line in group}
    made = (
        (
            "duplicate",
            "the same prompt, responses and verdict as an earlier row",
            "Remove the repeats, or give weights instead.",
            repeats,
        ),
        (
            "conflict",
            "one row prefers A to B, another prefers B to A, on the same prompt",
            "Keep the one that is right, or merge them into one pair with a probability.",
            conflicts,
        ),
        (
            "near_duplicate",
            "chosen and rejected differ in at most one word",
            "Look whether that word is what matters; such pairs push down both responses.",
            find_near_duplicates(rows, known),
        ),
    )
    found = [_finding(*parts) for parts in made if parts[3]]
    return [*find_problems(rows), *found]


def find_problems(rows: Iterable[Scanned]) -> list[Finding]:
    """Return what reading said, one finding per kind of problem, unusable rows first.

    A finding tells the first of its problems, and on which line when the others read differently.
    """
    by_kind: dict[tuple[bool, str], list[tuple[int, Problem]]] = defaultdict(list)
    for row in rows:
        for problem in row.problems:
            by_kind[not problem.fatal, problem.kind].append((row.line, problem))
    found = []
    for (_, kind), said in sorted(by_kind.items(), key=lambda item: item[0]):
        line, first = said[0]
        alike = all(problem.what == first.what for _, problem in said)
        what = first.what if alike else f"line {line}: {first.what}"
        found.append(_finding(kind, what, first.fix, {line for line, _ in said}))
    return found


def find_duplicates(rows: Iterable[Scanned], known: Known | None = None) -> list[tuple[int, ...]]:
    """Return groups of lines that say the same: one prompt, the same responses, the same verdict.

    The same pair from two named raters is agreement, no duplicate. Responses, comparisons and
    judgments are events of their own, so only the same id twice makes them duplicates.
    """
    known = known or Known()
    about = [(row, _about(row.record, known)) for row in rows if row.record is not None]
    often = Counter(what for _, what in about)
    return _groups(
        (row.line, (what, _said(row.record)))
        for row, what in about
        if often[what] > 1 and row.record is not None
    )


def same_prompt_groups(
    rows: Iterable[Scanned], known: Known | None = None
) -> list[tuple[int, ...]]:
    """Return groups of two or more lines with the same prompt, word for word."""
    known = known or Known()
    return _groups((line, known.key(prompt)) for line, prompt in _prompts(rows))


def find_conflicts(rows: Iterable[Scanned], known: Known | None = None) -> list[tuple[int, ...]]:
    """Return groups of lines that contradict each other on the same prompt and dimension.

    Pairs and ranked lists contradict when one puts A above B and another B above A; unpaired rows
    when one calls a response desirable and another does not. Judgments never do: that two raters
    disagree is what agreement statistics are for.
    """
    known = known or Known()
    alike: dict[tuple[str, str], list[Scanned]] = defaultdict(list)
    for row in rows:
        if isinstance(row.record, PreferencePair | RankedList | UnpairedRow):
            alike[known.key(row.record.prompt), row.record.dimension].append(row)
    return sorted({group for some in alike.values() if len(some) > 1 for group in _opposed(some)})


def find_near_duplicates(rows: Iterable[Scanned], known: Known | None = None) -> list[int]:
    """Return the lines of pairs whose chosen and rejected differ in at most one word."""
    known = known or Known()
    return [
        row.line
        for row in rows
        if isinstance(row.record, PreferencePair) and known.one_word_apart(row.record)
    ]


def one_word_apart(first: Messages, second: Messages) -> bool:
    """Whether two responses share all words but at most one, and at least one.

    One word replaced, added or removed counts; case and punctuation do not. `Yes` and `No` share
    nothing, so they are two answers and not near-duplicates.
    """
    head, a, b = _shared_start(_text(first), _text(second))
    tail, a, b = _shared_start(a[::-1], b[::-1])
    return head + tail > 0 and not any(list(islice(WORD.finditer(rest), 1, 2)) for rest in (a, b))


def words_of(text: str) -> list[str]:
    """Return the words of a text, case aside; a Chinese character is a word."""
    if not text.isascii():
        for mark in _MARKS:
            text = text.replace(mark, " ")
    if text.isascii():  # the same words, three times as fast
        return text.translate(_PLAIN_WORDS).split()
    return WORD.findall(text.casefold())


def find_leaks(
    rows: Iterable[Scanned], others: Iterable[Scanned], name: str, known: Known | None = None
) -> list[Finding]:
    """Return the lines of `rows` whose prompt is also in `others`, the file called `name`.

    `leak` is the same prompt word for word; `leak_normalised` the same but for case and white
    space, rows of the first kind left out.
    """
    known = known or Known()
    exact: dict[str, int] = {}
    loose: dict[str, int] = {}
    for line, prompt in _prompts(others):
        exact.setdefault(known.key(prompt), line)
        loose.setdefault(loose_key(prompt), line)
    same: dict[int, int] = {}
    alike: dict[int, int] = {}
    for line, prompt in _prompts(rows):
        if (there := exact.get(known.key(prompt))) is not None:
            same[line] = there
        elif (there := loose.get(loose_key(prompt))) is not None:
            alike[line] = there
    found = (
        ("leak", f"the prompt is also in {name}", same),
        ("leak_normalised", f"but for case and white space the prompt is also in {name}", alike),
    )
    return [_leak(kind, what, lines) for kind, what, lines in found if lines]


def _leak(kind: str, what: str, lines: Mapping[int, int]) -> Finding:
    line, there = next(iter(lines.items()))
    what = f"{what} (line {line} here is line {there} there)"
    return _finding(kind, what, "Split by prompt: preftune data split.", lines)


def _finding(kind: str, what: str, fix: str, lines: Iterable[int]) -> Finding:
    return Finding(kind=kind, what=what, fix=fix, lines=tuple(sorted(lines)))


def _prompts(rows: Iterable[Scanned]) -> Iterator[tuple[int, Prompt]]:
    for row in rows:
        prompt = prompt_of(row.record) if row.record is not None else None
        if prompt is not None:
            yield row.line, prompt


def _groups(keyed: Iterable[tuple[int, Hashable]]) -> list[tuple[int, ...]]:
    """Return the lines that share a key, for every key that two or more rows have."""
    lines: dict[Hashable, list[int]] = defaultdict(list)
    for line, key in keyed:
        lines[key].append(line)
    return [tuple(group) for group in lines.values() if len(group) > 1]


def _about(record: Record, known: Known) -> tuple[str, str]:
    """Return what repeats have in common at least: the kind, and the prompt (of events the id)."""
    event = isinstance(record, Response | Comparison | Judgment)
    prompt = None if event else prompt_of(record)
    return type(record).__name__, record.id if prompt is None else known.key(prompt)


def _said(record: Record) -> Hashable:
    """Return what else makes a record a repeat of another; its id does not, where content does."""
    match record:
        case PreferencePair():
            said: Hashable = (record.chosen, record.rejected, record.strength)
        case RankedList():
            said = frozenset(zip(record.responses, record.ranks, strict=True))
        case UnpairedRow():
            said = (record.response, record.desirable)
        case Demonstration():
            return record.response
        case _:
            return None
    return said, record.dimension, record.provenance.raters


def _opposed(rows: Iterable[Scanned]) -> Iterator[tuple[int, ...]]:
    """Yield the lines of every two contradicting claims on one prompt and dimension."""
    lines: dict[Hashable, set[int]] = defaultdict(set)
    opposites: dict[Hashable, Hashable] = {}
    for row in rows:
        for claim, opposite in _claims(row.record):
            lines[claim].add(row.line)
            opposites[claim] = opposite
    for claim, opposite in opposites.items():
        if opposite in lines and len(both := lines[claim] | lines[opposite]) > 1:
            yield tuple(sorted(both))


def _claims(record: Record | None) -> Iterator[tuple[Hashable, Hashable]]:
    """Yield everything a record claims, each with the claim that would contradict it."""
    if isinstance(record, PreferencePair | RankedList):
        for better, worse in wins_of(record):
            if better != worse:
                yield (better, worse), (worse, better)
    elif isinstance(record, UnpairedRow):
        yield (record.response, record.desirable), (record.response, not record.desirable)


def _text(messages: Messages) -> str:
    parts = [message.content for message in messages]
    for message in messages:
        parts += [f"{call.name} {call.arguments}" for call in message.tool_calls]
    return " ".join(parts).casefold()


def _shared_start(a: str, b: str) -> tuple[int, str, str]:
    """Return how many words two texts share from the start, and what is left of each."""
    count = end_a = end_b = 0
    for x, y in zip(WORD.finditer(a), WORD.finditer(b), strict=False):
        if x[0] != y[0]:
            break
        count, end_a, end_b = count + 1, x.end(), y.end()
    return count, a[end_a:], b[end_b:]
