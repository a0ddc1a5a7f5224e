"""Chats to tokens and back: exact at every boundary, deaf to control tokens in anyone's text.

ids(prompt) and ids(response) are joined as ids, never re-tokenised as one text. The prompt ends
where the template opens the assistant's turn; the model's own tokens run from there through the one
token that closes the turn, and nothing the template writes after it is theirs.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from preftune.errors import DataError, ModelError
from preftune.models.conversation import Conversation, Marks
from preftune.models.plain import Encoded, Finder, Follows, PlainText, control_tokens
from preftune.models.templates import FALLBACK, check_template, literal_text
from preftune.models.tokens import TokenSequence
from preftune.types import Message, Prompt, assistant, make_prompt, user

TrainOn = Literal["last", "all"]
Kind = Literal["decoder", "encoder"]
PROBE = make_prompt(user("Hello"))
PROBE_ANSWER = "Probe"


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
        self._closes_turns = turn_end is not None
        self.end_ids = self._end_ids(turn_end)
        self.pad_id = (
            self.end_ids[-1] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        )
        self._marks = self._make_marks()

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the ids of a prompt, the opening of the assistant's turn included.

        For text without control tokens these are the ids of the tokenizer's own
        `apply_chat_template(…, add_generation_prompt=True)`.

        Raises:
            ModelError: the template refuses the turns.
        """
        talk = self._conversation(prompt)
        return self._encode(talk.before(len(prompt.messages)), talk.mark).ids

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
        check_ends(prompt, response)
        talk = self._conversation(prompt, response)
        opened = talk.before(len(prompt.messages))
        head = self._encode(opened, talk.mark)
        own = [False] * len(head.ids)
        if train_on == "all":
            own = self._own_in_prompt(talk, prompt, opened, head)
        ids: list[int] = []
        done = opened
        for i, message in enumerate(response, start=len(prompt.messages)):
            if message.role != "assistant":
                continue
            before = talk.before(i)
            gap = self._encode(talk.after_common(done, before), talk.mark, follows="control").ids
            own_ids, done = self._own_turn(talk, i, before)
            ids += [*gap, *own_ids]
            own += [False] * len(gap) + [message.weight == 1] * len(own_ids)
        return TokenSequence(prompt_ids=head.ids, response_ids=tuple(ids), own=tuple(own))

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

    def _encode(self, text: str, mark: str, *, follows: Follows = "start") -> Encoded:
        """Return the ids of a rendered text; `mark` shields the control tokens others wrote."""
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for token, start, end in self._finder.split(text, mark):
            if token is not None:
                ids.append(token.id)
                spans.append((start, end))
                continue
            after: Follows = "control" if start else follows
            run = text[start:end]
            encoded = self._plain.encode(run.replace(mark, ""), after)
            places = [i for i, char in enumerate(run, start) if char != mark]
            ids += encoded.ids
            spans += [
                (places[a], places[b - 1] + 1) if a < b else (start, start)
                for a, b in encoded.spans
            ]
        return Encoded(ids=tuple(ids), spans=tuple(spans))

    def _own_turn(self, talk: Conversation, i: int, before: str) -> tuple[tuple[int, ...], str]:
        """Return the ids of own turn `i` and the conversation's text through its end."""
        through = self._through_turn(talk, i, before)
        follows = self._follows(before, talk.mark)
        ids = self._encode(through[len(before) :], talk.mark, follows=follows).ids
        if self._closes_turns:
            return ids, through
        if i + 1 < len(talk.messages):
            raise ModelError(
                f"{self.where}: the chat template ends no assistant turn with a token, so only the "
                "last turn can be trained on. Give a template that does."
            )
        return (*ids, self.end_ids[0]), through

    def _through_turn(self, talk: Conversation, i: int, before: str) -> str:
        """Return the text from the start through the end of assistant turn `i`."""
        after = talk.after(i)
        own = talk.after_common(before, after)
        if not self._closes_turns:
            return before + own.rstrip()
        for token, _, end in self._finder.split(own, talk.mark):
            if token is not None and token.id in self.end_ids:
                return before + own[:end]
        raise ModelError(
            f"{self.where}: the chat template doesn't end assistant turn {i + 1} with "
            f"{self.tokenizer.convert_ids_to_tokens(list(self.end_ids))}. Give another template."
        )

    def _own_in_prompt(
        self, talk: Conversation, prompt: Prompt, opened: str, head: Encoded
    ) -> list[bool]:
        own = [False] * len(head.ids)
        for i, message in enumerate(prompt.messages):
            if message.role != "assistant" or message.weight == 0:
                continue
            before = talk.before(i)
            through = self._through_turn(talk, i, before)
            talk.after_common(through, opened)
            for k, (start, end) in enumerate(head.spans):
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
