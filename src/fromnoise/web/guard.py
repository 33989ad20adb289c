"""Which requests are answered: of this page, to this address, with the token, and of limited size.

A page of another origin can make a browser send requests to a server on this machine, also under a name of its own that
resolves to 127.0.0.1 (DNS rebinding). Each request is therefore checked before anything reads it: its Host is the
address that is served, and its Origin and Sec-Fetch-Site, where the browser sends them, are the same origin. A request
that changes something must carry an Origin. No header of CORS is ever sent.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fromnoise.web.settings import Settings

MAX_FORM = 64 << 10
"""Bytes of a request, but for an image."""
MAX_IMAGE = 16 << 20
"""Bytes of an uploaded image."""
IMAGE_PATH = "/images"
"""End of the path to which images are uploaded."""

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_DEFAULT_PORT = ":80"  # which a Host header leaves out


class TooLarge(Exception):
    """The body of a request, whose length was not declared, is larger than its limit."""


class Guard:
    """ASGI middleware that refuses requests of other origins, to other names, without the token, or too large."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Guard an application.

        Args:
            app: the application.
            settings: address and token.
        """
        self.app, self.settings = app, settings
        self.cookie = f"fromnoise-{settings.port}"  # browsers share cookies between the ports of a machine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse a request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # there are no websockets
            return await send({"type": "websocket.close", "code": 1008})
        headers = Headers(scope=scope)
        limit = MAX_IMAGE if scope["path"].endswith(IMAGE_PATH) else MAX_FORM
        refusal = self.refusal(scope, headers, limit)
        if refusal is not None:
            return await refusal(scope, receive, self.with_headers(send))
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise TooLarge
            return message

        await self.app(scope, limited, self.with_headers(send))

    def refusal(self, scope: Scope, headers: Headers, limit: int) -> Response | None:
        """The answer to a request that is refused; None for one that is served."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self.is_own_host(host):
            return _refuse(f"this server is not {host[:100]!r}: open {self.settings.address}", 421)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return _refuse("method not allowed", 405)
        origins = headers.getlist("origin")
        own = {f"http://{host.lower()}"} | ({f"https://{self.settings.public}"} if self.settings.public else set())
        if any(origin.lower() not in own for origin in origins):
            return _refuse("requests of other origins are refused")
        visit = self.settings.public is not None and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not visit:
            return _refuse("requests of other sites are refused")
        if scope["method"] == "POST" and not origins:
            return _refuse("a request that changes something needs an Origin")
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limit:
            return too_large(limit)
        return self.missing_token(scope, headers)

    def with_headers(self, send: Send) -> Send:
        """A ``send`` that adds the headers which every answer has."""
        policy, headers = CONTENT_POLICY, _HEADERS
        if self.settings.public is not None:  # others may show a demonstration in a frame
            policy = policy.replace("frame-ancestors 'none'", "frame-ancestors *")
            headers = {name: value for name, value in headers.items() if name != "x-frame-options"}

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in headers.items():
                    answer[name] = value
                answer.setdefault("content-security-policy", policy)
                answer.setdefault("cache-control", "no-store")
            await send(message)

        return sender

    def is_own_host(self, host: str) -> bool:
        """Whether a Host header names this server.

        With an address of all interfaces (0.0.0.0) numbers and the machine's own name are accepted: a page that
        rebinds a name of its own sends that name.
        """
        if host.lower() == self.settings.public:
            return True
        own = f":{self.settings.port}"
        name = host.lower().removesuffix(own)
        if name == host.lower() and (own != _DEFAULT_PORT or ":" in name.rpartition("]")[2]):
            return False
        name = name.strip("[]")
        if self.settings.host not in ("0.0.0.0", "::"):
            names = {"localhost", "127.0.0.1", "::1"} if self.settings.loopback else set()
            return name in names | {self.settings.host.lower()}
        if name in ("localhost", socket.gethostname().lower()):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def missing_token(self, scope: Scope, headers: Headers) -> Response | None:
        """None with the token, else an answer: one that stores the token of the address as a cookie, or a refusal."""
        token = self.settings.token
        if token is None:
            return None
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            cookie = None
        if cookie is not None and _equal(cookie.value, token):
            return None
        try:
            query = parse_qs(scope["query_string"].decode("ascii"), max_num_fields=50)
        except ValueError:
            query = {}
        given = query.pop("token", [""])[0]
        if scope["method"] == "GET" and _equal(given, token):
            rest = urlencode(query, doseq=True)
            # one slash: an address that begins with two leads to another machine
            answer = RedirectResponse("/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(self.cookie, token, httponly=True, samesite="strict", path="/")
            return answer
        return _refuse("the token is missing: open the address that fromnoise web printed", 401)


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), token.encode())


def _refuse(reason: str, status: int = 403) -> Response:
    return PlainTextResponse(reason + "\n", status)


def too_large(limit: int) -> Response:
    """The answer to a request whose body is larger than a limit of bytes."""
    return PlainTextResponse(f"larger than the limit of {limit >> 10:,} KiB\n", 413, {"connection": "close"})
