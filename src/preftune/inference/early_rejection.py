"""Best-of-n that gives up hopeless answers early: begin all, score the beginnings, finish the best.

The scorer marks a beginning as if it ended there. Reward models can; a rule that reads the last
line cannot.
"""

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from preftune.errors import SettingsError
from preftune.graders.scorer import Scorer
from preftune.inference.backend import TransformersGenerator
from preftune.inference.best_of_n import (
    Best,
    Desk,
    Draw,
    Lengths,
    mark_kept,
    scores_of,
    token_lengths,
)
from preftune.inference.stopping import check_prompts, share_of
from preftune.responses.generator import Request
from preftune.responses.sample import plan
from preftune.types import Prompt, Response


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyRejection:
    """Draw `tokens` of every response, then finish only the best share.

    Attributes:
        tokens: length of a beginning, > 0 and less than the longest response.
        keep_frac: share of a prompt's beginnings to finish, rounded up, in (0, 1).
        check_frac: share of the prompts, rounded up, whose responses are all finished, to see what
            the rule would have lost.
    """

    tokens: int
    keep_frac: float = 0.25
    check_frac: float = 0.1

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 < self.keep_frac < 1 or not 0 <= self.check_frac <= 1:
            raise SettingsError(
                f"early rejection: tokens {self.tokens}, keep_frac {self.keep_frac}, check_frac "
                f"{self.check_frac}. Give 1 token or more, and shares in (0, 1) and 0..1."
            )


def best_of_n_rejecting(
    generator: TransformersGenerator,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    *,
    n: int,
    seed: int,
    early: EarlyRejection,
    gold: Scorer | None = None,
    checked: Collection[str] | None = None,
) -> list[Best]:
    """Return the best of those responses to each prompt whose beginnings scored best.

    A response that is finished is the one `best_of_n` draws from the same seed: it is drawn again
    from its first token, since a stream of random numbers is not entered half-way. One that ends
    within its beginning is whole already and competes as it is.

    Args:
        generator: a model in this process.
        scorer: scores beginnings and whole responses.
        prompts: each with an id of its own.
        n: responses to begin per prompt.
        seed: as for `best_of_n`.
        early: how long the beginnings are, and how many are finished.
        gold: a second scorer, which chooses nothing.
        checked: ids of prompts whose responses are all finished; None: the share that `early` says.

    Raises:
        DataError: as `best_of_n`.
        HealthError: as `best_of_n`.
        SettingsError: as `best_of_n`, or beginnings as long as the longest response.
    """
    _refuse_late(early, generator.settings.max_new_tokens)
    requests = plan(prompts, generator, n=n, seed=seed)
    generator.check(prompts)
    lengths = token_lengths(generator.chat)
    desk = Desk(generator, scorer, gold, lengths)
    begun = _begin(generator, requests, early.tokens)
    scores = scores_of(scorer, [(q.prompt, r) for q, r in zip(requests, begun, strict=True)])
    if checked is None:
        checked = check_prompts([prompt.id for prompt in prompts], early.check_frac, seed)
    kept = _kept(scores, n, early.keep_frac)
    wanted = [place for place, q in enumerate(requests) if place in kept or q.prompt.id in checked]
    whole = _finish(desk, requests, begun, wanted)
    starts = range(0, len(requests), n)
    bests = [_best(range(s, s + n), requests, begun, whole, kept, lengths) for s in starts]
    return [replace(best, checked=best.prompt_id in checked) for best in bests]


def _best(
    places: range,
    requests: Sequence[Request],
    begun: Sequence[Response],
    whole: Mapping[int, Draw],
    kept: Container[int],
    lengths: Lengths,
) -> Best:
    """Return what was begun and drawn for the prompt that has these places."""
    drawn = [place for place in places if place in whole]
    is_kept = [number for number, place in enumerate(drawn) if place in kept]
    extra = [p for p in places if p not in kept or not begun[p].finished]
    twice = [p for p in extra if p in whole and begun[p].finished]
    return Best(
        prompt_id=requests[places.start].prompt.id,
        draws=tuple(mark_kept([whole[place] for place in drawn], is_kept)),
        rejected=len(places) - len(is_kept),
        extra_tokens=sum(lengths([(requests[p].prompt, begun[p]) for p in extra])),
        drawn_tokens=sum(lengths([(requests[p].prompt, begun[p]) for p in twice])),
    )


def _refuse_late(early: EarlyRejection, longest: int) -> None:
    if early.tokens >= longest:
        raise SettingsError(
            f"early rejection after {early.tokens} tokens of at most {longest} rejects nothing "
            "early. Give fewer."
        )


def _begin(
    generator: TransformersGenerator, requests: Sequence[Request], tokens: int
) -> list[Response]:
    """Return the beginnings, each the first tokens of the response that its seed gives."""
    short = generator.drawing(replace(generator.settings, max_new_tokens=tokens))
    return short.respond(requests)


def _kept(scores: Sequence[float | None], n: int, keep_frac: float) -> frozenset[int]:
    """Return the places of the best beginnings of each prompt, the first of equals first."""
    kept: list[int] = []
    for start in range(0, len(scores), n):
        own = {p: s for p in range(start, start + n) if (s := scores[p]) is not None}
        kept += sorted(own, key=lambda place: -own[place])[: share_of(n, keep_frac)]
    return frozenset(kept)


def _finish(
    desk: Desk, requests: Sequence[Request], begun: Sequence[Response], wanted: Sequence[int]
) -> dict[int, Draw]:
    """Return the whole responses at these places, scored; only the unfinished ones are drawn."""
    ended = [place for place in wanted if begun[place].finished]
    cut = [place for place in wanted if not begun[place].finished]
    draws = desk.score([(requests[p].prompt, _whole(desk, requests[p], begun[p])) for p in ended])
    draws += desk.draw([requests[place] for place in cut]) if cut else []
    return dict(zip([*ended, *cut], draws, strict=True))


def _whole(desk: Desk, request: Request, begun: Response) -> Response:
    """Return a beginning that ended by itself as the whole response it is."""
    return replace(begun, sampling=desk.generator.sampling(request.seed))
