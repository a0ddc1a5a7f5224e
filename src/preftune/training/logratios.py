"""How far a policy is from its frozen reference: log ratios, step 0, held-out pairs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.engine.batches import chunks
from preftune.engine.core import Core
from preftune.engine.layout import HasSequences
from preftune.engine.logprobs import TokenLogprobs
from preftune.engine.reference import Reference
from preftune.errors import HealthError
from preftune.models.chat import Chat
from preftune.training.facts import Leans
from preftune.training.method_settings import ListwiseSettings, UnpairedSettings
from preftune.training.rows import PairRow, TokenRows
from preftune.training.run import Run
from preftune.training.tokenise import pair_rows
from preftune.types import PreferencePair

STEP_0_TOLERANCE = 1e-5  # nats
EVAL_BATCH = 64  # pairs in one forward without gradient

ReferenceSettings = UnpairedSettings | ListwiseSettings


def reference_of(
    run: Run,
    core: Core,
    rows: Sequence[HasSequences],
    batches: Iterable[Sequence[int]],
    s: ReferenceSettings,
    *,
    name: str = "train",
) -> Reference:
    """Return the log-probs of all responses under the model as it starts, computed once.

    Args:
        run: keeps them, together with all that their last bit depends on.
        core: the model as it starts.
        rows: all rows.
        batches: row numbers to forward together, as the steps will.
        s: seed, batch size and engine.
        name: of what the rows are for.
    """
    how = f"{s.run.seed}/{s.optimizer.batch_size}/{s.engine}/{s.lora}"
    return run.reference(core, rows, batches, how=how, name=name)


def logratios(
    core: Core, rows: Sequence[HasSequences], reference: TokenLogprobs
) -> Float[Tensor, " B"]:
    """Return log policy - log reference of every response, row after row, in nats.

    Taken token by token, so that it is exactly 0 when the two are equal.

    Args:
        core: the policy.
        rows: one or more responses each, B in all.
        reference: log-probs of the same responses under the reference.
    """
    policy = core.token_logprobs([row.sequences for row in rows]).logprobs
    return (policy - reference.logprobs.to(policy.device)).sum(-1)


def check_step_0(metrics: Mapping[str, float]) -> None:
    """Stop unless policy == reference: every log ratio 0 before the first update.

    Raises:
        HealthError: they differ.
    """
    worst = metrics["largest_logratio"]
    if not worst <= STEP_0_TOLERANCE:
        raise HealthError(
            f"step 0: policy and reference differ by {worst:.2e} nats, loss {metrics['loss']:.6f}. "
            "Use a new --out; if it comes again, this model's forward is not reproducible."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutPairs:
    """Pairs kept out of training, with their log-probs under the reference."""

    rows: TokenRows[PairRow]
    reference: Reference

    @classmethod
    def of(
        cls,
        run: Run,
        core: Core,
        chat: Chat,
        pairs: Sequence[PreferencePair],
        s: ReferenceSettings,
    ) -> "HeldOutPairs":
        """Return the pairs that fit, before the first step."""
        rows = run.rows_that_fit(pair_rows(pairs, chat), s.length, chat, name="held_out")
        batches = chunks(range(len(rows)), EVAL_BATCH)
        reference = reference_of(run, core, rows, batches, s, name="held_out")
        return cls(rows=rows, reference=reference)

    def report(self, run: Run, core: Core, *, trained_on: Leans) -> None:
        """Write how often the trained policy prefers what the raters chose, if a pair is left."""
        if not self.rows:
            return
        run.report_held_out(
            trained_on=trained_on, leans=self.rows.facts["lean"], margins=self.margins(core)
        )

    @torch.no_grad()
    def margins(self, core: Core) -> list[float]:
        """Return how much more than the reference the policy prefers chosen, in nats per pair."""
        parts = []
        for micro in chunks(range(len(self.rows)), EVAL_BATCH):
            found = logratios(core, [self.rows[i] for i in micro], self.reference.of(micro))
            parts.append(found[0::2] - found[1::2])
        return torch.cat(parts).tolist()
