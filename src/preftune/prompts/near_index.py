"""Find, among very many prompts, those that are nearly the same as an earlier one."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import IO

import numpy as np

from preftune.errors import SettingsError
from preftune.prompts.minhash import Hashes, band_keys
from preftune.prompts.similar import Compared, Likeness, Shingles, compared, runs_of_words
from preftune.types import Prompt

PERMUTATIONS = 128
RECALL = 0.99  # chance that a prompt exactly at the threshold is found
MOST = 64  # of a crowd of look-alikes, how many each is compared with
_AT_ONCE = 2**18  # characters that are hashed together, about
_REMEMBERED = 64  # prompts whose runs of words are kept at hand
_RUN_BYTES = 8

Span = tuple[int, int]
Near = tuple[int, float]
"""The place of a prompt that is near, and how alike it is."""


class NearIndex:
    """Takes in prompts, then says which of them are near to one that comes before.

    No answer is wrong, since each is checked on the runs of words; one prompt in a hundred that is
    exactly at the threshold may be missed, fewer above it. Of a crowd that shares much, such as one
    template filled in many ways, each is compared with the likeliest `MOST` of the first.

    The runs of words lie in a file; in memory are about 300 bytes for each prompt.
    """

    def __init__(self, near: float, file: IO[bytes]) -> None:
        if not 0 < near <= 1:
            raise SettingsError(f"--near {near}. Use a number above 0 and at most 1, such as 0.8.")
        self._near = near
        self._shape = bands_and_rows(near)
        self._file = file
        self._waiting: list[Compared] = []
        self._characters = 0  # that wait
        self._keys: list[Hashes] = []
        self._places: list[tuple[int, tuple[Span, ...]]] = []  # context, where the runs are
        self._held = 0  # runs in the file
        self._likeness = lru_cache(_REMEMBERED)(self._read)

    def add(self, prompt: Prompt) -> int:
        """Take in a prompt and return its place: 0 for the first, 1 for the next."""
        told = compared(prompt)
        self._waiting.append(told)
        self._characters += sum(map(len, told.texts))
        place = len(self._places) + len(self._waiting) - 1
        if self._characters >= _AT_ONCE:
            self._hash()
        return place

    def near(self, places: Iterable[int]) -> Iterator[Near | None]:
        """Yield for each place the most alike of those before it that is near, the first of equals.

        A place that is near to another is out: none after it is compared with it.
        """
        self._hash()
        self._file.flush()
        bands = _shared(self._keys)
        staying: dict[int, list[int]] = defaultdict(list)
        order: dict[int, int] = {}
        for place in places:
            order[place] = -len(order)
            mine = bands[place]
            common = Counter(other for band in mine for other in staying[band])
            likely = [other for other, _ in common.most_common(MOST)]
            alike = [(self._alike(place, other), order[other], other) for other in likely]
            best, _, other = max(alike, default=(0.0, 0, place))
            if best >= self._near:
                yield other, best
                continue
            for band in mine:
                if len(staying[band]) < MOST:
                    staying[band].append(place)
            yield None

    def _hash(self) -> None:
        """Work out the keys of the prompts that wait, and put their runs of words in the file."""
        if not self._waiting:
            return
        count = len(self._waiting)
        lasts = [text for one in self._waiting for text in one.texts[1:]]
        runs, starts = runs_of_words([*(one.texts[0] for one in self._waiting), *lasts])
        ends = np.append(starts[1:], len(runs))
        bands, rows = self._shape
        keys = band_keys(runs[: ends[count - 1]], starts[:count], bands=bands, rows=rows)
        contexts = np.array([one.context for one in self._waiting], dtype=np.uint64)
        self._keys.append(keys ^ contexts[:, None])
        spans = list(zip((self._held + starts).tolist(), (self._held + ends).tolist(), strict=True))
        more = iter(spans[count:])
        for one, span in zip(self._waiting, spans[:count], strict=True):
            own = (span, next(more)) if len(one.texts) > 1 else (span,)
            self._places.append((one.context, own))
        self._file.write(runs.tobytes())
        self._held += len(runs)
        self._waiting.clear()
        self._characters = 0

    def _alike(self, place: int, other: int) -> float:
        return self._likeness(place).to(self._likeness(other))

    def _read(self, place: int) -> Likeness:
        context, spans = self._places[place]
        return Likeness(context=context, runs=tuple(self._runs(*span) for span in spans))

    def _runs(self, begin: int, end: int) -> Shingles:
        size, at = (end - begin) * _RUN_BYTES, begin * _RUN_BYTES
        found = os.pread(self._file.fileno(), size, at)
        return frozenset(np.frombuffer(found, dtype=np.uint64).tolist())


def bands_and_rows(near: float) -> tuple[int, int]:
    """Return the most selective (bands, rows) that still find `RECALL` of what is just near.

    A prompt of likeness s shares a band with probability 1 - (1 - s^rows)^bands.
    """
    shapes = [(PERMUTATIONS // rows, rows) for rows in range(PERMUTATIONS // 2, 0, -1)]
    return next((b, r) for b, r in shapes if 1 - (1 - near**r) ** b >= RECALL or r == 1)


def _shared(keys: Sequence[Hashes]) -> list[list[int]]:
    """Return for each prompt numbers of its keys, equal for equal keys of one band.

    A key that no other prompt has is left out, so most prompts have none.
    """
    if not keys:
        return []
    all_keys = np.concatenate(keys)
    found: list[list[int]] = [[] for _ in all_keys]
    for band, column in enumerate(all_keys.T):
        _, numbers, counts = np.unique(column, return_inverse=True, return_counts=True)
        (places,) = np.nonzero(counts[numbers] > 1)
        for place, number in zip(places.tolist(), numbers[places].tolist(), strict=True):
            found[place].append(band * len(all_keys) + number)
    return found
