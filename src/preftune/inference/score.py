"""Score responses: by a reward model, by their log-probability, by how far a policy has moved."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from preftune.engine.core import PAD_UP_TO, WORTH
from preftune.engine.layout import stream_length
from preftune.engine.logprobs import token_logprobs
from preftune.engine.modes import evaluating
from preftune.engine.scores import score_rows
from preftune.errors import DataError, HealthError
from preftune.graders.scorer import Answer
from preftune.inference.passes import by_length
from preftune.models.chat import Chat
from preftune.models.heads import RewardModel
from preftune.models.tokens import TokenSequence
from preftune.progress import progress
from preftune.stats.intervals import Interval, wilson
from preftune.text import visible
from preftune.types import PreferencePair, text_of

BATCH_SIZE, BATCH_TOKENS = 256, 16384  # rows, and tokens with padding, computed at once


def score(
    reward_model: RewardModel,
    chat: Chat,
    rows: Sequence[Answer],
    *,
    batch_size: int = BATCH_SIZE,
) -> list[float]:
    """Return the reward of each response to its prompt, in the order given.

    Responses to one prompt are computed together and read it once, wherever they stand.

    Args:
        reward_model: gives the scores.
        chat: the tokens and template of the reward model.
        rows: prompts with a response each.
        batch_size: most rows computed at once.

    Raises:
        HealthError: a score is NaN or infinite.
        ModelError: a prompt or response that the template or the model's length cannot hold.
    """
    sequences = chat.encode_all(rows)
    reward_model.check(sequences)
    rewards = [0.0] * len(sequences)
    with evaluating(reward_model), progress("scoring", len(rewards)) as advance:
        for groups in shared_batches(sequences, batch_size):
            batch = [row for group in groups for row in group]
            scored = _scored(reward_model, [[sequences[row] for row in group] for group in groups])
            for row, reward in zip(batch, scored.tolist(), strict=True):
                rewards[row] = reward
            advance(len(batch))
    _refuse_not_finite(rewards, rows, chat)
    return rewards


def sequence_logps(
    model: nn.Module, sequences: Sequence[TokenSequence], *, batch_size: int = BATCH_SIZE
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """Return the log-probability of each response in nats, and how many own tokens it sums over.

    The sums are taken in fp64 and stay on the CPU.
    """
    logps = torch.zeros(len(sequences), dtype=torch.float64)
    lengths = torch.zeros(len(sequences), dtype=torch.long)
    for batch in _batches(sequences, batch_size):
        with evaluating(model):
            scored = token_logprobs(model, [sequences[row] for row in batch])
        logps[batch] = scored.logprobs.double().sum(-1).cpu()
        lengths[batch] = scored.lengths().cpu()
    return logps, lengths


def sampled_kl(
    policy: nn.Module, reference: nn.Module, sequences: Sequence[TokenSequence]
) -> Float[Tensor, " B"]:
    """Return the k1 estimate of KL(policy : reference) of each response, in nats per response.

    The sum over own tokens of log policy - log reference. One estimate may be negative; its mean
    over responses that were drawn from the policy at temperature 1 is unbiased. Responses from
    anywhere else estimate something else. Equal models give exactly 0.

    Source: Schulman 2020, "Approximating KL divergence", estimator k1.
    """
    return sequence_logps(policy, sequences)[0] - sequence_logps(reference, sequences)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairAccuracy:
    """How often the higher reward is on the chosen side, beside a judge that only looks at length.

    A tie of rewards counts as wrong. The length-only baseline is the better of "longer wins" and
    "shorter wins" on these very pairs, in characters; equal lengths count as wrong.
    """

    pairs: int
    right: int
    ties: int
    longer_right: int
    shorter_right: int

    @property
    def accuracy(self) -> float:
        """Share of pairs with the higher reward on the chosen side."""
        return self.right / self.pairs

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval of the accuracy; it takes the pairs as independent."""
        return wilson(self.right, self.pairs)

    @property
    def baseline(self) -> str:
        """Which rule on length is right more often."""
        return "longer wins" if self.longer_right >= self.shorter_right else "shorter wins"

    @property
    def baseline_right(self) -> int:
        """How many pairs that rule gets right."""
        return max(self.longer_right, self.shorter_right)


