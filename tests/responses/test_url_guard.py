import socket

import pytest

from preftune.errors import SettingsError
from preftune.responses.url_guard import Endpoint, guard, is_public, system_resolve

PUBLIC = "93.184.215.14"


class Names:
    """A resolver that gives the next answer of its list at each call, and counts them."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.calls = list(answers), 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.calls += 1
        return self.answers[min(self.calls, len(self.answers)) - 1]


def test_public_https_is_pinned_to_the_addresses_of_one_lookup() -> None:
    names = Names([PUBLIC, "2606:4700::6810:84e5"], ["127.0.0.1"])  # rebinds afterwards
    endpoint = guard("https://API.example.com/v1/", resolve=names)
    assert endpoint == Endpoint(
        scheme="https",
        host="api.example.com",
        port=443,
        path="/v1",
        addresses=(PUBLIC, "2606:4700::6810:84e5"),
    )
    assert names.calls == 1
    assert endpoint.netloc == "api.example.com"
    assert [endpoint.pinned("/v1/x", attempt) for attempt in range(3)] == [
        f"https://{PUBLIC}:443/v1/x",
        "https://[2606:4700::6810:84e5]:443/v1/x",
        f"https://{PUBLIC}:443/v1/x",
    ]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_name_with_any_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(address)
    for answer in ([address], [PUBLIC, address]):
        with pytest.raises(SettingsError, match=r"not a public address. Allow it by name"):
            guard("https://rebind.example.com", resolve=Names(answer))


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::6810:84e5"])
def test_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1",
        "https://[::1]",
        "https://[::ffff:127.0.0.1]",
        "https://[::ffff:7f00:1]/v1",
        "https://169.254.169.254/latest",
        "https://2130706433",
        "https://0x7f000001",
        "https://0177.0.0.1",
        "https://127.1",
        "https://0x7f.1",
        "https://1.2.3.0x4",
        "https://[fe80::1%25eth0]",
        "http://93.184.215.14",
        "http://api.example.com",
        "https://user@api.example.com",
        "https://user:pa55word@api.example.com",
        "https://api.example.com@127.0.0.1",
        "https://127.0.0.1\\@api.example.com",
        "https://api.example.com/?key=pa55word",
        "https://api.example.com/#x",
        "https://api.example.com:0",
        "https://api.example.com:99999",
        "https://api.example.com:x",
        "https://api.exa mple.com",
        "https://api.example.com\n.evil.test",
        "https://api.exämple.com",
        "https://api.example.com.",
        "https://-x.example.com",
        "https://",
        "https:///v1",
        "ftp://api.example.com",
        "file:///etc/passwd",
        "api.example.com",
        "https://[::1",
        "https://api.example.com/v1;x",
        "",
    ],
)
def test_url_in_disguise_is_refused_without_a_word_of_its_secrets(url: str) -> None:
    names = Names([PUBLIC])
    with pytest.raises(SettingsError) as caught:
        guard(url, resolve=names)
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/ignored"),
        ("https://[::1]:8443", "https://[0:0:0:0:0:0:0:1]:8443"),
        ("http://judge.local", "http://JUDGE.local:80"),
    ],
)
def test_allowed_origin_may_be_http_and_private(url: str, allow: str) -> None:
    endpoint = guard(url, allow=["https://other.example.com", allow], resolve=Names(["10.0.0.7"]))
    assert endpoint.addresses[0] in {"127.0.0.1", "::1", "10.0.0.7"}


@pytest.mark.parametrize(
    "allow",
    [
        "http://127.0.0.1:8001",  # other port
        "https://127.0.0.1:8000",  # other scheme
        "http://localhost:8000",  # other name of the same place
        "http://[::ffff:127.0.0.1]:8000",
    ],
)
def test_leave_holds_for_one_origin_only(allow: str) -> None:
    with pytest.raises(SettingsError, match=r"--allow-url http://127.0.0.1:8000"):
        guard("http://127.0.0.1:8000", allow=[allow])


def test_host_that_nobody_knows_is_refused() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(SettingsError, match=r"https://nowhere.example:443: Name or service"):
        guard("https://nowhere.example", resolve=unknown)
    with pytest.raises(SettingsError, match="no usable address"):
        guard("https://nowhere.example", resolve=Names([]))


def test_system_knows_this_machine() -> None:
    assert set(system_resolve("localhost", 80)) <= {"127.0.0.1", "::1"}
