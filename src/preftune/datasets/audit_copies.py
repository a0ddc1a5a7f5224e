"""What says the same twice, what contradicts itself, and what is also in the held-out files."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from preftune.datasets.audit_material import LinedPair, Material
from preftune.datasets.audit_near import Shingles, is_near, near_couples, shingles_of, unions
from preftune.datasets.audit_parts import AuditFinding, AuditSection, count_finding
from preftune.datasets.audit_words import Ids, Words
from preftune.datasets.checks import (
    WORD,
    Known,
    find_conflicts,
    find_duplicates,
    find_leaks,
    find_near_duplicates,
)
from preftune.datasets.read import scan
from preftune.datasets.scanned import Scanned
from preftune.datasets.views import Messages, normalised, prompt_of, responses_of
from preftune.errors import DataError
from preftune.types import Prompt, text_of

Key = TypeVar("Key")
SHORTEST_CIRCLE = 3  # rows
LONG_ENOUGH = 8  # words; a shorter response may well be given twice by chance

Edge = tuple[int, int]
Circle = dict[Edge, set[int]]
"""(better, worse) → the lines that say so."""


def copies_section(material: Material) -> AuditSection:
    """Return repeats, near-repeats, contradictions and empty choices within the file."""
    rows = as_rows(material.pairs)
    total = len(rows)
    groups = find_duplicates(rows, material.known)
    repeats = (line for group in groups for line in set(group) - {group[0]})
    made = (
        (
            "conflict",
            (line for group in find_conflicts(rows, material.known) for line in group),
            "One row prefers A to B, another B to A, on the same prompt",
            "Keep the one that is right, or merge them into one pair with a probability.",
        ),
        (
            "cycle",
            against_order(material.pairs),
            "Preferences that make others go round (A over B over C over A): they are against the "
            "order that the rest of their prompt gives",
            "Ask again about these, or give the pairs a probability.",
        ),
        (
            "equal_normalised",
            find_equal(material.pairs, material.words),
            "Chosen and rejected differ in case and white space alone",
            "Leave them out, unless the form itself is what you teach.",
        ),
        (
            "one_word_apart",
            find_near_duplicates(rows, material.known),
            "Chosen and rejected differ in at most one word",
            "Look whether that word is what matters; such pairs push down both responses.",
        ),
        (
            "duplicate",
            repeats,
            "The same prompt, responses and verdict as an earlier row",
            "Remove the repeats, or give weights instead.",
        ),
        (
            "near_pair",
            find_near_pairs(material.pairs, material.words),
            "Prompt and responses are nearly those of an earlier row",
            "Keep one of each, and split by group, so that no copy is in the test part.",
        ),
    )
    findings = tuple(
        count_finding(kind, lines, total, what=what, verdict="look", fix=fix)
        for kind, lines, what, fix in made
    )
    text = "" if total else "There are no pairs, so there is nothing to compare."
    return AuditSection(
        title="Copies and contradictions", text=text, findings=findings if total else ()
    )


def leak_section(material: Material, against: Sequence[Path]) -> AuditSection:
    """Return what the file shares with files that must be new to a model trained on it.

    Raises:
        DataError: a file cannot be read or has no usable row.
    """
    if not against:
        text = "No held-out file was given, so nothing is known. Give --against FILE."
        return AuditSection(title="Leakage", text=text)
    findings: list[AuditFinding] = []
    for path in against:
        others = [row for row in scan(path).rows if row.usable]
        if not others:
            raise DataError(f"{path}: no usable row to compare with. Give another --against file.")
        findings += _leaks(material, others, path.name)
    return AuditSection(title="Leakage", findings=tuple(findings))


def as_rows(pairs: Iterable[LinedPair]) -> list[Scanned]:
    """Return the pairs as rows, for the checks that take rows."""
    return [Scanned(line=lined.line, record=lined.pair) for lined in pairs]


def find_equal(pairs: Iterable[LinedPair], words: Words) -> Iterator[int]:
    """Yield the lines whose two responses differ in case and white space alone."""
    for lined in pairs:
        chosen, rejected = map(_said, (lined.pair.chosen, lined.pair.rejected))
        if len(words.ids(chosen)) != len(words.ids(rejected)):
            continue  # most of them: nothing is split twice
        if chosen.casefold().split() == rejected.casefold().split():
            yield lined.line


def against_order(pairs: Sequence[LinedPair]) -> set[int]:
    """Return the lines on circles whose winner wins less often, all told, than its loser.

    With many responses one odd verdict puts nearly every row on some circle; these few are what
    bends them. Where all win equally often, as in a circle of three alone, it is every row.
    """
    return {line for circle in _circles(pairs) for line in _against(circle)}


def find_cycles(pairs: Sequence[LinedPair]) -> set[int]:
    """Return the lines of preferences that go round in a circle of three or more responses.

    Two rows that contradict each other outright are conflicts, and no part of a circle here.
    """
    return {line for circle in _circles(pairs) for lines in circle.values() for line in lines}


def _against(circle: Circle) -> Iterator[int]:
    balance: Counter[int] = Counter()
    for better, worse in circle:
        balance[better] += 1
        balance[worse] -= 1
    bent = [edge for edge in circle if balance[edge[0]] < balance[edge[1]]]
    for edge in bent or circle:
        yield from circle[edge]


def _circles(pairs: Sequence[LinedPair]) -> list[Circle]:
    """Return the preferences that go round, those that hang together in one circle each."""
    many = Counter((lined.prompt, lined.pair.dimension) for lined in pairs)
    number: dict[Hashable, int] = {}  # of each response to one prompt in one dimension
    lines: dict[Edge, set[int]] = defaultdict(set)
    for lined in pairs:
        about = lined.prompt, lined.pair.dimension
        if many[about] >= SHORTEST_CIRCLE:
            better = number.setdefault((about, lined.pair.chosen), len(number))
            worse = number.setdefault((about, lined.pair.rejected), len(number))
            lines[better, worse].add(lined.line)
    edges = [(a, b) for a, b in lines if (b, a) not in lines]
    if not edges:
        return []
    ends = list(zip(*edges, strict=True))
    graph = csr_matrix((np.ones(len(edges)), ends), shape=(len(number), len(number)))
    _, rings = connected_components(graph, directed=True, connection="strong")
    ring = rings.tolist()
    found: dict[int, Circle] = defaultdict(dict)
    for a, b in edges:
        if ring[a] == ring[b]:
            found[ring[a]][a, b] = lines[a, b]
    return list(found.values())


def find_near_pairs(pairs: Sequence[LinedPair], words: Words) -> set[int]:
    """Return the lines whose prompt and responses are nearly those of an earlier row.

    Exact repeats, and rows that hold the same two responses the other way round, are left out:
    they are duplicates and conflicts.
    """
    texts = [
        (words.ids(text_of(lined.pair.chosen)), words.ids(text_of(lined.pair.rejected)))
        for lined in pairs
    ]
    couples = [
        (one, other)
        for one, other in near_couples(unions(texts))
        if pairs[one].line != pairs[other].line and not _same(pairs[one], pairs[other])
    ]
    rows = sorted({row for couple in couples for row in couple})
    prompts = {pairs[row].prompt: pairs[row].pair.prompt for row in rows}
    asked = _by_key(prompts, [words.ids(_asked(prompt)) for prompt in prompts.values()])
    chosen = _by_key(rows, [texts[row][0] for row in rows])
    rejected = _by_key(rows, [texts[row][1] for row in rows])
    return {
        pairs[later].line
        for earlier, later in couples
        if is_near(asked[pairs[earlier].prompt], asked[pairs[later].prompt])
        and _both_near((chosen[earlier], rejected[earlier]), (chosen[later], rejected[later]))
    }


def _same(one: LinedPair, other: LinedPair) -> bool:
    """Whether two rows ask the same and hold the same two responses, either way round."""
    if one.prompt != other.prompt:
        return False
    mine, theirs = ({lined.pair.chosen, lined.pair.rejected} for lined in (one, other))
    return mine == theirs


def _by_key(keys: Iterable[Key], texts: Sequence[Ids]) -> dict[Key, Shingles]:
    return dict(zip(keys, shingles_of(texts), strict=True))


def _both_near(one: tuple[Shingles, ...], other: tuple[Shingles, ...]) -> bool:
    """Whether each response of one pair is near to one of the other, either way round."""
    return any(all(map(is_near, one, turned)) for turned in (other, other[::-1]))


def _leaks(material: Material, others: Sequence[Scanned], name: str) -> Iterator[AuditFinding]:
    rows = material.rows
    exact = {f.kind: f.lines for f in find_leaks(rows, others, name, material.known)}
    known = {line for lines in exact.values() for line in lines}
    near = set(_near_prompts(rows, others, material)) - known
    told = (
        ("leak", exact.get("leak", ()), "Prompts that are also in {}, word for word"),
        (
            "leak_normalised",
            exact.get("leak_normalised", ()),
            "Prompts that are also in {} but for case and white space",
        ),
        ("leak_near", near, "Prompts that are nearly those of {}"),
        (
            "leak_response",
            _same_responses(rows, others),
            f"Responses of {LONG_ENOUGH} words or more that are also in {{}}",
        ),
    )
    for kind, lines, what in told:
        stop = kind in ("leak", "leak_normalised")
        yield count_finding(
            kind,
            lines,
            len(rows),
            what=what.format(name),
            verdict="stop" if stop else "look",
            fix="Leave these rows out of training, or split anew: preftune data split.",
        )


def _near_prompts(
    rows: Iterable[Scanned], others: Iterable[Scanned], material: Material
) -> Iterator[int]:
    here, there = _prompts(rows, material.known), _prompts(others, material.known)
    mine, words = list(here), material.words
    texts = shingles_of([words.ids(_asked(here[key][0])) for key in mine])
    theirs = shingles_of([words.ids(_asked(prompt)) for prompt, _ in there.values()])
    for place in {place for place, _ in near_couples(texts, theirs)}:
        yield from here[mine[place]][1]


def _same_responses(rows: Iterable[Scanned], others: Iterable[Scanned]) -> Iterator[int]:
    held_out = {text for row in others for text in _long_responses(row)}
    for row in rows:
        if not held_out.isdisjoint(_long_responses(row)):
            yield row.line


def _long_responses(row: Scanned) -> Iterator[str]:
    for messages in responses_of(row.record) if row.record is not None else ():
        text = normalised(_said(messages))
        if len(WORD.findall(text)) >= LONG_ENOUGH:
            yield text


def _prompts(rows: Iterable[Scanned], known: Known) -> Mapping[str, tuple[Prompt, list[int]]]:
    """Return each prompt once, by its key, with the lines it stands on."""
    found: dict[str, tuple[Prompt, list[int]]] = {}
    for row in rows:
        prompt = prompt_of(row.record) if row.record is not None else None
        if prompt is not None and any(message.content for message in prompt.messages):
            found.setdefault(known.key(prompt), (prompt, []))[1].append(row.line)
    return found


def _asked(prompt: Prompt) -> str:
    return "\n".join(message.content for message in prompt.messages)


def _said(messages: Messages) -> str:
    return " ".join(message.content for message in messages)
