"""The dataset formats of TRL: explicit or implicit prompt, text or messages, unpaired, completion.

Every reader takes text and messages alike. Text is read as plain turns: a prompt of one user turn,
an answer of one assistant turn. Writers give messages, which hold everything; `trl-text` writes
text.

Source: huggingface.co/docs/trl, "Dataset formats and types".
"""

from preftune.datasets.formats.columns import (
    columns_of,
    make_demonstration,
    make_pair,
    make_unpaired,
    source_prompt_id,
    write_columns,
)
from preftune.datasets.formats.messages import (
    one_text,
    prompt_of,
    read_prompt,
    read_turns,
    split_common,
    write_messages,
    write_tools,
)
from preftune.datasets.formats.row import Format
from preftune.datasets.scanned import RefusedError
from preftune.fields import Row, need, wrong_type
from preftune.messages import Messages, Notes, read_messages
from preftune.types import Demonstration, PreferencePair, Prompt, UnpairedRow, assistant, user

_ANSWERS = frozenset({"chosen", "rejected", "completion", "label", "response", "responses"})


def _prompt(row: Row, notes: Notes) -> Prompt:
    return read_prompt(need(row, "prompt"), row, notes, source_id=source_prompt_id(row))


def _read_pair(row: Row, notes: Notes) -> PreferencePair:
    prompt = _prompt(row, notes)
    chosen = read_turns(need(row, "chosen"), "assistant", "chosen", notes)
    return make_pair(
        row, prompt, chosen, read_turns(need(row, "rejected"), "assistant", "rejected", notes)
    )


def _write_pair(pair: PreferencePair) -> Row:
    return {
        "prompt": write_messages(pair.prompt.messages),
        "chosen": write_messages(pair.chosen),
        "rejected": write_messages(pair.rejected),
        **write_tools(pair.prompt),
        **write_columns(pair),
    }


def _write_text_pair(pair: PreferencePair) -> Row:
    return {
        "prompt": one_text(pair.prompt.messages, "user", "the prompt", "trl-text"),
        "chosen": one_text(pair.chosen, "assistant", "chosen", "trl-text"),
        "rejected": one_text(pair.rejected, "assistant", "rejected", "trl-text"),
        **write_tools(pair.prompt),
        **write_columns(pair),
    }


