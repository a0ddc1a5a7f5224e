"""Draw replies from a causal language model: batched, cached, each from a seed of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from preftune.engine.modes import evaluating
from preftune.errors import ModelError, SettingsError
from preftune.inference.decoder import Decoder, decoder_for
from preftune.inference.passes import together
from preftune.inference.picking import pick
from preftune.inference.stops import Decode, Stops
from preftune.responses.generator import GenerateSettings

__all__ = ["GenerateSettings", "Generated", "generate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """One reply as tokens.

    `ids` ends with the end token or with the token that completes a stop, when one was drawn
    (`finished`): all that was drawn, so that it can be trained on. `logprobs` says how likely each
    of these tokens was, in nats, under the model as it is: temperature 1, nothing filtered out.
    `sampled_logprobs` says so at the temperature that was drawn with, nothing filtered out either;
    at temperature 0, where there is no such distribution, it equals `logprobs`.
    """

    ids: tuple[int, ...]
    finished: bool
    logprobs: tuple[float, ...]
    sampled_logprobs: tuple[float, ...]


def generate(
    model: nn.Module,
    prompts: Sequence[tuple[int, ...]],
    settings: GenerateSettings,
    *,
    seeds: Sequence[int],
    end_ids: Sequence[int],
    pad_id: int,
    decode: Decode | None = None,
) -> list[Generated]:
    """Return one reply per prompt, in the order given.

    A reply is a function of its prompt and seed, whatever its neighbours are (up to the rounding of
    floating-point sums, which batches of another shape do in another order). Equal prompts are
    encoded once and written together. Rows that have ended leave the batch.

    Args:
        model: any causal language model of transformers that keeps a key-value cache, adapters of
            PEFT included.
        prompts: token ids, at least one each, ready to be continued.
        settings: how to draw.
        seeds: one number >= 0 per prompt.
        end_ids: tokens that end a reply.
        pad_id: any valid id, to fill rows on the left; it is never attended to.
        decode: the text of some tokens of a reply; needed for `settings.stop`.

    Raises:
        ModelError: an empty prompt, a prompt too long for the model's positions, or a model with a
            recurrent state, whose rows cannot be padded.
        SettingsError: stop texts and no `decode`.
    """
    for number, prompt in enumerate(prompts):
        check_fits(model, prompt, settings.max_new_tokens, where=f"prompt {number}")
    stops = _stops(settings, decode)
    replies: dict[int, Generated] = {}
    for rows in together(
        prompts,
        new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
    ):
        with evaluating(model):
            batch = [prompts[row] for row in rows]
            decoder = decoder_for(model, batch, pad_id=pad_id, new_tokens=settings.max_new_tokens)
            numbers = _uniforms([seeds[row] for row in rows], settings)
            drawn = _draw(decoder, numbers, settings, tuple(end_ids), stops)
        replies.update(zip(rows, drawn, strict=True))
    return [replies[row] for row in range(len(prompts))]


def _stops(settings: GenerateSettings, decode: Decode | None) -> Stops | None:
    if not settings.stop:
        return None
    if decode is None:
        raise SettingsError(
            f"stop {settings.stop!r}: texts are not found in tokens. Give generate a `decode`."
        )
    return Stops(texts=settings.stop, decode=decode)


def check_fits(
    model: nn.Module, prompt: tuple[int, ...], max_new_tokens: int, *, where: str
) -> None:
    """Raise `ModelError` for a prompt that is empty or leaves too few positions for the reply."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not prompt:
        raise ModelError(f"{where}: no tokens. Use a template that opens the reply.")
    if positions is not None and len(prompt) + max_new_tokens > positions:
        raise ModelError(
            f"{where}: {len(prompt)} tokens and {max_new_tokens} new ones exceed the model's "
            f"{positions} positions. Lower max_new_tokens or leave the prompt out."
        )


def _uniforms(seeds: Sequence[int], settings: GenerateSettings) -> Float[np.ndarray, "B T"]:
    """Return the numbers of each row: a counter-based stream of its own seed, nothing shared."""
    if settings.temperature == 0:
        return np.zeros((len(seeds), settings.max_new_tokens))
    streams = (np.random.Generator(np.random.Philox(key=seed)) for seed in seeds)
    return np.stack([stream.random(settings.max_new_tokens) for stream in streams])


def _draw(
    decoder: Decoder,
    numbers: Float[np.ndarray, "B T"],
    settings: GenerateSettings,
    end_ids: tuple[int, ...],
    stops: Stops | None,
) -> list[Generated]:
    """Decode one batch to its end."""
    device, longest = decoder.device, settings.max_new_tokens
    uniforms = torch.from_numpy(numbers).to(device)
    ends = torch.tensor(end_ids, dtype=torch.long, device=device)
    page = _Page(len(numbers), longest, device)
    rows = torch.arange(len(numbers), device=device)  # which replies are still being written
    look_every = 1 if device.type == "cpu" else 8  # looking stalls an accelerator
    logits = decoder.start()
    for step in range(longest):
        token, logprobs = pick(
            logits,
            uniforms[rows, step],
            temperature=float(settings.temperature),
            top_p=float(settings.top_p),
            top_k=settings.top_k,
        )
        page.write(rows, step, token, logprobs, torch.isin(token, ends))
        last = step + 1 == longest
        if last or step % look_every == 0:
            if stops is not None:
                page.look_for(stops, rows, step + 1)
            writing = (page.lengths[rows] > step + 1).nonzero()[:, 0]
            if last or len(writing) == 0:
                break
            if len(rows) - len(writing) >= len(rows) / 4:
                rows, token = rows[writing], token[writing]
                decoder.keep(writing)
        logits = decoder.step(token)
    return page.replies()


class _Page:
    """What a batch has written. What a row draws past its end is nobody's."""

    def __init__(self, rows: int, longest: int, device: torch.device) -> None:
        self.ids = torch.zeros(rows, longest, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(2, rows, longest, device=device)  # temperature 1, as drawn
        self.lengths = torch.full((rows,), longest + 1, device=device)  # `longest` + 1: no end yet
        self.looked = 0  # tokens of each row in which stops were looked for

    def write(
        self,
        rows: Int[Tensor, " A"],
        step: int,
        token: Int[Tensor, " A"],
        logprobs: Float[Tensor, "2 A"],
        ends: Bool[Tensor, " A"],
    ) -> None:
        """Add one token to these rows; note which of them it ends."""
        self.ids[rows, step] = token
        self.logprobs[:, rows, step] = logprobs
        before = self.lengths[rows]
        self.lengths[rows] = torch.where(ends & (before > step), step + 1, before)

    def look_for(self, stops: Stops, rows: Int[Tensor, " A"], written: int) -> None:
        """End the rows of which the tokens since the last look hold a stop."""
        lengths = self.lengths[rows].clamp_max(written).tolist()
        texts = zip(rows.tolist(), self.ids[rows].tolist(), lengths, strict=True)
        for row, ids, length in texts:
            ended = stops.ended_at(ids[:length], length - self.looked)
            if ended is not None:
                self.lengths[row] = ended
        self.looked = written

    def replies(self) -> list[Generated]:
        """Return each row up to its end."""
        return [
            Generated(
                ids=tuple(row[:length]),
                finished=length <= len(row),
                logprobs=tuple(plain[:length]),
                sampled_logprobs=tuple(drawn[:length]),
            )
            for row, plain, drawn, length in zip(
                self.ids.tolist(), *self.logprobs.tolist(), self.lengths.tolist(), strict=True
            )
        ]
