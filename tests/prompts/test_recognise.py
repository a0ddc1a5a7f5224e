"""Each recogniser finds what it says and leaves alone what only looks like it."""

import ipaddress

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum import iban, luhn

from preftune.errors import SettingsError
from preftune.prompts.names import announced_names
from preftune.prompts.recognise import (
    Recogniser,
    addresses,
    cards,
    emails,
    ibans,
    ip_addresses,
    patterns,
    phones,
)


def found(recognise: Recogniser, text: str) -> list[str]:
    spans = sorted(recognise(text), key=lambda span: span.start)
    return [text[span.start : span.end] for span in spans]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to bob.o+x@mail.example.com.", ["bob.o+x@mail.example.com"]),
        ("(jürgen@bücher.example), a@b.de@c.de", ["jürgen@bücher.example", "a@b.de"]),
        ("me @ home, x@y, @bob, foo@", []),
    ],
)
def test_emails(text: str, expected: list[str]) -> None:
    assert found(emails, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card 4111 1111 1111 1111 thanks", ["4111 1111 1111 1111"]),
        ("Visa5500005555555559,378282246310005", ["5500005555555559", "378282246310005"]),
        ("7 4111-1111-1111-1111", ["4111-1111-1111-1111"]),  # a digit in front is no part of it
        ("4111 1111 1111 1112", []),  # one digit wrong: its check digit does not fit
        ("order 1009, 0000 0000 0000 0000", []),
    ],
)
def test_cards(text: str, expected: list[str]) -> None:
    assert found(cards, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("to DE89 3704 0044 0532 0130 00 NOW", ["DE89 3704 0044 0532 0130 00"]),
        ("GB82WEST12345698765432, gb82 west 1234 5698 7654 32", None),
        ("DE88 3704 0044 0532 0130 00", []),
    ],
)
def test_ibans(text: str, expected: list[str] | None) -> None:
    assert found(ibans, text) == (text.split(", ") if expected is None else expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 10.0.0.1. and 192.168.1.254:8080", ["10.0.0.1", "192.168.1.254"]),
        ("[2001:db8::1], ::1. fe80::1ff:fe23:4567:890a", None),
        ("at 10:30:15, v1.2.3, 1.2.3.4.5, 300.1.1.1, std::a, aa:bb:cc:dd:ee:ff", []),
    ],
)
def test_ip_addresses(text: str, expected: list[str] | None) -> None:
    v6 = ["2001:db8::1", "::1", "fe80::1ff:fe23:4567:890a"]
    assert found(ip_addresses, text) == (v6 if expected is None else expected)


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        (("US",), ["+44 20 7946 0958", "(415) 555-2671"]),
        (("GB",), ["+44 20 7946 0958", "020 7946 0018"]),
        ((), ["+44 20 7946 0958"]),
    ],
)
def test_phones_without_plus_are_those_of_the_regions(
    regions: tuple[str, ...], expected: list[str]
) -> None:
    text = "call +44 20 7946 0958, (415) 555-2671, 020 7946 0018; order 1009, 2024-05-06"
    assert found(phones(regions), text) == expected


def test_unknown_region_is_an_error() -> None:
    with pytest.raises(SettingsError, match="--region 'UK'"):
        phones(("GB", "UK"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I live at 221B Baker Street, London NW1 6XE.", ["221B Baker Street", "NW1 6XE"]),
        ("ship to 12 baker street. Thanks", ["12 baker street"]),
        ("1600 Pennsylvania Ave., Apt 4b, Washington, DC 20500", None),
        ("Hauptstraße 12a, Am Lindenweg 3", ["Hauptstraße 12a", "Lindenweg 3"]),
        ("P.O. Box 17", ["P.O. Box 17"]),
        ("wash 2 minutes on the way at 40 degrees , a 3 way street ?", ["3 way street"]),
    ],
)
def test_addresses(text: str, expected: list[str] | None) -> None:
    us = ["1600 Pennsylvania Ave., Apt 4b", "DC 20500"]
    assert found(addresses, text) == (us if expected is None else expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dear Mr. J. O'Brien, hello", ["J. O'Brien"]),
        ("my name is ana and I", ["ana"]),
        ("My name's Ana-Lucia de Vries.", ["Ana-Lucia"]),  # "de" ends it: see docs/prompts.md
        ("Hi Bob, ask Dr Wu or mrs smith", ["Bob", "Wu", "smith"]),
        ("Ana's Dear Zoë Adams\n", ["Zoë Adams"]),
        ("best regards,\n\nZoë Adams\n", ["Zoë Adams"]),
        ("Thanks\nPlease send it. Hello there, Dear Sir, hi all, Hello world", []),
        ("Ana called me", []),
    ],
)
def test_announced_names(text: str, expected: list[str]) -> None:
    assert found(announced_names, text) == expected


def luhn_number(digits: str) -> str:
    return f"{digits}{luhn.calc_check_digit(digits)}"


def german_iban(digits: str) -> str:
    check = 98 - int(digits + "131400") % 97  # ISO 13616: D is 13, E is 14
    number = f"DE{check:02d}{digits}"
    assert iban.is_valid(number)
    return number


def international(region: str) -> str:
    number = phonenumbers.example_number(region)
    assert number is not None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)


PERSONAL = st.one_of(
    st.from_regex(r"[a-z]{1,9}(\.[a-z]{1,9})?@[a-z]{2,9}\.(com|de|org)", fullmatch=True),
    st.from_regex(r"[1-9][0-9]{14}", fullmatch=True).map(luhn_number),
    st.from_regex(r"[0-9]{18}", fullmatch=True).map(german_iban),
    st.integers(0, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n))),
    st.integers(2**64, 2**128 - 1).map(lambda n: str(ipaddress.IPv6Address(n))),
    st.sampled_from(["US", "GB", "DE", "JP", "BR"]).map(international),
)


@given(
    PERSONAL,
    st.sampled_from(["", "it is ", "see: ", "(", "\n", "é "]),
    st.sampled_from(["", ".", ") now", ", x", "\n"]),
)
def test_whatever_is_planted_is_covered(value: str, before: str, after: str) -> None:
    text = before + value + after
    covered = {
        place
        for recognise in patterns(("US", "GB"))
        for span in recognise(text)
        for place in range(span.start, span.end)
    }
    assert covered >= set(range(len(before), len(before) + len(value)))


@given(st.text(max_size=60))
def test_any_text_gives_spans_inside_it(text: str) -> None:
    for recognise in (*patterns(("US",)), announced_names):
        for span in recognise(text):
            assert 0 <= span.start < span.end <= len(text)
