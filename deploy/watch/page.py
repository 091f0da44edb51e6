"""The page itself: HTML from a view, and the server that sends it whenever something has changed.

Starlette and uvicorn, which Flower brings. Everything comes from this process; there is nothing to build, nothing is loaded
from elsewhere, and the page asks for nothing but itself. It can be read without JavaScript, too.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dictpfl.common.errors import ConfigError, DictPFLError, ProcessError
from dictpfl.deploy.reports.templates import template
from dictpfl.deploy.watch.view import View

POLL_SECONDS, MOST_SECONDS = 1.0, 5.0
"""Seconds between two looks at the folder: ten times what a look costs the processor, but at least and at most these."""
_HEARTBEAT = 15.0
_STATIC = {
    "watch.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "watch.css": "text/css; charset=utf-8",
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the first address has the token in it
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Watched(Protocol):
    """A folder that is watched."""

    def view(self) -> View:
        """Return the page as it is now."""


class Page:
    """HTML of what is watched, made anew at most once a second however many look at it."""

    def __init__(self, watched: Watched) -> None:
        """Set up; nothing is read yet."""
        self._watched, self._template = watched, template("watch.html.j2")
        self._lock, self._due, self._html = threading.Lock(), 0.0, ""
        self._view: View | None = None

    def current(self) -> str:
        """Return the HTML as it is now; of a folder that cannot be read just now, what was last known, and why."""
        with self._lock:
            if time.monotonic() >= self._due:
                # Of its own work alone: on a busy machine the first look, which loads templates, took eight seconds by the clock, and
                # the page stood still for eighty.
                began = time.thread_time()
                self._html = self._made()
                self._due = time.monotonic() + min(MOST_SECONDS, max(POLL_SECONDS, 10 * (time.thread_time() - began)))
            return self._html

    def _made(self) -> str:
        problem = ""
        try:
            self._view = self._watched.view()
        except (DictPFLError, OSError) as error:  # files change while they are read; the next look finds them whole
            problem = str(error)
            if self._view is None:
                return self._template.render(view=None, problem=problem)
        return self._template.render(view=self._view, problem=problem)


class _Guard:
    """Lets nobody in without the token, and sends the same strict headers with every answer."""

    def __init__(self, app: ASGIApp, token: str, cookie: str) -> None:
        self._app, self._token, self._cookie = app, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        await self._answer(HTTPConnection(scope))(scope, receive, with_headers)

    def _answer(self, asked: HTTPConnection) -> ASGIApp:
        given = asked.query_params.get("token", "")
        if given and self._fits(given):
            # Into a cookie at once, so that the token stays out of histories and bookmarks.
            moved = RedirectResponse(asked.url.path, status_code=303)
            secure = asked.url.scheme == "https"
            moved.set_cookie(self._cookie, given, httponly=True, samesite="lax", secure=secure)
            return moved
        scheme, _, bearer = asked.headers.get("authorization", "").partition(" ")
        if self._fits(asked.cookies.get(self._cookie, "")) or (scheme.lower() == "bearer" and self._fits(bearer)):
            return self._app
        return PlainTextResponse(
            "Open the address that `dictpfl watch` printed: it has the token in it.\n", status_code=403
        )

    def _fits(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())


def application(page: Page, token: str, stopping: Callable[[], bool], *, cookie: str = "dictpfl-watch") -> ASGIApp:
    """Return the app: the page, its two files of style, its script, and the events that tell it of changes.

    Args:
        page: what is shown.
        token: secret without which nothing is answered.
        stopping: tells whether streams should end.
        cookie: name of the cookie that the token moves into.
    """

    async def show(_: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(page.current))

    async def events(_: Request) -> Response:
        return StreamingResponse(_changes(page, stopping), media_type="text/event-stream")

    routes = [Route("/", show), Route("/events", events), *(Route(f"/{name}", _static(name)) for name in _STATIC)]
    return _Guard(Starlette(routes=routes), token, cookie)


async def _changes(page: Page, stopping: Callable[[], bool]) -> AsyncIterator[str]:
    """Send the page whenever it is another one, and a sign of life in between."""
    sent, quiet = "", 0.0
    while not stopping():
        html = await run_in_threadpool(page.current)
        if html != sent:
            sent, quiet = html, 0.0
            yield f"data: {json.dumps(html)}\n\n"
        elif quiet >= _HEARTBEAT:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(POLL_SECONDS / 4)
        quiet += POLL_SECONDS / 4


def _static(name: str) -> Callable[[Request], Response]:
    content = (files("dictpfl.deploy") / "templates" / name).read_bytes()

    def answer(_: Request) -> Response:
        return Response(content, media_type=_STATIC[name])

    return answer


class PageServer:
    """Server of one page on one address, until it is interrupted."""

    def __init__(
        self, watched: Watched, host: str, port: int, *, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        """Take the address.

        Args:
            watched: what is shown.
            host: address to listen at.
            port: its port; 0: one that is free.
            certificate, key: PEM files of TLS; None: without.

        Raises:
            ProcessError: somebody else has the port, or the address is not this machine's.
            ConfigError: certificate or key cannot be used.
        """
        self.token = secrets.token_urlsafe(24)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen()  # now: who opens the address at once waits, and is not refused
        except OSError as error:
            self._socket.close()
            raise ProcessError(
                f"cannot serve the page at {host}:{port} ({error.strerror}); choose another --port or --host"
            ) from error
        self._host, self.port = host, int(self._socket.getsockname()[1])
        self._scheme = "http" if certificate is None else "https"
        # One browser may have pages of several watchers open, and cookies know no ports.
        app = application(
            Page(watched), self.token, lambda: self._server.should_exit, cookie=f"dictpfl-watch-{self.port}"
        )
        config = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, lifespan="off", ws="none",
            http="h11", loop="asyncio", timeout_graceful_shutdown=1,
            ssl_certfile=certificate, ssl_keyfile=key,
        )  # fmt: skip
        try:
            config.load()
        except OSError as error:  # of TLS, too
            self._socket.close()
            raise ConfigError(
                f"cannot use --certificate {certificate} with --key {key} ({error.strerror or error}); expected a certificate and its key, as PEM"
            ) from error
        self._server = uvicorn.Server(config)

    @property
    def address(self) -> str:
        """Address to open, with the token in it; of all addresses of this machine, its name, for they name no machine to others."""
        named = socket.gethostname() if self._host in ("0.0.0.0", "::") else self._host  # noqa: S104 -- asked for
        host = f"[{named}]" if ":" in named else named
        url = urlsplit(f"{self._scheme}://{host}:{self.port}/")
        return url._replace(query=f"token={self.token}").geturl()

    def run(self) -> None:
        """Serve until the process is told to end; a keyboard interrupt ends it well."""
        try:
            self._server.run(sockets=[self._socket])
        except KeyboardInterrupt:
            return  # uvicorn has closed everything, and hands the signal on
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Let `run` return, from another thread."""
        self._server.should_exit = True
