"""What is served over HTTP about health, and to whom."""

import asyncio
import os
import signal
import socket
import urllib.request
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError

import pytest

from bigbrotr.config.settings import WebSettings
from bigbrotr.serve.app import is_ours
from tests.kit.processes import Place, until
from tests.kit.real import free_port


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("127.0.0.1:9464", True),
        ("203.0.113.7", True),
        ("[::1]:9464", True),
        ("[fe80::1%eth0]", True),
        ("localhost", True),
        ("LocalHost.:9464", True),
        (socket.gethostname(), True),
        ("listens.example:1", True),
        ("named.example", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("xlisten.example", False),
        ("sub.named.example", False),
        ("evil", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example#@localhost", False),
        ("evil.example/@localhost", False),
        ("[::1", False),
        (":80", False),
        (".", False),
    ],
)
def test_whose_name_is_ours(host: str, is_known: bool) -> None:
    settings = WebSettings("listens.example:9464", hosts=("named.example",))
    assert is_ours(host, settings) is is_known


def ask(url: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.slow
async def test_health(tmp_path: Path) -> None:
    port = free_port()
    hosts = 'hosts = ["Archive.example"]'
    place = Place(tmp_path / "place", more=f'[web]\nlisten = "127.0.0.1:{port}"\n{hosts}\n')
    url = f"http://127.0.0.1:{port}"
    async with place.start() as running:
        await running.says("ready")
        assert await asyncio.to_thread(ask, f"{url}/healthz") == (200, "ok\n")
        assert await asyncio.to_thread(ask, f"{url}/readyz") == (200, "ok\n")
        assert (await asyncio.to_thread(ask, f"{url}/other"))[0] == 404
        # A page of a stranger, whose name leads here, reads nothing.
        for path in ("healthz", "readyz", "metrics", "other"):
            code, words = await asyncio.to_thread(ask, f"{url}/{path}", f"evil.example:{port}")
            assert (code, "[web] hosts" in words, "bigbrotr_" in words) == (421, True, False)
        for host in (f"localhost:{port}", "[::1]", "archive.example", "ARCHIVE.example.:80"):
            assert (await asyncio.to_thread(ask, f"{url}/healthz", host)) == (200, "ok\n")
        done = await place.call("health")
        assert (done.code, done.out) == (0, "ok\n")
        async with place.look() as connection:
            await connection.execute(
                "INSERT INTO bigbrotr.ledger VALUES (99, 'full', 'x', 0, 98, '9.0.0')"
            )
            code, words = await asyncio.to_thread(ask, f"{url}/readyz")
            await connection.execute("DELETE FROM bigbrotr.ledger WHERE revision = 99")
        assert code == 503
        assert "install a newer bigbrotr" in words
        assert await asyncio.to_thread(ask, f"{url}/readyz") == (200, "ok\n")
        killed = place.postmaster
        os.kill(killed, signal.SIGKILL)
        assert await asyncio.to_thread(ask, f"{url}/healthz") == (200, "ok\n")

        def is_another() -> bool:
            with suppress(OSError, IndexError, ValueError):  # its file is being written
                return place.postmaster != killed
            return False

        # Those who worked for the old one may answer for a moment.
        await until(is_another, "it is started again")

        async def is_ready() -> bool:
            return await asyncio.to_thread(ask, f"{url}/readyz") == (200, "ok\n")

        await until(is_ready, "it recovers")
        assert await running.end() == 0, running.err
