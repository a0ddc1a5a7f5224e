"""Ranked lists: a prompt and two or more responses, best first; equal `ranks` are ties."""

from preftune.datasets.formats.columns import (
    columns_of,
    make_ranked,
    source_prompt_id,
    write_columns,
)
from preftune.datasets.formats.messages import read_prompt, read_turns, write_messages, write_tools
from preftune.datasets.formats.row import Format
from preftune.datasets.scanned import RefusedError
from preftune.fields import Row, integer, items, need, number
from preftune.messages import Notes
from preftune.types import RankedList


def _read(row: Row, notes: Notes) -> RankedList:
    where = "messages" if "messages" in row and "prompt" not in row else "prompt"
    asked = need(row, where)
    prompt = read_prompt(asked, row, notes, where=where, source_id=source_prompt_id(row))
    listed = items(need(row, "responses"), "responses")
    responses = tuple(
        read_turns(one, "assistant", f"responses[{i}]", notes) for i, one in enumerate(listed)
    )
    ranks = row.get("ranks")
    ranks = range(1, len(responses) + 1) if ranks is None else items(ranks, "ranks")
    scores = () if row.get("scores") is None else items(row["scores"], "scores")
    if scores and len(scores) != len(responses):
        what = f"{len(responses)} responses, {len(scores)} scores"
        raise RefusedError("wrong_length", what, "Give one score for each response, or none.")
    return make_ranked(
        row,
        prompt,
        responses,
        tuple(integer(rank, f"ranks[{i}]") for i, rank in enumerate(ranks)),
        tuple(number(score, f"scores[{i}]") for i, score in enumerate(scores)),
    )


def _write(record: RankedList) -> Row:
    scores = {"scores": list(record.scores)} if record.scores else {}
    return {
        "prompt": write_messages(record.prompt.messages),
        "responses": [write_messages(response) for response in record.responses],
        "ranks": list(record.ranks),
        **scores,
        **write_tools(record.prompt),
        **write_columns(record),
    }


RANKED = Format(
    name="ranked",
    kind=RankedList,
    holds="lists of responses, best first, with ties and scores",
    needs=("responses",),
    known=columns_of(RankedList) | {"prompt", "messages", "responses", "ranks", "scores", "tools"},
    read=_read,
    write=_write,
    fits=lambda row: "prompt" in row or "messages" in row,
)
