"""Redact a file of prompts, and the responses that go with them, in one go."""

import importlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from preftune.errors import DataError, RowError, SettingsError
from preftune.files import atomic_open
from preftune.prompts.names import announced_names
from preftune.prompts.recognise import REGIONS, Recogniser, patterns
from preftune.prompts.redact import Redactor
from preftune.prompts.rows import check_paths, read_rows, write_report
from preftune.prompts.traffic import Shelf, seen, shelf_in
from preftune.records import encode
from preftune.text import visible
from preftune.types import Prompt, Response, content_id


@dataclass(frozen=True, kw_only=True, slots=True)
class RedactReport:
    """What was replaced, by kind. No value stands here, and none is kept anywhere else."""

    source: str
    prompts: int  # read
    written: int
    merged: int  # became equal to an earlier prompt; their counts are added up
    touched: int  # prompts in which anything was replaced
    responses: int
    responses_touched: int
    replaced: dict[str, int]
    name_recogniser: str
    regions: tuple[str, ...]
    origin_forgotten: bool


def recogniser_named(place: str) -> Recogniser:
    """Return the recogniser that `module:object` names; importing runs the module's code.

    Raises:
        SettingsError: there is no such module or object, or it cannot be called.
    """
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise SettingsError(f"--recogniser {place!r}. Write module:object, such as my_names:find.")
    try:
        found: Recogniser = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"--recogniser {place!r}: {error}. Put its folder on PYTHONPATH, or mend the name."
        ) from error
    if not callable(found):
        raise SettingsError(f"--recogniser {place!r}: cannot be called. Name a function.")
    return found


def redact_file(
    source: Path,
    out: Path,
    *,
    responses: Path | None = None,
    responses_out: Path | None = None,
    recogniser: str = "",
    regions: Sequence[str] = REGIONS,
    forget_origin: bool = False,
) -> RedactReport:
    """Write prompts without personal data to `out`, their responses to `responses_out`.

    A redacted prompt has the id of its new content, and its responses follow. Prompts that become
    equal are one, seen as often as all of them. Run again on its output, it changes nothing.

    Args:
        source: prompts.
        out: where to.
        responses: responses to these prompts; the same value gets the same number as there.
        responses_out: where to put them; given with `responses`, or not at all.
        recogniser: `module:object` that finds names, in the place of `announced_names`.
        regions: countries in whose form phone numbers without `+` are looked for.
        forget_origin: leave out which rows of which log a prompt came from.

    Raises:
        RowError: a row is no prompt or no response, or a response belongs to none of the prompts.
        DataError: a file cannot be read, or the recogniser gives a span outside its text.
        SettingsError: the recogniser or a region is not known, or one response path is missing.
    """
    if (responses is None) != (responses_out is None):
        raise SettingsError("responses: give --responses and --responses-out together.")
    check_paths([source, responses], [out, responses_out])
    names = recogniser_named(recogniser) if recogniser else announced_names
    work = _Work(patterns(tuple(regions)), names, forget_origin=forget_origin)
    if responses:
        work.learn(responses)
    with ExitStack() as files:
        shelf = files.enter_context(shelf_in(out.parent))
        work.prompts(source, shelf, remember=responses is not None)
        if responses and responses_out:
            work.responses(responses, files.enter_context(atomic_open(responses_out)))
        shelf.write(out)
    report = RedactReport(
        source=source.name,
        prompts=work.count["prompts"],
        written=len(shelf),
        merged=work.count["prompts"] - len(shelf),
        touched=work.count["touched"],
        responses=work.count["responses"],
        responses_touched=work.count["responses touched"],
        replaced=dict(sorted(work.replaced.items())),
        name_recogniser=recogniser or "announced names",
        regions=tuple(regions),
        origin_forgotten=forget_origin,
    )
    write_report(out, report)
    return report


class _Work:
    """Redacts prompts, then their responses, each conversation with its own numbers."""

    def __init__(
        self, patterns: tuple[Recogniser, ...], names: Recogniser, *, forget_origin: bool
    ) -> None:
        self.replaced: Counter[str] = Counter()
        self.count: Counter[str] = Counter()
        self._patterns, self._names, self._forget_origin = patterns, names, forget_origin
        self._redactors: dict[str, Redactor] = {}  # by old prompt id, where there is need of one
        self._new_ids: dict[str, str] = {}  # old prompt id to new one
        self._equal: Counter[str] = Counter()  # responses of one content, so that each has its id

    def learn(self, path: Path) -> None:
        """Note the names that replies announce, for they may stand in the prompt as well."""
        for _, response in read_rows(path, Response):
            redactor = self._redactor(response.prompt_id)
            redactor.learn(response.messages)
            if redactor:
                self._redactors[response.prompt_id] = redactor

    def prompts(self, path: Path, shelf: Shelf, *, remember: bool) -> None:
        """Put every prompt, redacted, on the shelf."""
        for line, prompt in read_rows(path, Prompt):
            redactor = self._redactor(prompt.id)
            before = self.replaced.total()
            known = replace(prompt, log_rows=()) if self._forget_origin else prompt
            clean = redactor.prompt(known)
            shelf.put(clean, _times(path, line, prompt))
            self.count["prompts"] += 1
            self.count["touched"] += self.replaced.total() > before
            if remember:
                self._new_ids[prompt.id] = clean.id
                if redactor:
                    self._redactors[prompt.id] = redactor

    def responses(self, path: Path, file: IO[bytes]) -> None:
        """Write every response, redacted, under its prompt's new id."""
        for line, response in read_rows(path, Response):
            if response.prompt_id not in self._new_ids:
                what = f"belongs to prompt {visible(response.prompt_id[:80])}, which is not there"
                raise RowError(path, line, what, "Give the prompts that it answers")
            before = self.replaced.total()
            messages = self._redactor(response.prompt_id).messages(response.messages)
            prompt_id = self._new_ids[response.prompt_id]
            told = prompt_id, response.generator, response.sampling, messages
            same = content_id("r", "redacted", *told)
            own = content_id("r", "redacted", *told, self._equal[same])
            self._equal[same] += 1
            clean = replace(response, id=own, prompt_id=prompt_id, messages=messages)
            file.write(encode(clean))
            self.count["responses"] += 1
            self.count["responses touched"] += self.replaced.total() > before

    def _redactor(self, prompt_id: str) -> Redactor:
        """Return the redactor of a conversation: the one remembered, or a fresh one."""
        return self._redactors.get(prompt_id) or Redactor(
            patterns=self._patterns, names=self._names, replaced=self.replaced
        )


def _times(path: Path, line: int, prompt: Prompt) -> int:
    try:
        return seen(prompt)
    except DataError as error:
        what, _, fix = visible(str(error)).rpartition(". ")
        raise RowError(path, line, what, fix) from error
