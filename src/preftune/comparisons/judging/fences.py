"""Texts written by others, made harmless and fenced, before a judge reads them.

Whoever wrote an answer may have written it for the judge: with marks that look like the end of the
answer, a turn of the chat, a verdict. A fence carries a secret that the writer cannot know; what
would act on a tokenizer or be invisible is spelt out. Every change is counted by kind.
"""

import hmac
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from preftune.text import HIDDEN
from preftune.types import Message

SPECIAL_TOKENS = re.compile(
    r"<(?=\|[^|<>\n]{1,64}\|>)"  # <|im_end|>, <|eot_id|>
    r"|<(?=｜[^｜<>\n]{1,64}｜>)"  # the same with the wide bar
    r"|<(?=/?(?:s|bos|eos|pad|unk|mask|think|start_of_turn|end_of_turn|tool_call|tool_response)>)"
    r"|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\])"
)
FENCE_LINE = re.compile(
    r"^[^\S\n]*===(?=[^\S\n]*(?:end of )?(?:question|answer|notes)\b)", re.M | re.I
)
VERDICT_MARK = re.compile(r"\bVERDICT:\s*\w|\[\[\s*\w+\s*\]\]", re.I)
JOINERS = "\u200c\u200d"  # needed by several scripts and by emoji; they hide nothing by themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class Harmless:
    """A text that can do nothing but be read, and how often something in it was spelt out."""

    text: str
    counts: Counter[str] = field(default_factory=Counter)


def harmless(text: str) -> Harmless:
    """Return the text with control characters, special tokens and fence lines spelt out.

    `<|im_end|>` becomes `< |im_end|>`, U+202E becomes `\\u202e`, a line that looks like a fence
    gets a bar before it. Verdict marks are counted as `verdict mark` and left: only the judge's own
    answer is parsed. Windows line ends become `\\n` and are not counted. Doing it twice changes
    nothing more.
    """
    counts: Counter[str] = Counter()
    text = text.replace("\r\n", "\n")
    hidden = [c for c in set(text) if _hidden(c)]
    counts["control character"] = sum(text.count(c) for c in hidden)
    for c in hidden:
        text = text.replace(c, c.encode("unicode_escape").decode())
    text, counts["special token"] = SPECIAL_TOKENS.subn(lambda m: f"{m[0]} ", text)
    text, counts["fence"] = FENCE_LINE.subn(lambda m: f"| {m[0].lstrip()}", text)
    counts["verdict mark"] = len(VERDICT_MARK.findall(text))
    return Harmless(text=text, counts=+counts)


def fenced(name: str, text: str, nonce: str) -> str:
    """Return the text between two lines that name it and carry the nonce."""
    return f"=== {name} {nonce} ===\n{text}\n=== end of {name} {nonce} ==="


def nonce_of(salt: bytes, key: str, texts: tuple[str, ...]) -> str:
    """Return sixteen hex digits that none of the texts holds: a keyed hash of what is asked.

    The same salt and question give the same nonce, so that a prompt can be found in the cache;
    without the salt it cannot be guessed.
    """
    for attempt in range(1000):
        nonce = hmac.new(salt, f"{attempt}\n{key}".encode(), "sha256").hexdigest()[:16]
        if not any(nonce in text for text in texts):
            return nonce
    raise AssertionError("a thousand random nonces cannot all stand in a text")


def shown(messages: tuple[Message, ...]) -> Harmless:
    """Return turns as one text: a lone plain turn as it stands, several with their roles."""
    if len(messages) == 1 and not messages[0].tool_calls:
        return harmless(messages[0].content)
    found = [_turn(message) for message in messages]
    return Harmless(
        text="\n\n".join(part.text for part in found),
        counts=sum((part.counts for part in found), Counter()),
    )


def _turn(message: Message) -> Harmless:
    calls = [f"calls the tool {call.name} with {call.arguments}" for call in message.tool_calls]
    return harmless("\n".join([f"[{message.role}] {message.content}", *calls]))


def _hidden(c: str) -> bool:
    return unicodedata.category(c) in HIDDEN and c not in "\n\t" + JOINERS
