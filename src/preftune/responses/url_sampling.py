"""Sample from models behind a URL: say what it may cost, keep each answer as it comes, then write.

Beside `OUT` lie `OUT.answers`, every answer so far (gone when `OUT` is whole), and, when prices are
given, `OUT.ledger`, what was spent on it in all runs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from preftune.errors import SettingsError
from preftune.files import write_atomic
from preftune.progress import progress
from preftune.responses.generator import GenerateSettings, Request
from preftune.responses.http_client import HttpChatClient
from preftune.responses.journal import Journal
from preftune.responses.openai_generator import (
    Answers,
    Failure,
    MissingResponsesError,
    OpenAIGenerator,
)
from preftune.responses.remote import HttpSettings
from preftune.responses.sample import SampleReport, check_different, plan, sample
from preftune.responses.spending import FREE, Bill, Estimate, Ledger, Prices, estimate
from preftune.types import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlReport:
    """What a run did, and what all runs for this file spent."""

    sampled: SampleReport
    found: int  # answers on disk from runs before this one
    asked: int  # answers got in this run
    spent_usd: float | None  # None: no prices


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A model at the server and its prices; None: no account is kept."""

    model: str
    prices: Prices | None = None


def sample_url(
    prompts: Sequence[Prompt],
    http: HttpSettings,
    models: Sequence[Asked],
    draws: Sequence[GenerateSettings],
    *,
    n: int,
    seed: int,
    out: Path,
    cap_usd: float | None = None,
    tell: Callable[[str], None],
) -> UrlReport:
    """Write `n` responses of each model under each of `draws`; see `sample`.

    Each answer is on disk before the next is taken, so a run killed at any moment has paid in vain
    for no more than the requests then under way.

    Args:
        prompts: each with an id of its own.
        http: where the models are.
        models: names at the server, and prices for all of them or for none.
        draws: ways to draw, such as several temperatures.
        n: responses per prompt, model and way to draw.
        seed: any number >= 0.
        out: file to make.
        cap_usd: most to spend on `out`, over all runs; needs prices.
        tell: takes the estimate before anything is asked, and what is worth knowing after.

    Raises:
        SettingsError: the estimate is above the cap, a cap without prices, or a bad setting.
        DataError: files of another run, damaged, or in use.
        ModelError: some answers could not be had; the others are kept.
    """
    with Journal(_beside(out, "answers")) as journal, _ledger(models, cap_usd, out) as ledger:
        if journal.torn:
            tell(f"{journal.path}: its last line was cut short and is asked for again")
        answers = Answers(journal)
        parts = [
            _Part(client, generator, model.prices or FREE, plan(prompts, generator, n=n, seed=seed))
            for model in models
            for client in [_client(http, model, ledger)]
            for generator in [OpenAIGenerator(client, draw, answers) for draw in draws]
        ]
        generators = [part.generator for part in parts]
        check_different(generators)
        everything = [request for part in parts for request in part.requests]
        asked = 0 if out.exists() else _gather(parts, ledger, out, tell)
        sampled = sample(prompts, generators, n=n, seed=seed, out=out, block=len(everything))
        _drop(journal, answers.besides({q.response_id for q in everything}), tell)
    return UrlReport(
        sampled=sampled,
        found=len(everything) - asked,
        asked=asked,
        spent_usd=ledger.spent_usd if ledger else None,
    )


class _Part(NamedTuple):
    """One model under one way to draw, and what to ask it."""

    client: HttpChatClient
    generator: OpenAIGenerator
    prices: Prices
    requests: Sequence[Request]


def _client(http: HttpSettings, model: Asked, ledger: Ledger | None) -> HttpChatClient:
    bill = Bill(ledger=ledger, prices=model.prices) if ledger and model.prices else None
    return HttpChatClient(http, model.model, bill=bill)


def _gather(
    parts: Sequence[_Part], ledger: Ledger | None, out: Path, tell: Callable[[str], None]
) -> int:
    """Have every answer on disk; return how many were asked for.

    One model's failures do not keep the next from being asked; they are raised at the end, and
    listed in `OUT.failed`.
    """
    missing = _check_cost(parts, ledger, tell)
    total = sum(len(part.requests) for part in parts)
    failures: list[Failure] = []
    with progress("asking", total) as advance:
        for part in parts:
            try:
                for _ in part.generator.gather(part.requests):
                    advance(1)
            except MissingResponsesError as error:
                failures += error.failures
    for note in dict.fromkeys(note for part in parts for note in part.client.notes):
        tell(f"note: {note}")
    if ledger:
        tell(f"{ledger.spent_usd:.4f} USD spent on {out.name} so far")
    _list_failures(_beside(out, "failed"), failures)
    return missing


def _list_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write the failures and raise them; with none, take the list of an earlier run away."""
    path.unlink(missing_ok=True)
    if failures:
        write_atomic(path, b"".join(msgspec.json.encode(f) + b"\n" for f in failures))
        raise MissingResponsesError(failures)


def _check_cost(parts: Sequence[_Part], ledger: Ledger | None, tell: Callable[[str], None]) -> int:
    """Say what the missing answers may cost, stop if that is above the cap; return how many."""
    guessed = Estimate()
    for part in parts:
        part.generator.check([request.prompt for request in part.requests])
        guessed += estimate(part.generator.missing(part.requests), part.prices)
    if guessed.requests:
        cost = f": at most about {guessed.cost_usd:.4f} USD" if ledger else ""
        tell(f"{guessed}{cost}")
    if ledger:
        ledger.refuse_above_cap(guessed.cost_usd)
    return guessed.requests


def _drop(journal: Journal, others: int, tell: Callable[[str], None]) -> None:
    """Delete the answers, which are all in the file now; keep them if there are others as well."""
    if others:
        tell(f"{others} answers to other prompts or under other settings stay in {journal.path}")
    else:
        journal.delete()


@contextmanager
def _ledger(models: Sequence[Asked], cap_usd: float | None, out: Path) -> Iterator[Ledger | None]:
    """Yield the ledger of this file; None when no prices are given."""
    if not models:
        raise SettingsError("no model. Name one or more that the server has.")
    if len({model.prices is None for model in models}) > 1:
        raise SettingsError("prices for some models only. Give them for all, or for none.")
    if cap_usd is not None and models[0].prices is None:
        raise SettingsError("a cost cap without prices. Give USD per million tokens, in and out.")
    if models[0].prices is None:
        yield None
        return
    with Journal(_beside(out, "ledger")) as journal:
        yield Ledger(journal, cap_usd=cap_usd)


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.name}.{what}")
