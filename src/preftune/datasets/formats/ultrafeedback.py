"""UltraFeedback, binarized: a prompt, two whole conversations, a score for each.

Source: huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized.
"""

from preftune.datasets.formats.columns import columns_of, make_pair, source_prompt_id, write_columns
from preftune.datasets.formats.messages import prompt_of, split_common, write_messages, write_tools
from preftune.datasets.formats.row import Format
from preftune.datasets.formats.trl import whole_conversations
from preftune.datasets.scanned import Problem, RefusedError
from preftune.fields import Row, need, text
from preftune.messages import Notes, read_messages
from preftune.types import PreferencePair

_SCORES = {"score_chosen": "chosen_score", "score_rejected": "rejected_score"}
_KNOWN = frozenset({"prompt", "prompt_id", "chosen", "rejected", "messages", "tools", *_SCORES})


def _read(row: Row, notes: Notes) -> PreferencePair:
    sides = [read_messages(need(row, name), name, notes) for name in ("chosen", "rejected")]
    start, chosen, rejected = split_common(*sides)
    if not start:
        fix = "Start both conversations with the prompt."
        raise RefusedError("no_shared_prompt", "chosen and rejected share no start", fix)
    asked = next((m.content for m in start if m.role == "user"), "")
    if text(need(row, "prompt"), "prompt") != asked:
        _note(
            notes, "prompt_mismatch", "prompt is not the first user turn; the conversation is kept"
        )
    told = {own: row[name] for name, own in _SCORES.items() if name in row}
    if None not in told.values() and len(told) == 2 and len(set(told.values())) == 1:
        _note(notes, "equal_scores", "chosen and rejected have the same score")
    told |= {name: value for name, value in row.items() if name not in _KNOWN}
    return make_pair(told, prompt_of(start, row, source_prompt_id(row)), chosen, rejected)


def _note(notes: Notes, kind: str, what: str) -> None:
    notes.append(Problem(kind=kind, what=what, fix="Nothing to do if that is meant.", fatal=False))


def _write(pair: PreferencePair) -> Row:
    told = write_columns(pair)
    asked = next((m.content for m in pair.prompt.messages if m.role == "user"), "")
    scores = {name: told.pop(own, None) for name, own in _SCORES.items()}
    return {
        "prompt": asked,
        "prompt_id": pair.prompt.id,
        "chosen": write_messages(pair.prompt.messages + pair.chosen),
        "rejected": write_messages(pair.prompt.messages + pair.rejected),
        **write_tools(pair.prompt),
        **scores,
        **told,
    }


ULTRAFEEDBACK = Format(
    name="ultrafeedback",
    kind=PreferencePair,
    holds="pairs as whole conversations with a score each (binarized)",
    needs=("prompt", "chosen", "rejected"),
    known=_KNOWN | (columns_of(PreferencePair) - {*_SCORES.values()}),
    read=_read,
    write=_write,
    fits=whole_conversations,
)
