"""A model of transformers as a `Generator`: prompts in, responses out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from preftune.inference.generate import Generated, check_fits, generate
from preftune.inference.stops import cut
from preftune.models.chat import Chat, load_chat
from preftune.models.fingerprint import model_fingerprint
from preftune.models.load import load_policy
from preftune.responses.generator import GenerateSettings, Request
from preftune.types import Prompt, Response, Sampling, assistant


class TransformersGenerator:
    """Answers with a model in this process; keeps the token ids of the prompts it has seen."""

    def __init__(
        self,
        model: nn.Module,
        chat: Chat,
        settings: GenerateSettings,
        name: str,
        *,
        exactly: str = "",
    ) -> None:
        """Take a model, its chat, how to draw, and a name for just these weights and template.

        With a name that anyone may give to other weights, `exactly` tells these apart from them.
        """
        self.model, self.chat, self.settings, self.name = model, chat, settings, name
        self.exactly = exactly or name
        self._ids: dict[str, tuple[int, ...]] = {}

    def drawing(self, settings: GenerateSettings) -> "TransformersGenerator":
        """Return the same model, drawing in another way."""
        return TransformersGenerator(
            self.model, self.chat, settings, self.name, exactly=self.exactly
        )

    def sampling(self, seed: int) -> Sampling:
        """Return how a response is drawn from `seed`."""
        return self.settings.sampling(seed)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ModelError`, naming the prompt, if one cannot be encoded or is too long."""
        for prompt in prompts:
            check_fits(
                self.model,
                self._prompt_ids(prompt),
                self.settings.max_new_tokens,
                where=f"prompt {prompt.id}",
            )

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        """Return one response per request, in the same order."""
        drawn = generate(
            self.model,
            [self._prompt_ids(request.prompt) for request in requests],
            self.settings,
            seeds=[request.seed for request in requests],
            end_ids=self.chat.end_ids,
            pad_id=self.chat.pad_id,
            decode=self._text,
        )
        return [
            self._response(request, reply) for request, reply in zip(requests, drawn, strict=True)
        ]

    def _prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if prompt.id not in self._ids:
            self._ids[prompt.id] = self.chat.prompt_ids(prompt)
        return self._ids[prompt.id]

    def _text(self, ids: Sequence[int]) -> str:
        return self.chat.decode(ids)[0].content

    def _response(self, request: Request, reply: Generated) -> Response:
        text, _ = cut(self._text(reply.ids), self.settings.stop)
        return Response(
            id=request.response_id,
            prompt_id=request.prompt.id,
            messages=(assistant(text),),
            generator=self.name,
            sampling=self.settings.sampling(request.seed),
            origin="sampled",
            finished=reply.finished,
        )


def load_generator(
    folder_or_id: str | Path,
    settings: GenerateSettings,
    *,
    name: str = "",
    trust_remote_code: bool = False,
) -> TransformersGenerator:
    """Return a generator from a model folder, adapter folder or hub id.

    Without a `name` it is the folder's with the first 12 digits of the fingerprint of weights and
    template, `tuned@3f2a…`. Other weights under the same name are never taken for these: the
    fingerprint is in the ids of responses whatever the name.

    Raises:
        ModelError: the model, its tokenizer or its template cannot be used.
    """
    chat = load_chat(folder_or_id, trust_remote_code=trust_remote_code)
    model = load_policy(folder_or_id, trust_remote_code=trust_remote_code)
    if torch.cuda.is_available():
        model.to("cuda")
    digits = model_fingerprint(model, chat)[:12]
    exactly = f"{name or Path(folder_or_id).resolve().name}@{digits}"
    return TransformersGenerator(model, chat, settings, name or exactly, exactly=exactly)
