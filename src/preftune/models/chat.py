"""Chats to tokens and back: exact at every boundary, deaf to control tokens in anyone's text.

ids(prompt) and ids(response) are joined as ids, never re-tokenised as one text. The prompt ends
where the template opens the assistant's turn; the model's own tokens run from there through the one
token that closes the turn, and nothing the template writes after it is theirs.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import tokenizers

from preftune.errors import DataError, ModelError
from preftune.models.conversation import Conversation, Marks, Outlines, Part, Plan
from preftune.models.plain import Encoded, Finder, Follows, PlainText, Run, control_tokens
from preftune.models.templates import (
    FALLBACK,
    NOT_FIXED,
    check_template,
    copies_contents,
    literal_text,
)
from preftune.models.tokens import TokenSequence
from preftune.types import Message, Prompt, assistant, make_prompt, user

TrainOn = Literal["last", "all"]
Kind = Literal["decoder", "encoder"]
PROBE = make_prompt(user("Hello"))
PROBE_ANSWER = "Probe"
TOKENS_FORMAT = 1  # one more whenever the same tokenizer and template give other ids than before


class Chat:
    """A tokenizer with its chat template.

    Attributes:
        tokenizer: the transformers tokenizer.
        template: the Jinja template in use.
        template_hash: SHA-256 of the template, 64 hex digits.
        end_ids: ids that end an own turn; the first is the one the template writes. Generation
            stops on any of them.
        pad_id: id that fills up a batch, to be masked there; the eos where there is no other.
        max_length: how many tokens the model can read, None when its config doesn't say.
        closes_turns: whether the template ends an own turn with a token; else the eos is put there.
        kind: "decoder" or "encoder".
    """

    kind: Kind = "decoder"

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        *,
        where: str = "tokenizer",
        max_length: int | None = None,
    ) -> None:
        check_template(template, where=where)
        self.tokenizer, self.template, self.where = tokenizer, template, where
        self.max_length = max_length
        self.template_hash = hashlib.sha256(template.encode()).hexdigest()
        control = control_tokens(tokenizer, literal_text(template))
        self._finder = Finder(control)
        self._plain = PlainText(tokenizer, control)
        self._lead, self._tail, turn_end = self._probe()
        self.closes_turns = turn_end is not None
        self.end_ids = self._end_ids(turn_end)
        self.pad_id = (
            self.end_ids[-1] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        )
        self._marks = self._make_marks()
        self._outlines = Outlines(self._plan, self._finder) if copies_contents(template) else None

    @property
    def tokens_hash(self) -> str | None:
        """SHA-256 over all that ids depend on; None when the template looks at the clock."""
        if any(name in self.template for name in NOT_FIXED):
            return None
        parts = (
            f"{TOKENS_FORMAT}|{tokenizers.__version__}|{self.kind}|{self.template_hash}",
            str(sorted(self.tokenizer.special_tokens_map.items())),
            self.tokenizer.backend_tokenizer.to_str(),
        )
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the ids of a prompt, the opening of the assistant's turn included.

        For text without control tokens these are the ids of the tokenizer's own
        `apply_chat_template(…, add_generation_prompt=True)`.

        Raises:
            ModelError: the template refuses the turns.
        """
        talk = self._conversation(prompt)
        head = self._parts(talk.before(len(prompt.messages)), talk.mark)
        return self._realise([Plan(head=head, tail=())])[0].prompt_ids

    def encode(
        self, prompt: Prompt, response: tuple[Message, ...], *, train_on: TrainOn = "last"
    ) -> TokenSequence:
        """Return prompt and response as one sequence of ids with the model's own tokens marked.

        Args:
            prompt: all turns before the response.
            response: starts and ends with an assistant turn; tool and user turns may stand between.
            train_on: "last" marks the assistant turns of the response, "all" those of the prompt
                too; turns of weight 0 are never marked.

        Raises:
            DataError: the response doesn't start and end with an assistant turn.
            ModelError: the template refuses the turns, or rewrites an earlier turn when a later one
                follows, so that no single sequence of ids holds them all.
        """
        (sequence,) = self._realise([self._plan(prompt, response)])
        if train_on == "last":
            return sequence
        own = [*self._own_in_prompt(prompt), *sequence.own[len(sequence.prompt_ids) :]]
        return replace(sequence, own=tuple(own))

    def encode_all(
        self, rows: Sequence[tuple[Prompt, tuple[Message, ...]]], *, train_on: TrainOn = "last"
    ) -> list[TokenSequence]:
        """Return what `encode` gives for each row, many times faster.

        A prompt that several rows in succession share (the same object) is read once.

        Raises:
            DataError: as `encode`, of the first row it holds for.
            ModelError: as `encode`.
        """
        if train_on == "all":
            return [self.encode(prompt, response, train_on=train_on) for prompt, response in rows]
        if self._outlines is None:
            return self._realise([self._plan(prompt, response) for prompt, response in rows])
        return self._realise(list(self._outlines.plans(rows)))

    def decode(self, ids: Sequence[int]) -> tuple[Message, bool]:
        """Return an own turn as a message, and whether it finished with an end token.

        Everything from the first end token on is cut; special tokens are left out. Tool calls stay
        in the text as the model wrote them.
        """
        end = next((i for i, id_ in enumerate(ids) if id_ in self.end_ids), None)
        text = self._text(list(ids[:end])).removeprefix(self._lead)
        return assistant(
            text.removesuffix(self._tail) if end is not None else text
        ), end is not None

    def save(self, folder: Path | str) -> None:
        """Write the tokenizer and the template in the usual Hugging Face files."""
        self.tokenizer.chat_template = self.template
        self.tokenizer.save_pretrained(str(folder))

    def _conversation(self, prompt: Prompt, response: tuple[Message, ...] = ()) -> Conversation:
        return Conversation(
            tokenizer=self.tokenizer,
            template=self.template,
            messages=prompt.messages + response,
            tools=prompt.tools,
            marks=self._marks,
            where=self.where,
        )

    def _plan(self, prompt: Prompt, response: tuple[Message, ...]) -> Plan:
        """Return the parts of a row, from the text its template really writes."""
        check_ends(prompt, response)
        talk = self._conversation(prompt, response)
        done = talk.before(len(prompt.messages))
        head = self._parts(done, talk.mark)
        tail: list[tuple[bool, tuple[Part, ...]]] = []
        for i, message in enumerate(response, start=len(prompt.messages)):
            if message.role != "assistant":
                continue
            before = talk.before(i)
            tail.append((False, self._parts(talk.after_common(done, before), talk.mark, "control")))
            own, done = self._own_turn(talk, i, before)
            tail.append((message.weight == 1, own))
        return Plan(head=head, tail=tuple(tail))

    def _realise(self, plans: Sequence[Plan]) -> list[TokenSequence]:
        """Return the sequences of these plans; consecutive plans may share one head."""
        runs: list[Run] = []
        for i, plan in enumerate(plans):
            if i == 0 or plan.head is not plans[i - 1].head:
                runs += [part for part in plan.head if isinstance(part, Run)]
            runs += [part for _, parts in plan.tail for part in parts if isinstance(part, Run)]
        encoded = iter(self._plain.encode_all(runs))
        sequences: list[TokenSequence] = []
        head: tuple[int, ...] = ()
        for i, plan in enumerate(plans):
            if i == 0 or plan.head is not plans[i - 1].head:
                head = tuple(_ids(plan.head, encoded))
            ids, own = [], [False] * len(head)
            for is_own, parts in plan.tail:
                turn = list(_ids(parts, encoded))
                ids += turn
                own += [is_own] * len(turn)
            sequences.append(
                TokenSequence(prompt_ids=head, response_ids=tuple(ids), own=tuple(own))
            )
        return sequences

    def _parts(self, text: str, mark: str, follows: Follows = "start") -> tuple[Part, ...]:
        """Cut a rendered text into parts; `mark` shields the control tokens others wrote."""
        return tuple(
            Run(text=text[start:end].replace(mark, ""), follows="control" if start else follows)
            if token is None
            else token.id
            for token, start, end in self._finder.split(text, mark)
        )

    def _encode(self, text: str, mark: str) -> Encoded:
        """Return the ids of a rendered text, and the span of characters each came from."""
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for token, start, end in self._finder.split(text, mark):
            if token is not None:
                ids.append(token.id)
                spans.append((start, end))
                continue
            run = text[start:end]
            encoded = self._plain.encode(run.replace(mark, ""), "control" if start else "start")
            places = [i for i, char in enumerate(run, start) if char != mark]
            ids += encoded.ids
            spans += [
                (places[a], places[b - 1] + 1) if a < b else (start, start)
                for a, b in encoded.spans
            ]
        return Encoded(ids=tuple(ids), spans=tuple(spans))

    def _own_turn(self, talk: Conversation, i: int, before: str) -> tuple[tuple[Part, ...], str]:
        """Return the parts of own turn `i` and the conversation's text through its end."""
        through = self._through_turn(talk, i, before)
        follows = self._follows(before, talk.mark)
        parts = self._parts(through[len(before) :], talk.mark, follows)
        if self.closes_turns:
            return parts, through
        if i + 1 < len(talk.messages):
            raise ModelError(
                f"{self.where}: the chat template ends no assistant turn with a token, so only the "
                "last turn can be trained on. Give a template that does."
            )
        return (*parts, self.end_ids[0]), through

    def _through_turn(self, talk: Conversation, i: int, before: str) -> str:
        """Return the text from the start through the end of assistant turn `i`."""
        after = talk.after(i)
        own = talk.after_common(before, after)
        if not self.closes_turns:
            return before + own.rstrip()
        for token, _, end in self._finder.split(own, talk.mark):
            if token is not None and token.id in self.end_ids:
                return before + own[:end]
        raise ModelError(
            f"{self.where}: the chat template doesn't end assistant turn {i + 1} with "
            f"{self.tokenizer.convert_ids_to_tokens(list(self.end_ids))}. Give another template."
        )

    def _own_in_prompt(self, prompt: Prompt) -> list[bool]:
        """Return which tokens of a prompt belong to its assistant turns of weight 1."""
        talk = self._conversation(prompt)
        opened = talk.before(len(prompt.messages))
        spans = self._encode(opened, talk.mark).spans
        own = [False] * len(spans)
        for i, message in enumerate(prompt.messages):
            if message.role != "assistant" or message.weight == 0:
                continue
            before = talk.before(i)
            through = self._through_turn(talk, i, before)
            talk.after_common(through, opened)
            for k, (start, end) in enumerate(spans):
                own[k] = own[k] or (len(before) <= start < len(through) and end <= len(through))
        return own

    def _follows(self, before: str, mark: str) -> Follows:
        parts = self._finder.split(before, mark)
        if not parts:
            return "start"
        return "text" if parts[-1][0] is None else "control"

    def _text(self, ids: list[int]) -> str:
        """Return the text of ids that follow the opening of an assistant turn."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        anchor = self._anchor if self._plain.adds_prefix else []
        if not anchor:
            return str(self.tokenizer.decode(ids, **options))
        # SentencePiece drops the first blank of a text; after other text it is no first blank.
        whole, known = (self.tokenizer.decode(x, **options) for x in (anchor + ids, anchor))
        return str(whole).removeprefix(str(known))

    def _probe(self) -> tuple[str, str, int | None]:
        """Return what the template writes before and after an answer, and the id that ends it."""
        self._marks = Marks(everyone=self._finder, assistant=self._finder)
        talk = self._conversation(PROBE, (assistant(PROBE_ANSWER),))
        before, after = talk.before(1), talk.after(1)
        parts = self._finder.split(before, talk.mark)
        last = [] if not parts or parts[-1][0] else [before[parts[-1][1] :]]
        self._anchor = [i for run in last for i in self._plain.encode(run, "control").ids]
        self._header = [token for token, _, _ in parts if token is not None]
        place = after.rfind(PROBE_ANSWER)
        if place < 0:
            raise ModelError(
                f"{self.where}: the chat template leaves the answer out. Give another template."
            )
        lead = after[len(before) : place] if after.startswith(before) else ""
        rest = after[place + len(PROBE_ANSWER) :]
        for token, start, _ in self._finder.split(rest, talk.mark):
            if token is not None:
                return lead, rest[:start], token.id
        return lead, "", None

    def _end_ids(self, turn_end: int | None) -> tuple[int, ...]:
        eos = self.tokenizer.eos_token_id
        ids = [i for i in (turn_end, eos) if i is not None]
        if not ids:
            raise ModelError(
                f"{self.where}: neither the chat template nor the tokenizer ends a turn. "
                "Give a template that does, or a tokenizer with an eos token."
            )
        return tuple(dict.fromkeys(ids))

    def _make_marks(self) -> Marks:
        """An assistant may write `<think>` and the like; nobody may open or close a turn."""
        special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        structural = special | set(self.end_ids) | {token.id for token in self._header}
        control = self._finder.tokens
        return Marks(
            everyone=self._finder, assistant=Finder([c for c in control if c.id in structural])
        )


def _ids(parts: Sequence[Part], encoded: Iterator[list[int]]) -> Iterator[int]:
    """Return the ids of parts, those of runs from `encoded` in order."""
    return chain.from_iterable(
        (part,) if isinstance(part, int) else next(encoded) for part in parts
    )


def check_ends(prompt: Prompt, response: tuple[Message, ...]) -> None:
    """Refuse a response that doesn't start and end with an assistant turn."""
    roles = [message.role for message in response]
    if not roles or roles[0] != "assistant" or roles[-1] != "assistant":
        raise DataError(
            f"prompt {prompt.id}: the response has the turns {roles}. "
            "Start and end it with an assistant turn."
        )


def load_chat(
    folder_or_id: str | Path, *, template: str | None = None, trust_remote_code: bool = False
) -> Chat:
    """Return the tokenizer and chat template of a model folder or hub id.

    Args:
        folder_or_id: a Hugging Face model folder, a PEFT adapter folder, or a hub id.
        template: a Jinja template to use instead of the tokenizer's own. A tokenizer without one
            gets `templates.FALLBACK`.
        trust_remote_code: allow the folder's own Python code.

    Raises:
        ModelError: no tokenizer there, not a fast one, remote code, or a template that fails.
    """
    from preftune.models.load import load_tokenizer, read_config
    from preftune.models.pair_chat import PairChat

    where = str(folder_or_id)
    config = read_config(folder_or_id, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(folder_or_id, trust_remote_code=trust_remote_code)
    max_length = config.max_length
    if config.kind == "encoder":
        return PairChat(tokenizer, where=where, max_length=max_length)
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if template is None and own is None and tokenizer.eos_token_id is None:
        raise ModelError(f"{where}: no chat template and no eos token. Give a template.")
    return Chat(tokenizer, template or own or FALLBACK, where=where, max_length=max_length)
