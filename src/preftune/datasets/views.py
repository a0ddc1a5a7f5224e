"""One way to look at any record: its prompt, its responses, its wins, its keys."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations, product

from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    Message,
    PreferencePair,
    Prompt,
    Provenance,
    RankedList,
    Record,
    Response,
    UnpairedRow,
    content_id,
)

Messages = tuple[Message, ...]
Win = tuple[Messages, Messages]
"""The better response and the worse one."""

KINDS: dict[type, str] = {
    PreferencePair: "pairs",
    RankedList: "ranked lists",
    UnpairedRow: "unpaired rows",
    Demonstration: "demonstrations",
    Prompt: "prompts",
    Response: "responses",
    Comparison: "comparisons",
    Judgment: "judgments",
}
SPACE = re.compile(r"\s+")


def comparisons_by_id(records: Iterable[Record]) -> dict[str, Comparison]:
    """Return the comparisons among the records, so that judgments can be traced to a prompt."""
    return {record.id: record for record in records if isinstance(record, Comparison)}


def prompt_of(record: Record) -> Prompt | None:
    """Return the prompt a record carries; None for responses and judgments, which name it by id."""
    if isinstance(record, Prompt):
        return record
    return None if isinstance(record, Response | Judgment) else record.prompt


def responses_of(record: Record) -> tuple[Messages, ...]:
    """Return the responses a record carries, chosen before rejected, best first, or as shown."""
    match record:
        case PreferencePair():
            return record.chosen, record.rejected
        case RankedList():
            return record.responses
        case UnpairedRow() | Demonstration():
            return (record.response,)
        case Response():
            return (record.messages,)
        case Comparison():
            return tuple(response.messages for response in record.responses)
    return ()


def wins_of(record: Record) -> Iterator[Win]:
    """Yield every (better, worse) that a pair or a ranked list says; tied ranks give none."""
    if isinstance(record, PreferencePair):
        yield record.chosen, record.rejected
    elif isinstance(record, RankedList):
        for better, worse in _places_by_rank(record.ranks):
            yield record.responses[better], record.responses[worse]


def decided(records: Sequence[Record]) -> Iterator[Win]:
    """Yield every (better, worse) of a file, each decision once.

    Pairs and ranked lists say theirs row by row. Judgments of one comparison are votes on the same
    responses, so the majority counts once and a draw not at all; a pair or a list that was made
    from a comparison judged in this file is not counted again.
    """
    comparisons = comparisons_by_id(records)
    votes: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    for record in records:
        if isinstance(record, Judgment) and record.comparison_id in comparisons:
            shown = len(comparisons[record.comparison_id].responses)
            votes[record.comparison_id].update(places_of(record, shown))
    for record in records:
        made_from = getattr(record, "provenance", Provenance()).comparison_id
        if made_from not in votes:
            yield from wins_of(record)
    for comparison_id, counted in votes.items():
        responses = responses_of(comparisons[comparison_id])
        for (better, worse), count in counted.items():
            if count > counted.get((worse, better), 0):
                yield responses[better], responses[worse]


def places_of(judgment: Judgment, shown: int) -> Iterator[tuple[int, int]]:
    """Yield (better, worse) positions a judgment says of so many responses shown; ties give none.

    A rewrite is no verdict between the responses shown, so it yields nothing.
    """
    if judgment.choice is not None:
        yield from _places_by_rank([int(place != judgment.choice) for place in range(shown)])
    elif judgment.grade is not None:
        yield from _places_by_rank([judgment.grade, 4])
    else:
        for rank, group in enumerate(judgment.ranking):
            for lower in judgment.ranking[rank + 1 :]:
                yield from product(group, lower)


def is_tie(record: Record) -> bool:
    """Whether a record calls two responses equally good."""
    if isinstance(record, Judgment):
        return record.kind == "tie" or record.grade == 4 or any(len(g) > 1 for g in record.ranking)
    if isinstance(record, RankedList):
        return len(set(record.ranks)) < len(record.ranks)
    return isinstance(record, PreferencePair) and record.strength == 0


def answer_length(messages: Messages) -> int:
    """Return the characters of the last assistant turn, the part that answers; 0 without one."""
    return next((len(m.content) for m in reversed(messages) if m.role == "assistant"), 0)


def prompt_length(prompt: Prompt) -> int:
    """Return the characters of all turns of a prompt, the system turn included."""
    return sum(len(message.content) for message in prompt.messages)


def is_multi_turn(record: Record) -> bool:
    """Whether the prompt has more than one user turn, or a response more than one turn."""
    prompt = prompt_of(record)
    asked = sum(m.role == "user" for m in prompt.messages) if prompt else 0
    return asked > 1 or any(len(messages) > 1 for messages in responses_of(record))


def exact_key(prompt: Prompt) -> str:
    """Return a key equal for prompts with the same turns and tools, whatever their ids."""
    return content_id("p", prompt.messages, prompt.tools)


def loose_key(prompt: Prompt) -> str:
    """Return a key equal for prompts whose turns differ only in case and white space."""
    return content_id("q", [(m.role, normalised(m.content)) for m in prompt.messages])


def first_turn_key(prompt: Prompt) -> str:
    """Return a key equal for prompts whose first user turns differ only in case and white space."""
    first = next((m.content for m in prompt.messages if m.role == "user"), "")
    return content_id("t", normalised(first))


def normalised(text: str) -> str:
    """Return the text case-folded, every run of white space one blank, none at the ends."""
    return SPACE.sub(" ", text).strip().casefold()


def _places_by_rank(ranks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (better, worse) places; a lower rank is better."""
    for better, worse in permutations(range(len(ranks)), 2):
        if ranks[better] < ranks[worse]:
            yield better, worse
