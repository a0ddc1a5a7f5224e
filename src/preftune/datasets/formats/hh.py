"""Anthropic HH: two whole transcripts, turns marked `\\n\\nHuman: ` and `\\n\\nAssistant: `.

The text of a turn is kept to the byte, so a transcript that is read and written is the same again.

Source: Bai et al. 2022, arXiv:2204.05862; the files of github.com/anthropics/hh-rlhf.
"""

import re

from preftune.datasets.formats.columns import make_pair
from preftune.datasets.formats.messages import prompt_of, split_common
from preftune.datasets.formats.row import Format
from preftune.datasets.scanned import Problem, RefusedError
from preftune.fields import Row, need, text
from preftune.messages import Messages, Notes
from preftune.types import Message, PreferencePair, Role

_MARK = re.compile(r"\n\n(Human|Assistant): ")
_MARK_OF: dict[str, str] = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
_KEEP = "Kept as it stands; look at it with `preftune data preview`."


def read_transcript(transcript: str, where: str) -> Messages:
    """Return the turns of one transcript."""
    before, *marked = _MARK.split(transcript)
    if before or not marked:
        raise RefusedError(
            "no_turns", f"{where} does not start with a turn mark", r"Start it with '\n\nHuman: '."
        )
    roles: tuple[Role, ...] = tuple(
        "user" if who == "Human" else "assistant" for who in marked[::2]
    )
    return tuple(Message(role=r, content=c) for r, c in zip(roles, marked[1::2], strict=True))


def write_transcript(messages: Messages) -> str:
    """Return turns as one transcript; raise `RefusedError` for a turn that has no mark."""
    for message in messages:
        if message.role not in _MARK_OF:
            fix = "Write trl, chat or preftune instead."
            raise RefusedError("not_held", f"hh has no place for a {message.role} turn", fix)
    return "".join(_MARK_OF[m.role] + m.content for m in messages)


def _read(row: Row, notes: Notes) -> PreferencePair:
    sides = [read_transcript(text(need(row, name), name), name) for name in ("chosen", "rejected")]
    prompt, chosen, rejected = split_common(*sides)
    if sides[0][:-1] != sides[1][:-1]:
        what = "chosen and rejected differ before the last Assistant turn"
        notes.append(Problem(kind="broken_prefix", what=what, fix=_KEEP, fatal=False))
    if any(_is_odd(side) for side in sides):
        what = "the turns do not take turns, Human first and Assistant last"
        notes.append(Problem(kind="odd_turns", what=what, fix=_KEEP, fatal=False))
    return make_pair({}, prompt_of(prompt, {}), chosen, rejected)


def _is_odd(messages: Messages) -> bool:
    return [m.role for m in messages] != ["user", "assistant"] * (len(messages) // 2)


def _write(pair: PreferencePair) -> Row:
    return {
        "chosen": write_transcript(pair.prompt.messages + pair.chosen),
        "rejected": write_transcript(pair.prompt.messages + pair.rejected),
    }


def _fits(row: Row) -> bool:
    sides = (row["chosen"], row["rejected"])
    return "prompt" not in row and any(isinstance(s, str) and _MARK.match(s) for s in sides)


HH = Format(
    name="hh",
    kind=PreferencePair,
    holds="pairs as two transcripts with Human: / Assistant: marks",
    needs=("chosen", "rejected"),
    known=frozenset({"chosen", "rejected"}),
    read=_read,
    write=_write,
    fits=_fits,
)
