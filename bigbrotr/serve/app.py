"""What is served over HTTP: /healthz (the process goes on), /readyz (it can work), /metrics."""

import http.client
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from bigbrotr.config.settings import WebSettings
from bigbrotr.errors import BusyError

ASK_S = 15.0  # longer than any of these answers takes
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- where one asks who listens on all

IDENTITY = "Bigbrotr-Archive"  # a header of the answers about health

Check = Callable[[], Awaitable[str | None]]  # what is wrong, in words; None: nothing
# Of the header Accept: the page and its content type.
Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]


@asynccontextmanager
async def serve(
    settings: WebSettings,
    *,
    is_alive: Check,
    is_ready: Check,
    metrics: Metrics,
    identity: str = "",
) -> AsyncIterator[int]:
    """Serves all for the length of the block, on the settings' address and to those who name one of
    its hosts; yields the port, which is chosen when theirs is 0. Health is told with the `identity`
    of the archive that it is the health of.

    Raises:
        BusyError: the address cannot be listened on.
    """

    def answer_to(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(_: web.Request) -> web.Response:
            wrong = await check()
            return web.Response(
                text=f"{wrong or 'ok'}\n",
                status=503 if wrong else 200,
                headers={IDENTITY: identity},
            )

        return answer

    async def metrics_page(request: web.Request) -> web.Response:
        page, kind = await metrics(",".join(request.headers.getall("Accept", ())))
        return web.Response(body=page, headers={"Content-Type": kind})

    @web.middleware
    async def refuse_strangers(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        if host and not is_ours(host, settings):
            words = "nobody here is called that: [web] hosts names those who may be asked for\n"
            return web.Response(text=words, status=421)  # Misdirected Request
        return await handler(request)

    host, port = settings.address()
    app = web.Application(middlewares=[refuse_strangers])
    app.add_routes(
        [
            web.get("/healthz", answer_to(is_alive)),
            web.get("/readyz", answer_to(is_ready)),
            web.get("/metrics", metrics_page),
        ]
    )
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, shutdown_timeout=1).start()
        except OSError as error:
            raise BusyError(
                f"cannot listen on {at(host, port)} ([web] listen): {error.strerror}; choose "
                "another port, or stop who has it"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def is_ours(host: str, settings: WebSettings) -> bool:
    """Whether somebody who calls us `host` (of an HTTP request) is to be answered.

    A browser says the name of the site that it believes to talk to. If that is none of ours, it was
    bent to our address by a stranger, whose scripts would read the answer (DNS rebinding); an
    address cannot be bent.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    with suppress(ValueError):
        ip_address(name)
        return True
    ours = ("localhost", socket.gethostname(), settings.address()[0], *settings.hosts)
    return bool(name) and name in {each.lower().rstrip(".") for each in ours}


def ask(host: str, port: int, path: str, *, identity: str = "") -> tuple[bool, str]:
    """Asks one that serves; whether it is well, and what it says. Blocks, up to `ASK_S`.

    With an `identity`, whoever tells another one is not the archive that is asked for.
    """
    place = at(host, port)
    connection = http.client.HTTPConnection(LOOPBACK.get(host, host), port, timeout=ASK_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        words = answer.read(4096).decode(errors="replace").strip()
        told = answer.headers.get(IDENTITY)
    except TimeoutError:
        return False, f"no answer from {place} within {ASK_S:.0f} s: its loop is stuck"
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        return False, f"nobody answers at {place} ({reason}): is `bigbrotr run` running?"
    finally:
        connection.close()
    if identity and told is None:
        return False, f"something else than bigbrotr answers at {place}: see [web] listen"
    if identity and told != identity:
        return False, (
            f"the bigbrotr at {place} runs another archive: this one is not running, or listens "
            "elsewhere; give each its own port in [web] listen"
        )
    return answer.status == 200, words


def at(host: str, port: int) -> str:
    """Host and port as people write them: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