def pair_accuracy(
    pairs: Sequence[PreferencePair], chosen: Sequence[float], rejected: Sequence[float]
) -> PairAccuracy:
    """Return how well these rewards of the chosen and rejected responses agree with the pairs.

    Raises:
        DataError: no pairs.
    """
    if not pairs:
        raise DataError("no pairs. Give a file with at least one.")
    margins = [good - bad for good, bad in zip(chosen, rejected, strict=True)]
    extra = [len(text_of(pair.chosen)) - len(text_of(pair.rejected)) for pair in pairs]
    return PairAccuracy(
        pairs=len(pairs),
        right=sum(margin > 0 for margin in margins),
        ties=sum(margin == 0 for margin in margins),
        longer_right=sum(longer > 0 for longer in extra),
        shorter_right=sum(longer < 0 for longer in extra),
    )


def score_pairs(
    reward_model: RewardModel,
    chat: Chat,
    pairs: Sequence[PreferencePair],
    *,
    batch_size: int = BATCH_SIZE,
) -> tuple[list[float], list[float]]:
    """Return the rewards of all chosen and of all rejected responses."""
    rewards = score(reward_model, chat, both_sides(pairs), batch_size=batch_size)
    return rewards[0::2], rewards[1::2]


def both_sides(pairs: Sequence[PreferencePair]) -> list[Answer]:
    """Return chosen and rejected of each pair as rows to score, pair after pair."""
    return [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]


def _scored(
    reward_model: RewardModel, rows: Sequence[Sequence[TokenSequence]]
) -> Float[Tensor, " B"]:
    """Return the scores of a batch by the quicker way: prompts read once, or padded rows."""
    together = [sequence for row in rows for sequence in row]
    longest = max(len(sequence) for sequence in together)
    if longest > PAD_UP_TO or len(together) * longest >= WORTH * sum(map(stream_length, rows)):
        return score_rows(reward_model, rows)
    scores: Tensor = reward_model(together)
    return scores


def shared_batches(
    sequences: Sequence[TokenSequence], batch_size: int
) -> Iterator[list[list[int]]]:
    """Yield what to compute together: groups of row numbers that share their prompt.

    A batch keeps to both limits even where the model cannot share prompts; a larger group is
    split, a row longer than the limit stands alone.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, sequence in enumerate(sequences):
        by_prompt.setdefault(sequence.prompt_ids, []).append(row)
    pieces: list[tuple[int, list[int]]] = []  # longest sequence in tokens, rows
    for group in by_prompt.values():
        longest = max(len(sequences[row]) for row in group)
        size = max(1, min(batch_size, BATCH_TOKENS // longest))
        pieces += [(longest, group[at : at + size]) for at in range(0, len(group), size)]
    batch: list[list[int]] = []
    rows = widest = 0
    for longest, piece in sorted(pieces, key=lambda piece: -piece[0]):
        rows, widest = rows + len(piece), max(widest, longest)
        if batch and (rows > batch_size or rows * widest > BATCH_TOKENS):
            yield batch
            batch, rows, widest = [], len(piece), longest
        batch.append(piece)
    if batch:
        yield batch


def _refuse_not_finite(rewards: Sequence[float], rows: Sequence[Answer], chat: Chat) -> None:
    for number, (reward, (prompt, _)) in enumerate(zip(rewards, rows, strict=True), 1):
        if not math.isfinite(reward):
            raise HealthError(
                f"{chat.where}: row {number} (prompt {visible(prompt.id)}): the score is {reward}. "
                "Look at that row, or train the reward model again."
            )


def _batches(sequences: Sequence[TokenSequence], batch_size: int) -> list[list[int]]:
    lengths = [len(sequence) for sequence in sequences]
    return list(by_length(lengths, batch_size=batch_size, batch_tokens=BATCH_TOKENS))
