"""Draw replies from a causal language model: batched, cached, each from a seed of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from preftune.engine.modes import evaluating
from preftune.errors import ModelError
from preftune.inference.decoder import Decoder
from preftune.inference.passes import by_length
from preftune.responses.generator import GenerateSettings

__all__ = ["GenerateSettings", "Generated", "generate", "pick"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """One reply as tokens.

    `ids` ends with the end token when one was drawn (`finished`). `logprobs` says how likely each
    of these tokens was, in nats, under the model as it is: temperature 1, nothing filtered out.
    """

    ids: tuple[int, ...]
    finished: bool
    logprobs: tuple[float, ...]


def generate(
    model: nn.Module,
    prompts: Sequence[tuple[int, ...]],
    settings: GenerateSettings,
    *,
    seeds: Sequence[int],
    end_ids: Sequence[int],
    pad_id: int,
) -> list[Generated]:
    """Return one reply per prompt, in the order given.

    A reply is a function of its prompt and seed, whatever its neighbours are (up to the rounding of
    floating-point sums, which batches of another shape do in another order). Equal prompts are
    encoded once per batch. Rows that have ended leave the batch.

    Args:
        model: any causal language model of transformers that keeps a key-value cache, adapters of
            PEFT included.
        prompts: token ids, at least one each, ready to be continued.
        settings: how to draw.
        seeds: one number >= 0 per prompt.
        end_ids: tokens that end a reply.
        pad_id: any valid id, to fill rows on the left; it is never attended to.

    Raises:
        ModelError: an empty prompt, a prompt too long for the model's positions, or a model with a
            recurrent state, whose rows cannot be padded.
    """
    for number, prompt in enumerate(prompts):
        check_fits(model, prompt, settings.max_new_tokens, where=f"prompt {number}")
    replies: dict[int, Generated] = {}
    lengths = [len(prompt) + settings.max_new_tokens for prompt in prompts]
    for rows in by_length(
        lengths, batch_size=settings.batch_size, batch_tokens=settings.batch_tokens
    ):
        with evaluating(model):
            drawn = _draw(
                Decoder(model, [prompts[row] for row in rows], pad_id),
                _uniforms([seeds[row] for row in rows], settings),
                settings,
                tuple(end_ids),
            )
        replies.update(zip(rows, drawn, strict=True))
    return [replies[row] for row in range(len(prompts))]


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


def pick(
    logits: Float[Tensor, "B V"],
    uniforms: Float[Tensor, " B"],
    *,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
) -> Int[Tensor, " B"]:
    """Return the token whose slice of the distribution holds each row's number in [0, 1).

    The `top_k` likeliest tokens are kept, then of these the fewest that hold `top_p` of their mass.
    Temperature 0 takes the likeliest token and looks at no number.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs = torch.softmax(logits / temperature, -1).double()
    if top_p == 1.0 and top_k == 0:
        return _slice_of(probs, uniforms)
    probs, tokens = probs.sort(dim=-1, descending=True, stable=True)
    probs = probs[:, : top_k or None]
    mass_before = probs.cumsum(-1) - probs
    probs = probs * (mass_before < top_p * probs.sum(-1, keepdim=True))
    return tokens.gather(1, _slice_of(probs, uniforms)[:, None])[:, 0]


def _slice_of(probs: Float[Tensor, "B K"], uniforms: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return where each number falls in the cumulated probabilities; they need not sum to 1."""
    ends = probs.cumsum(-1)
    at = uniforms.double()[:, None] * ends[:, -1:]
    return torch.searchsorted(ends, at, right=True)[:, 0].clamp_max(probs.shape[1] - 1)


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
) -> list[Generated]:
    """Decode one batch to its end."""
    device = decoder.device
    uniforms = torch.from_numpy(numbers).to(device)
    ends = torch.tensor(end_ids, device=device)
    ids = torch.zeros(uniforms.shape, dtype=torch.long, device=device)
    logprobs = torch.zeros(uniforms.shape, device=device)
    rows = torch.arange(len(uniforms), device=device)  # which replies are still being written
    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    look_every = 1 if device.type == "cpu" else 8  # looking stalls an accelerator
    logits = decoder.start()
    for step in range(settings.max_new_tokens):
        token = pick(
            logits,
            uniforms[rows, step],
            temperature=float(settings.temperature),
            top_p=float(settings.top_p),
            top_k=settings.top_k,
        )
        ids[rows, step] = token
        logprobs[rows, step] = torch.log_softmax(logits, -1).gather(1, token[:, None])[:, 0]
        ended |= torch.isin(token, ends)
        if step + 1 == settings.max_new_tokens:
            break
        if step % look_every == 0:
            count = int(ended.sum())
            if count == len(rows):
                break
            if count * 4 >= len(rows):
                kept = (~ended).nonzero()[:, 0]
                rows, token, ended = rows[kept], token[kept], ended[kept]
                decoder.keep(kept)
        logits = decoder.step(token)
    return _cut(ids, logprobs, torch.isin(ids, ends))


def _cut(
    ids: Int[Tensor, "B T"], logprobs: Float[Tensor, "B T"], is_end: Bool[Tensor, "B T"]
) -> list[Generated]:
    """Return each row up to its first end token; what was drawn past it is nobody's."""
    finished = is_end.any(1)
    lengths = torch.where(finished, is_end.int().argmax(1) + 1, ids.shape[1])
    return [
        Generated(ids=tuple(row[:length]), finished=done, logprobs=tuple(logs[:length]))
        for row, logs, length, done in zip(
            ids.tolist(), logprobs.tolist(), lengths.tolist(), finished.tolist(), strict=True
        )
    ]
