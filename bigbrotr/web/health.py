"""Health over HTTP: /healthz says that the process lives, /readyz that it can do its work."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from bigbrotr.errors import BusyError

Check = Callable[[], Awaitable[str | None]]  # what is wrong, in words; None: nothing


@asynccontextmanager
async def serve(host: str, port: int, *, is_ready: Check) -> AsyncIterator[int]:
    """Serves health for the length of the block; yields the port, which is chosen when `port` is 0.

    Raises:
        BusyError: the address cannot be listened on.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        wrong = await is_ready()
        return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, shutdown_timeout=1).start()
        except OSError as error:
            raise BusyError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
