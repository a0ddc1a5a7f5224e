"""One forward for everything that is going on: a token of each reply, and pieces of prompts.

All tokens lie behind each other in one stream `[1 N]`, so each weight is read once for all of them;
only the attention goes apart, see `attend.py`. A transformers model runs unchanged through its
attention interface. Whether it can is tried on a few tokens; nothing is assumed.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from preftune.engine.core import sees_everything, tolerance
from preftune.hosting.attend import attend, attention_of, sized
from preftune.hosting.lora import Adapter, Adapters
from preftune.hosting.plan import Plan, Reading, plan_of
from preftune.hosting.shelves import Shelves
from preftune.inference.lean import Lean
from preftune.inference.padded import forward_takes
from preftune.models.tokens import TokenSequence


class Stream:
    """A model whose tokens of many replies go through one forward."""

    def __init__(self, model: Any, lean: Lean | None = None) -> None:
        """Take a causal language model of transformers, and a quicker way through its layers.

        Raises:
            NotImplementedError: its layers do not keep keys and values of one size.
        """
        self.model = model
        self.adapters = Adapters(model)
        self.sizes = sized(model)
        self.lean = lean
        self.shape = self.sizes.shape

    @torch.inference_mode()
    def forward(
        self, plan: Plan, new: Sequence[int], adapters: Sequence[Adapter | None] = ()
    ) -> Float[Tensor, "K V"]:
        """Return the logits after each new token, then those the chunks want; fp32.

        Args:
            plan: where each token belongs.
            new: the newest token of each reply, in the order of the plan.
            adapters: of each reply; empty: none has one.
        """
        ids = list(new)
        positions = [length for rows in plan.rows for length in rows.lengths.tolist()]
        kept = list(range(len(ids)))
        owners = list(adapters) or [None] * len(ids)
        for chunk in plan.chunks:
            ids += chunk.reading.ids[chunk.start : chunk.stop]
            positions += range(chunk.start, chunk.stop)
            kept += chunk.kept
            owners += [chunk.reading.adapter] * (chunk.stop - chunk.start)
        device = self.shape.device
        with self.adapters.used(owners):
            logits = self._logits(
                torch.tensor([ids], device=device),
                torch.tensor([positions], device=device),
                torch.tensor(kept, dtype=torch.long, device=device)
                if len(kept) < len(ids)
                else None,
                plan,
            )
        for chunk in plan.chunks:
            chunk.reading.read = chunk.stop
        return logits[0].float()

    def _logits(
        self,
        ids: Int[Tensor, "1 N"],
        positions: Int[Tensor, "1 N"],
        kept: Int[Tensor, " K"] | None,
        plan: Plan,
    ) -> Float[Tensor, "1 K V"]:
        """Return the logits after the places that are kept, after all where None."""
        if self.lean is not None:
            return self.lean.logits(ids, positions, kept, partial(attend, plan))
        with attention_of(self.model):
            out = self.model(
                input_ids=ids,
                position_ids=positions,
                # A mask of four axes is taken by transformers as ready made; nothing reads it.
                attention_mask=torch.empty(1, 1, 1, 1, device=ids.device),
                use_cache=False,
                logits_to_keep=0 if kept is None else kept,
                plan=plan,
            )
        logits: Tensor = out.logits
        return logits

    def reading(
        self, ids: tuple[int, ...], *, adapter: Adapter | None = None, every: bool = False
    ) -> Reading:
        """Return a prompt of which nothing is read yet."""
        held = self.shape.room(tokens=len(ids))
        return Reading(ids=ids, held=held, adapter=adapter, every=every)


def stream_of(model: Any) -> tuple[Stream | None, str]:
    """Return a stream over a model, or None and why there is none.

    A few tokens are written and compared with the model's own forward, first with the layers in
    fewer operations, then as they are.
    """
    why = ""
    for way in (Lean, lambda _: None):
        try:
            stream = Stream(model, way(model))
            why = _tried(stream)
        except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            why = " ".join(str(error).split())[:120]
        if not why:
            return stream, ""
    return None, why


def fits(model: nn.Module, tokens: int) -> bool:
    """Return whether every token of so long a row sees all before it, as a stream's do."""
    ids = (0,) * tokens
    whole = TokenSequence(prompt_ids=ids, response_ids=(), own=(False,) * tokens)
    return sees_everything(model, model, [whole])


def _tried(stream: Stream) -> str:
    """Read two prompts, one in pieces beside a reply, and return what is wrong with the logits."""
    model = stream.model
    if missing := {"logits_to_keep", "position_ids"} - forward_takes(model):
        return f"its forward does not take {', '.join(sorted(missing))}"
    size = int(model.get_input_embeddings().weight.shape[0])
    ids = tuple((7 * place + 3) % size for place in range(9))
    first, second = stream.reading(ids[:5]), stream.reading(ids[3:], every=True)
    shelves: Shelves[int] = Shelves(stream.shape)
    found = [stream.forward(plan_of(stream.sizes, [], [(first, 5), (second, 2)]), [])]
    shelves.put(0, first.held, 5)
    for token, tokens in ((ids[5], 3), (ids[6], 1)):
        plan = plan_of(stream.sizes, shelves.shelves(), [(second, tokens)])
        found.append(stream.forward(plan, [token]))
        shelves.written()
    got = torch.cat([torch.cat([f[:1] for f in found]), *[f[1:] for f in found]])
    with torch.inference_mode():
        device = stream.shape.device
        whole = [model(torch.tensor([row], device=device)).logits[0] for row in (ids[:7], ids[3:])]
    expected = torch.cat([whole[0][4:], whole[1]]).float()
    worst = (got.log_softmax(-1) - expected.log_softmax(-1)).abs().max()
    right = bool(worst <= tolerance(model))
    return "" if right else f"{type(model).__name__} needs its own attention"
