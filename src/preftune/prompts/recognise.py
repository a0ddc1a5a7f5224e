"""Find personal data in a text: spans with a kind, from patterns and from whatever is plugged in.

A recogniser is a function of the text alone. Those here check what can be checked: card numbers by
their check digit, IBANs by theirs, phone numbers by the numbering plan of a country.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Characters `start` to `end` (not included) of a text, and what they are, such as EMAIL."""

    start: int
    end: int
    kind: str


class Recogniser(Protocol):
    """Finds spans; the same text always gives the same ones."""

    def __call__(self, text: str, /) -> Iterable[Span]:
        """Return the spans found, in any order; kinds are capitals, such as NAME."""


REGIONS = ("US", "GB")
"""Where a phone number without `+` is looked for when nothing else is said."""

_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]*\w@[\w-]+(?:\.[\w-]+)+")
_CARD_DIGITS = re.compile(r"[0-9](?:[ .\-\u00a0\u2011]?[0-9]){12,}")
_DIGITS = re.compile(r"[0-9]+")
_IBAN_START = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}")
_IBAN_REST = re.compile(r"(?:[ \-\u00a0]?[0-9A-Za-z]){11,30}")
_IP = re.compile(
    r"(?<![\w.:])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\.?\d)|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f.]*){2,})"
)
_WORD_GOES_ON = re.compile(r"[0-9A-Za-z]")
_MANY_DIGITS = re.compile(r"\d(?:[\Wx]{0,4}\d){5}")  # what a phone number has at least
_STREETS = (
    "street|st|road|rd|avenue|ave|lane|ln|drive|dr|court|ct|close|square|sq|boulevard|blvd|way|"
    "terrace|place|pl|crescent|gardens|row|parkway|pkwy|highway|hwy"
)
_PLAIN_STREETS = "street|road|avenue|lane|boulevard|terrace|crescent"
_ADDRESSES = tuple(
    re.compile(pattern)
    for pattern in (
        # 221B Baker Street, Flat 4 · 12 baker street
        rf"(?<!\w)\d{{1,5}}[A-Za-z]?(?:[-/]\d{{1,4}})?,?\s+"
        rf"(?:(?:[A-Z][\w'’.-]*\s+){{1,4}}(?i:{_STREETS})|[\w'’-]+\s+(?i:{_PLAIN_STREETS}))(?!\w)"
        r"(?:\.?,?\s+(?i:apt|apartment|flat|unit|suite)\.?\s+\w{1,5}(?!\w))?",
        # Hauptstraße 12a
        r"(?<!\w)[^\W\d_][\w-]*(?i:straße|strasse|str\.|weg|gasse|platz|allee)\s+\d{1,4}\s?[a-z]?(?!\w)",
        # NW1 6XE · after a comma: CA 94105-1234
        r"(?<!\w)[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}(?!\w)",
        r"(?<=,\s)[A-Z]{2}\s+\d{5}(?:-\d{4})?(?!\w)",
        r"(?<!\w)(?i:p\.?\s?o\.?\s?box)\s+\d+",
    )
)


def emails(text: str) -> Iterator[Span]:
    """Yield e-mail addresses."""
    if "@" in text:
        yield from _spans(_EMAIL, text, "EMAIL")


def cards(text: str) -> Iterator[Span]:
    """Yield payment cards: 13 to 19 digits, in groups or not, with the right check digit (Luhn)."""
    from stdnum import luhn

    for run in _CARD_DIGITS.finditer(text):
        groups = [(m.start(), m.end()) for m in _DIGITS.finditer(text, run.start(), run.end())]
        first = 0
        while first < len(groups):
            last = _card_end(text, groups, first, luhn.is_valid)
            if last is not None:
                yield Span(start=groups[first][0], end=groups[last][1], kind="CARD")
            first = first + 1 if last is None else last + 1


def ibans(text: str) -> Iterator[Span]:
    """Yield international bank account numbers with the right length and check digits."""
    from stdnum import iban

    for start in _IBAN_START.finditer(text):
        rest = _IBAN_REST.match(text, start.end())
        for end in range(rest.end() if rest else 0, start.end() + 10, -1):
            whole = not _WORD_GOES_ON.match(text, end) and text[end - 1].isalnum()
            if whole and iban.is_valid(text[start.start() : end].replace("\u00a0", " "), False):
                yield Span(start=start.start(), end=end, kind="IBAN")
                break


def ip_addresses(text: str) -> Iterator[Span]:
    """Yield IPv4 and IPv6 addresses; a version such as 1.2.3.4 looks the same and is found too."""
    for match in _IP.finditer(text):
        whole = match[0]
        for found in dict.fromkeys((whole, whole.rstrip("."), whole.rstrip(".:"))):
            end = match.start() + len(found)
            if _is_ip(found) and not _WORD_GOES_ON.match(text, end):
                yield Span(start=match.start(), end=end, kind="IP")
                break


def addresses(text: str) -> Iterator[Span]:
    """Yield what looks like a postal address: a house number with a street, a postcode, a box."""
    for pattern in _ADDRESSES:
        yield from _spans(pattern, text, "ADDRESS")


def phones(regions: tuple[str, ...]) -> Recogniser:
    """Return a recogniser of phone numbers: with `+` of any country, without it of these regions.

    Args:
        regions: two-letter codes such as GB; a number is found when its plan allows it there.

    Raises:
        SettingsError: a region is not known.
    """
    from phonenumbers import SUPPORTED_REGIONS

    from preftune.errors import SettingsError

    if unknown := set(regions) - SUPPORTED_REGIONS:
        raise SettingsError(f"--region {min(unknown)!r}. Use a two-letter code such as US or GB.")

    def recognise(text: str, /) -> Iterator[Span]:
        from phonenumbers import PhoneNumberMatcher

        if _MANY_DIGITS.search(text):
            for region in regions or (None,):
                for found in PhoneNumberMatcher(text, region):
                    yield Span(start=found.start, end=found.end, kind="PHONE")

    return recognise


def patterns(regions: tuple[str, ...]) -> tuple[Recogniser, ...]:
    """Return all recognisers of this file; where two find the same place, the earlier one wins."""
    return emails, ibans, cards, ip_addresses, phones(regions), addresses


def _spans(pattern: re.Pattern[str], text: str, kind: str) -> Iterator[Span]:
    for match in pattern.finditer(text):
        yield Span(start=match.start(), end=match.end(), kind=kind)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return any(c.isdigit() for c in text)


def _card_end(
    text: str, groups: list[tuple[int, int]], first: int, valid: Callable[[str], bool]
) -> int | None:
    """Return the last of the groups that make a card number with the first one, the longest."""
    best, digits = None, ""
    for last in range(first, len(groups)):
        digits += text[slice(*groups[last])]
        if len(digits) > 19:
            break
        if len(digits) >= 13 and len(set(digits)) > 1 and valid(digits):
            best = last
    return best
