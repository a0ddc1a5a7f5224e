"""The one token-level form of a prompt with its response that every method trains on and scores."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSequence:
    """Ids of a prompt and of its response, joined as ids, never re-tokenised as text.

    `own` marks the model's own tokens over prompt + response: only these are ever scored or
    trained on. User, system, tool and template tokens are False; the one end-of-turn token that
    closes each own turn is True.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    own: tuple[bool, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Prompt ids followed by response ids."""
        return self.prompt_ids + self.response_ids

    @property
    def own_length(self) -> int:
        """How many of the tokens are the model's own."""
        return sum(self.own)

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)
