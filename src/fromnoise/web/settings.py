"""What the web interface serves, and to whom."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What the web interface serves, and to whom.

    Attributes:
        runs: the folder of runs, absolute.
        data: folders whose data sets may be trained on, absolute.
        host: address to listen on.
        port: of the server.
        token: that a browser must present; None asks for none.
        demo: name of the one run that is shown, to sample only; None for all runs and everything.
        hub: ``hub:owner/name`` of the run that is shown; None for a folder of this machine.
        public: name under which a demonstration is shown to everybody, behind a proxy that encrypts; None if it is not.
    """

    runs: Path
    data: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = None
    demo: str | None = None
    hub: str | None = None
    public: str | None = None

    @property
    def loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        return is_loopback(self.host)

    @property
    def address(self) -> str:
        """Where a browser on this machine finds it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
