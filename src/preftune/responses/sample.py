"""Sample responses to a file: each exactly once, whatever stops the work in between.

Rows go to `OUT.part` in blocks, each block on disk before the next begins; the file takes its name
when it is whole. A run that finds `OUT.part` goes on after its last whole block. A block is always
drawn as a whole, so the bytes are those of a run that nothing ever stopped.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from preftune.errors import DataError, RowError, SettingsError
from preftune.files import fsync_dir
from preftune.progress import progress
from preftune.records import decode, encode
from preftune.responses.generator import Generator, Request
from preftune.responses.journal import append, open_alone
from preftune.types import Prompt, Response, content_id

BLOCK = 1024  # responses that are drawn, and put on disk, together


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReport:
    """What one run of `sample` found and did; counts are responses."""

    out: Path
    prompts: int
    responses: int  # in the file now
    kept: int  # found from an earlier run
    cut: int  # rows of an unfinished block, thrown away and drawn again; a torn row is one
    unfinished: int  # reached max_new_tokens with no end of turn


def sample(
    prompts: Sequence[Prompt],
    generators: Generator | Sequence[Generator],
    *,
    n: int,
    seed: int,
    out: Path,
    block: int = BLOCK,
) -> SampleReport:
    """Write `n` responses of each generator to each prompt as JSON lines.

    They come generator by generator, within one in the order of the prompts.

    Args:
        prompts: each with an id of its own.
        generators: who answers: one, or several that differ in name or in how they draw.
        n: responses per prompt and generator, >= 1.
        seed: any number >= 0; the same one gives the same file, another gives other responses.
        out: file to make. A whole one with these very responses is left alone; `OUT.part` is gone
            on with.
        block: how many responses are put on disk at once. Go on with the same number.

    Raises:
        DataError: no prompts, two with one id, a file already there that holds other responses, a
            damaged row, or a file that another process is writing.
        SettingsError: `n`, `seed` or `block` out of range, `n` > 1 at temperature 0, no generator
            or the same one twice.
    """
    several = generators if isinstance(generators, Sequence) else [generators]
    work = _work(prompts, several, n=n, seed=seed)
    requests = [request for _, request in work]
    if block < 1:
        raise SettingsError(f"block {block}. Put 1 response or more on disk at once.")
    if out.exists():
        return _found_whole(out, requests, len(prompts))
    for generator in several:
        generator.check(prompts)
    part = out.with_name(f"{out.name}.part")
    with open_alone(part) as file:
        kept, cut, unfinished = _go_on(file, part, requests, block)
        with progress("sampling", len(requests), done=kept) as advance:
            for start in range(kept, len(work), block):
                answered = _answers(work[start : start + block])
                append(file, b"".join(encode(response) for response in answered))
                unfinished += sum(not response.finished for response in answered)
                advance(len(answered))
        part.rename(out)
        fsync_dir(out.parent)
    return SampleReport(
        out=out,
        prompts=len(prompts),
        responses=len(requests),
        kept=kept,
        cut=cut,
        unfinished=unfinished,
    )


@runtime_checkable
class Exact(Protocol):
    """A generator whose name is not enough to tell who answers, for a person chose it."""

    @property
    def exactly(self) -> str:
        """Who answers: equal texts mean equal weights and template."""


def who_answers(generator: Generator) -> str:
    """Return what tells a generator apart from every other one."""
    return generator.exactly if isinstance(generator, Exact) else generator.name


def plan(prompts: Sequence[Prompt], generator: Generator, *, n: int, seed: int) -> list[Request]:
    """Return what to ask for: prompt by prompt, sample 0 to `n` - 1, each with a seed of its own.

    Raises:
        DataError: no prompts, or two with one id.
        SettingsError: `n` or `seed` out of range, or `n` > 1 at temperature 0.
    """
    if n < 1 or seed < 0:
        raise SettingsError(f"n {n}, seed {seed}. Draw 1 or more per prompt, from a seed >= 0.")
    if n > 1 and generator.sampling(seed).temperature == 0:
        raise SettingsError(
            f"n {n} at temperature 0 gives {n} equal responses. Draw 1, or raise it."
        )
    if not prompts:
        raise DataError("no prompts. Give a file with at least one.")
    requests: list[Request] = []
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise DataError(f"prompt {prompt.id}: given twice. Give each prompt id once.")
        seen.add(prompt.id)
        requests.extend(_request(prompt, generator, index, seed) for index in range(n))
    return requests


def check_different(generators: Sequence[Generator]) -> None:
    """Raise `SettingsError` if there is no generator, or two that would give equal responses."""
    if not generators:
        raise SettingsError("no generator. Give one or more.")
    if len({(who_answers(g), g.sampling(0)) for g in generators}) < len(generators):
        names = ", ".join(dict.fromkeys(g.name for g in generators))
        raise SettingsError(f"{names}: one is given twice. Give each model and temperature once.")


def row_seed(seed: int, prompt_id: str, index: int) -> int:
    """Return the seed of one response, 0 .. 2^52 - 1: a hash, so no two prompts share a stream."""
    digest = hashlib.sha256(f"{seed}\n{index}\n{prompt_id}".encode()).hexdigest()
    return int(digest[:13], 16)


def _request(prompt: Prompt, generator: Generator, index: int, seed: int) -> Request:
    own_seed = row_seed(seed, prompt.id, index)
    drawn = generator.sampling(own_seed)
    return Request(
        response_id=content_id("r", who_answers(generator), drawn, prompt.id, index),
        prompt=prompt,
        index=index,
        seed=own_seed,
    )


Work = Sequence[tuple[Generator, Request]]


def _work(prompts: Sequence[Prompt], generators: Sequence[Generator], *, n: int, seed: int) -> Work:
    """Return who is asked what, in the order of the file."""
    check_different(generators)
    return [(g, request) for g in generators for request in plan(prompts, g, n=n, seed=seed)]


def _answers(work: Work) -> list[Response]:
    """Return the responses, after checking that they are the ones asked for."""
    found: list[Response] = []
    for _, group in groupby(work, key=lambda pair: id(pair[0])):
        pairs = list(group)
        found += _answers_of(pairs[0][0], [request for _, request in pairs])
    return found


def _answers_of(generator: Generator, requests: Sequence[Request]) -> list[Response]:
    responses = generator.respond(requests)
    if [r.id for r in responses] != [q.response_id for q in requests]:
        raise DataError(
            f"{generator.name}: did not answer what was asked, in order. "
            "Let respond() return one response per request, under its id."
        )
    return responses


def _go_on(
    file: IO[bytes], part: Path, requests: Sequence[Request], block: int
) -> tuple[int, int, int]:
    """Cut the file after its last whole block; return rows kept, rows cut, kept ones unfinished."""
    file.seek(0)
    at_block, place, kept, unfinished, seen_unfinished = 0, 0, 0, 0, 0
    rows = 0
    for rows, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            break
        seen_unfinished += not _expected(part, rows, line, requests).finished
        place += len(line)
        if rows % block == 0 or rows == len(requests):
            at_block, kept, unfinished = place, rows, seen_unfinished
    file.truncate(at_block)
    os.fsync(file.fileno())
    return kept, rows - kept, unfinished


def _found_whole(out: Path, requests: Sequence[Request], prompts: int) -> SampleReport:
    """Return the report of a file that is whole already."""
    if out.is_dir():
        raise DataError(f"{out}: is a folder. Give the name of a file to make.")
    with out.open("rb") as file:
        found = [_expected(out, row, line, requests) for row, line in enumerate(file, start=1)]
    if len(found) != len(requests):
        raise DataError(
            f"{out}: {len(found)} responses, not the {len(requests)} asked for. Give another --out."
        )
    unfinished = sum(not response.finished for response in found)
    return SampleReport(
        out=out,
        prompts=prompts,
        responses=len(found),
        kept=len(found),
        cut=0,
        unfinished=unfinished,
    )


def _expected(path: Path, row: int, line: bytes, requests: Sequence[Request]) -> Response:
    """Return the response of one line, after checking that it is the one the plan has there."""
    try:
        record = decode(line)
    except DataError as error:
        raise RowError(
            path, row, f"damaged row: {error}", "Delete the file and sample anew"
        ) from error
    asked = requests[row - 1].response_id if row <= len(requests) else None
    if isinstance(record, Response) and record.id == asked:
        return record
    raise RowError(
        path,
        row,
        "not a response of this model, these prompts, settings and seed",
        "Give another --out, or repeat the settings it was made with",
    )
