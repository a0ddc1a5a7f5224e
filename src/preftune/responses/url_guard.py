"""Which URLs may be asked: https to public addresses, or what is allowed by name.

The host is resolved once and the connection goes to an address found then, so a name that answers
with another address later changes nothing. Redirects are for the client to refuse.
"""

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from preftune.errors import SettingsError

Resolve = Callable[[str, int], Sequence[str]]
DEFAULT_PORTS = {"http": 80, "https": 443}
SIX_TO_FOUR = IPv6Network("2002::/16")  # an IPv4 address inside an IPv6 one
HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
PATH = re.compile(r"[\w.~/%:@+-]*", re.ASCII)
NUMBER_LIKE = re.compile(r"0x[0-9a-f]*|[0-9]+")  # a last label that old resolvers take for IPv4


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A server that passed the guard; `addresses` are the only ones to connect to."""

    scheme: str
    host: str  # as in the URL, lower case, no brackets
    port: int
    path: str
    addresses: tuple[str, ...]

    @property
    def netloc(self) -> str:
        """Return the host as the server knows it, with the port unless it is the usual one."""
        usual = self.port == DEFAULT_PORTS[self.scheme]
        return _bracketed(self.host) if usual else f"{_bracketed(self.host)}:{self.port}"

    @property
    def origin(self) -> str:
        """Return scheme, host and port, such as `http://127.0.0.1:8000`."""
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"

    def pinned(self, path: str, attempt: int) -> str:
        """Return the URL of a path at one of the addresses; each attempt takes the next one."""
        address = self.addresses[attempt % len(self.addresses)]
        return f"{self.scheme}://{_bracketed(address)}:{self.port}{path}"


def system_resolve(host: str, port: int) -> list[str]:
    """Return the addresses the system knows for a host, in its order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def guard(url: str, *, allow: Sequence[str] = (), resolve: Resolve = system_resolve) -> Endpoint:
    """Return the endpoint of a URL that may be asked.

    `http://2130706433/` and `http://[::ffff:7f00:1]/` are both 127.0.0.1 and both refused.

    Args:
        url: where the API is, such as `https://api.example.com/v1`.
        allow: URLs whose scheme, host and port may be used though http or not public.
        resolve: addresses of a host; called once.

    Raises:
        SettingsError: not a plain http(s) URL, http or an address that is not public without
            leave, or a host with no address. The message holds no user name, password or query.
    """
    parts = _parsed(url)
    scheme, host, port = _origin(parts)
    shown = f"{scheme}://{_bracketed(host)}:{port}"
    allowed = (scheme, host, port) in {_origin(_parsed(entry)) for entry in allow}
    leave = f"Allow it by name: --allow-url {shown}"
    if scheme == "http" and not allowed:
        raise SettingsError(f"{shown}: http, which anybody on the way can read. {leave}")
    addresses = _addresses(host, port, shown, resolve)
    hidden = [address for address in addresses if not is_public(address)]
    if hidden and not allowed:
        raise SettingsError(f"{shown}: {hidden[0]} is not a public address. {leave}")
    return Endpoint(
        scheme=scheme, host=host, port=port, path=parts.path.rstrip("/"), addresses=addresses
    )


def is_public(address: str) -> bool:
    """Return whether an address is of the open internet; one that wraps IPv4 in IPv6 is not."""
    ip = ip_address(address)
    wrapped = isinstance(ip, IPv6Address) and ip in SIX_TO_FOUR
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or wrapped)


def _parsed(url: str) -> SplitResult:
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise SettingsError(
            "url: a blank, a backslash or a character outside ASCII. Write a plain URL; "
            "a host with other letters in its xn-- form."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SettingsError("url: host or port cannot be read. Check it.") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0:
        raise SettingsError("url: not http:// or https:// and a host. Write the whole URL.")
    if "@" in parts.netloc:
        raise SettingsError(
            "url: a user name or password in it. Give the key by key_env or key_file."
        )
    if parts.query or parts.fragment or not PATH.fullmatch(parts.path):
        raise SettingsError("url: more than scheme, host, port and a plain path. Leave it out.")
    return parts


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    """Return scheme, host and port; an address in one spelling only."""
    host = parts.hostname or ""
    literal = _literal(host)
    if literal is None and not HOST.fullmatch(host):
        raise SettingsError("url: a host name with odd characters. Check it.")
    if literal is None and NUMBER_LIKE.fullmatch(host.rpartition(".")[2]):
        raise SettingsError(
            f"url: {host} is an address in an unusual spelling. Write it as four decimal numbers."
        )
    return parts.scheme, str(literal or host), parts.port or DEFAULT_PORTS[parts.scheme]


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return None if "%" in host else ip_address(host)
    except ValueError:
        return None


def _addresses(host: str, port: int, shown: str, resolve: Resolve) -> tuple[str, ...]:
    if _literal(host) is not None:
        return (host,)
    try:
        found = tuple(resolve(host, port))
    except OSError as error:
        why = error.strerror or "not known"
        raise SettingsError(f"{shown}: {why}. Check the host name and the network.") from error
    if not found or any(_literal(address) is None for address in found):
        raise SettingsError(f"{shown}: no usable address. Check the host name and the network.")
    return found


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