def _read_implicit(row: Row, notes: Notes) -> PreferencePair:
    chosen, rejected = need(row, "chosen"), need(row, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt, better, worse = _split_text(chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        prompt, better, worse = split_common(
            read_messages(chosen, "chosen", notes), read_messages(rejected, "rejected", notes)
        )
    else:
        raise wrong_type("rejected", rejected, "what chosen is: both text or both messages")
    if not prompt:
        fix = "Put the prompt in a field 'prompt'."
        raise RefusedError("no_shared_prompt", "chosen and rejected share no start", fix)
    return make_pair(row, prompt_of(prompt, row, source_prompt_id(row)), better, worse)


def _split_text(chosen: str, rejected: str) -> tuple[Messages, Messages, Messages]:
    """Return (prompt, chosen, rejected); texts part before the space between words, as TRL cuts."""
    most = min(len(chosen), len(rejected))
    at = next((i for i in range(most) if chosen[i] != rejected[i]), most)
    at -= chosen[:at].endswith(" ")
    prompt = (user(chosen[:at]),) if at else ()
    return prompt, (assistant(chosen[at:]),), (assistant(rejected[at:]),)


def _write_implicit(pair: PreferencePair) -> Row:
    return {
        "chosen": write_messages(pair.prompt.messages + pair.chosen),
        "rejected": write_messages(pair.prompt.messages + pair.rejected),
        **write_tools(pair.prompt),
        **write_columns(pair),
    }


def _read_unpaired(row: Row, notes: Notes) -> UnpairedRow:
    prompt, label = _prompt(row, notes), need(row, "label")
    if not isinstance(label, bool):
        raise wrong_type("label", label, "true or false")
    response = read_turns(need(row, "completion"), "assistant", "completion", notes)
    return make_unpaired(row, prompt, response, desirable=label)


def _write_unpaired(record: UnpairedRow) -> Row:
    return {
        "prompt": write_messages(record.prompt.messages),
        "completion": write_messages(record.response),
        "label": record.desirable,
        **write_tools(record.prompt),
        **write_columns(record),
    }


def _read_completion(row: Row, notes: Notes) -> Demonstration:
    prompt = _prompt(row, notes)
    return make_demonstration(
        row, prompt, read_turns(need(row, "completion"), "assistant", "completion", notes)
    )


def _write_completion(record: Demonstration) -> Row:
    return {
        "prompt": write_messages(record.prompt.messages),
        "completion": write_messages(record.response),
        **write_tools(record.prompt),
        **write_columns(record),
    }


def _write_prompt(prompt: Prompt) -> Row:
    own = prompt_of(prompt.messages, write_tools(prompt)).id
    told = {} if prompt.id == own else {"prompt_id": prompt.id}
    return {"prompt": write_messages(prompt.messages), **write_tools(prompt), **told}


def whole_conversations(row: Row) -> bool:
    """Whether `chosen` holds the prompt again, as UltraFeedback rows do."""
    prompt, chosen = row["prompt"], row["chosen"]
    return isinstance(prompt, str) and isinstance(chosen, list) and _role(chosen) == "user"


def _role(messages: list[object]) -> object:
    """Return the role of the first turn after a system turn."""
    roles = [m.get("role") for m in messages[:2] if isinstance(m, dict)]
    return next((role for role in roles if role != "system"), None)


def _is_text(row: Row) -> bool:
    return all(isinstance(row[name], str) for name in ("prompt", "chosen", "rejected"))


def _is_implicit(row: Row) -> bool:
    sides = (row["chosen"], row["rejected"])
    transcripts = any(
        isinstance(s, str) and s.startswith(("\n\nHuman: ", "\n\nAssistant: ")) for s in sides
    )
    return "prompt" not in row and not transcripts


_PAIR = ("prompt", "chosen", "rejected")
_PAIR_KNOWN = columns_of(PreferencePair) | {*_PAIR, "tools"}
TRL = Format(
    name="trl",
    kind=PreferencePair,
    holds="pairs with an explicit prompt, as lists of messages",
    needs=_PAIR,
    known=_PAIR_KNOWN,
    read=_read_pair,
    write=_write_pair,
    fits=lambda row: not _is_text(row) and not whole_conversations(row),
)
TRL_TEXT = Format(
    name="trl-text",
    kind=PreferencePair,
    holds="pairs with an explicit prompt, as plain text",
    needs=_PAIR,
    known=_PAIR_KNOWN,
    read=_read_pair,
    write=_write_text_pair,
    fits=_is_text,
)
TRL_IMPLICIT = Format(
    name="trl-implicit",
    kind=PreferencePair,
    holds="pairs whose shared start is the prompt",
    needs=("chosen", "rejected"),
    known=_PAIR_KNOWN - {"prompt"},
    read=_read_implicit,
    write=_write_implicit,
    fits=_is_implicit,
)
TRL_UNPAIRED = Format(
    name="trl-unpaired",
    kind=UnpairedRow,
    holds="single responses labelled true or false (KTO)",
    needs=("prompt", "completion", "label"),
    known=columns_of(UnpairedRow) | {"prompt", "completion", "label", "tools"},
    read=_read_unpaired,
    write=_write_unpaired,
)
TRL_COMPLETION = Format(
    name="trl-completion",
    kind=Demonstration,
    holds="a prompt and the response to imitate (SFT)",
    needs=("prompt", "completion"),
    known=columns_of(Demonstration) | {"prompt", "completion", "tools"},
    read=_read_completion,
    write=_write_completion,
    fits=lambda row: "label" not in row,
)
TRL_PROMPT = Format(
    name="trl-prompt",
    kind=Prompt,
    holds="prompts alone",
    needs=("prompt",),
    known=frozenset({"prompt", "prompt_id", "tools"}),
    read=_prompt,
    write=_write_prompt,
    fits=lambda row: not row.keys() & _ANSWERS,
)
