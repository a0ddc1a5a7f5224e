"""V15, log-probs: only own tokens count; padding side, company and order change nothing."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from preftune.engine.logprobs import token_logprobs
from preftune.models.chat import Chat, load_chat
from preftune.models.load import load_policy
from preftune.models.new import new_model
from preftune.models.tokens import TokenSequence
from preftune.types import Message, assistant, make_prompt, user

WORDS = "can i wash my red bear yes you no thank look it up please thirty degrees ten now"


@dataclass(frozen=True)
class World:
    """A tiny transformer with its chat: every word is one token."""

    chat: Chat
    model: Any

    def sequences(self) -> list[TokenSequence]:
        """One short reply, and one with a tool and a user turn inside the response."""
        asked = make_prompt(user("can i wash my bear"))
        return [
            self.chat.encode(asked, (assistant("yes thank you"),)),
            self.chat.encode(asked, long_response(tool="thirty degrees", then="please")),
        ]


def long_response(tool: str, then: str) -> tuple[Message, ...]:
    """Two own turns of 3 and 2 words, with two turns of others between them."""
    return (
        assistant("look it up"),
        Message(role="tool", content=tool),
        user(then),
        assistant("yes thirty"),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A model with random weights."""
    folder = new_model(
        tmp_path_factory.mktemp("v15") / "model",
        preset="tiny",
        texts=[WORDS],
        vocab_size=40,
        seed=0,
        tokenizer="words",
    )
    return World(chat=load_chat(folder), model=load_policy(folder))


class Unigram(nn.Module):
    """A language model that looks at nothing: each token has one log-prob wherever it stands."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.logits = nn.Parameter(torch.randn(vocab_size, generator=generator))

    def forward(self, input_ids: Tensor, **_: object) -> Any:
        """Return the same logits at every place."""
        return Output(logits=self.logits.expand(*input_ids.shape, -1))


@dataclass(frozen=True)
class Output:
    logits: Tensor


def own_ids(sequence: TokenSequence) -> list[int]:
    return [i for i, own in zip(sequence.ids, sequence.own, strict=True) if own]


def test_v15_tokens_of_others_contribute_exactly_zero(world: World) -> None:
    asked, longer = make_prompt(user("can i wash")), make_prompt(user("no no my red bear now"))
    same_own_tokens = [
        world.chat.encode(asked, long_response(tool="thirty degrees", then="please")),
        world.chat.encode(longer, long_response(tool="ten", then="now now now")),
    ]
    unigram = Unigram(40)
    scored = token_logprobs(unigram, same_own_tokens)
    expected = unigram.logits.log_softmax(-1)[own_ids(same_own_tokens[0])].sum()
    assert scored.lengths().tolist() == [3 + 1 + 2 + 1] * 2  # words and the end of each own turn
    assert scored.logprobs[0].equal(scored.logprobs[1])
    assert scored.sums().tolist() == pytest.approx([expected.item()] * 2, abs=1e-5)
    (gradient,) = torch.autograd.grad(scored.sums()[0], [unigram.logits])
    # d/d logit_v = (times v is an own token) - 7 p_v: no token of others is counted
    counts = torch.bincount(torch.tensor(own_ids(same_own_tokens[0])), minlength=40)
    by_hand = counts - 7 * unigram.logits.softmax(-1)
    assert gradient.tolist() == pytest.approx(by_hand.tolist(), abs=1e-5)


def test_v15_end_of_each_own_turn_is_scored(world: World) -> None:
    end = world.chat.end_ids[-1]
    short, long = world.sequences()
    assert own_ids(short)[-1] == end
    assert [own_ids(short).count(end), own_ids(long).count(end)] == [1, 2]
    assert token_logprobs(world.model, [short]).lengths().item() == 3 + 1


def test_v15_values_behind_the_own_tokens_are_exactly_zero(world: World) -> None:
    scored = token_logprobs(world.model, world.sequences())
    assert (scored.logprobs[~scored.own] == 0).all()
    assert (scored.logprobs[scored.own] < 0).all()


def left_padded_sums(world: World, sequences: list[TokenSequence]) -> Tensor:
    """Sum the own log-probs by hand, from one forward with the padding on the left."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    own = torch.zeros(len(sequences), width, dtype=torch.bool)
    real = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, -len(sequence) :] = torch.tensor(sequence.ids)
        own[row, -len(sequence) :] = torch.tensor(sequence.own)
        real[row, -len(sequence) :] = True
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    logits = world.model(
        input_ids=ids, attention_mask=real.long(), position_ids=positions, use_cache=False
    ).logits
    picked = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    sums: Tensor = picked.masked_fill(~own[:, 1:], 0.0).sum(-1)
    return sums


def test_v15_padding_side_changes_nothing(world: World) -> None:
    with torch.no_grad():
        right = token_logprobs(world.model, world.sequences()).sums()
        left = left_padded_sums(world, world.sequences())
    assert right.tolist() == pytest.approx(left.tolist(), abs=1e-5)


def test_v15_company_and_order_of_the_batch_change_nothing(world: World) -> None:
    short, long = world.sequences()
    with torch.no_grad():
        together = token_logprobs(world.model, [short, long, short]).sums()
        swapped = token_logprobs(world.model, [long, short, short]).sums()
        alone = [token_logprobs(world.model, [one]).sums().item() for one in (short, long)]
    assert together.tolist() == pytest.approx([*alone, alone[0]], abs=1e-5)
    assert swapped.tolist() == pytest.approx([alone[1], alone[0], alone[0]], abs=1e-5)
