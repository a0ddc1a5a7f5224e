"""What can be turned on the labelling server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from preftune.errors import SettingsError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Where the server listens, and how long a person stays signed in."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="Port to listen on; 0: any that is free.")
    ] = 8000
    insecure: Annotated[
        bool, Meta(description="Listen beyond this machine without TLS: passwords can be read.")
    ] = False
    public_url: Annotated[
        str, Meta(description="https://… under which a proxy that ends TLS shows this server.")
    ] = ""
    idle_hours: Annotated[
        float, Meta(gt=0, description="Signed out after this long without a request.")
    ] = 12.0
    session_days: Annotated[
        float, Meta(gt=0, description="Signed out this long after the sign-in, whatever happens.")
    ] = 7.0
    invite_days: Annotated[float, Meta(gt=0, description="How long an invitation holds.")] = 7.0
    body_limit_mib: Annotated[
        int, Meta(ge=1, le=1024, description="Largest request that is read.")
    ] = 8
    access_log: Annotated[
        Path | None, Meta(description="File for one JSON line per request; none: standard error.")
    ] = None

    def __post_init__(self) -> None:
        if self.public_url and not self._is_https_origin():
            raise SettingsError(
                f"public_url: {self.public_url!r} is no https origin. "
                "Give scheme and host alone, such as https://label.example.org"
            )
        if self.host not in LOOPBACK and not (self.insecure or self.public_url):
            raise SettingsError(
                f"host: {self.host} is beyond this machine, and passwords would cross the network "
                "unprotected. Put a proxy with TLS before it and give --public-url https://…, "
                "or --insecure on a network that you trust."
            )

    @property
    def tls(self) -> bool:
        """Whether browsers reach the server through TLS."""
        return bool(self.public_url)

    def origin(self, host_header: str) -> str | None:
        """Return the origin of our pages as a browser names it; None: asked under a foreign name.

        A foreign name in the Host header means a page elsewhere that points at this address.
        """
        if self.public_url:
            public = self.public_url.rstrip("/").lower()
            return public if host_header.lower() == urlsplit(public).netloc else None
        try:
            name = urlsplit(f"http://{host_header}").hostname
        except ValueError:
            return None
        known = name in LOOPBACK or (self.insecure and name)
        return f"http://{host_header.lower()}" if known else None

    def _is_https_origin(self) -> bool:
        parts = urlsplit(self.public_url)
        bare = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
        return parts.scheme == "https" and bool(parts.hostname) and bare
