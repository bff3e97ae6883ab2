"""What is served over HTTP: /healthz (the process goes on), /readyz (it can work), /metrics."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from bigbrotr.config.settings import WebSettings
from bigbrotr.errors import BusyError
from bigbrotr.serve.ask import IDENTITY, at

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
