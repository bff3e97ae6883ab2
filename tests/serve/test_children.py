"""Processes that serve: started beside the services, watched, killed, and alone."""

import asyncio
import json
import os
import pickle
import signal
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from bigbrotr.config.settings import Config, Profile
from bigbrotr.errors import DatabaseError
from bigbrotr.serve.orders import LENGTH, Order
from bigbrotr.serve.orders import read as read_report
from bigbrotr.serve.process import listen
from tests.kit.processes import Place, Running, children, command, until
from tests.kit.real import free_port
from tests.kit.served import addresses, serving

WORDS = "-m bigbrotr.serve"


def read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


async def ask(url: str, path: str = "status") -> Any:
    return await asyncio.to_thread(read, f"{url}/{path}")


def variables(pid: int) -> str:
    """The environment of a process."""
    return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")


def place(folder: Path, serve: str, *, web: int | None = None) -> Place:
    more = f"[serve]\n{serve}\n"
    if web is not None:
        more += f'[web]\nlisten = "127.0.0.1:{web}"\n'
    return Place(folder, more=more, workers=2)


async def address_of(running: Running, number: int = 1) -> str:
    """The newest address, when it has been said so often."""
    await until(lambda: len(addresses(running.err)) >= number, "the address")
    return addresses(running.err)[-1]


async def test_beside_the_services(tmp_path: Path) -> None:
    """A child that is killed is started again, and the services do not notice; it ends with them,
    however they end. Operators' pages are not on its port."""
    port, web = free_port(), free_port()
    there = place(tmp_path / "place", f'listen = "127.0.0.1:{port}"', web=web)
    async with there.start(PRIVATE_KEY=64 * "1") as running:
        url = await address_of(running)
        assert url == f"http://127.0.0.1:{port}/api/v1"
        assert (await ask(url))["profile"] == "full"
        (child,) = children(running.pid, WORDS)
        assert "postgresql" not in command(child)
        assert "PRIVATE_KEY" not in variables(child)
        for path in ("metrics", "healthz", "readyz"):
            with pytest.raises(URLError, match="404"):
                await asyncio.to_thread(
                    urllib.request.urlopen, f"http://127.0.0.1:{port}/{path}", None, 30
                )
        os.kill(child, signal.SIGKILL)
        await address_of(running, 2)
        assert (await ask(url))["profile"] == "full"
        assert "killed by signal 9" in running.err
        assert "restarting" not in running.err

        def metrics() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{web}/metrics", timeout=30) as answer:
                return str(answer.read().decode())

        text = await asyncio.to_thread(metrics)
        assert "\nbigbrotr_serve_restarts_total 1.0\n" in text
        assert "\nbigbrotr_serve_processes 1.0\n" in text
        assert 'bigbrotr_serve_answers_total{status="2xx"}' in text
        (child,) = children(running.pid, WORDS)
        assert await running.end() == 0
        assert not command(child)


async def test_it_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    there = place(tmp_path / "place", 'listen = "127.0.0.1:0"\nprocesses = 2')
    async with there.start() as running:
        await address_of(running, 2)
        found = children(running.pid, WORDS)
        assert len(found) == 2
        await running.end(signal.SIGKILL)
        await until(lambda: not any(map(command, found)), "their end")
        await until(lambda: not there.processes(), "the end of all")


async def test_a_port_that_is_taken_stops_no_service(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        there = place(tmp_path / "place", f'listen = "127.0.0.1:{port}"')
        async with there.start() as running:
            await running.says("not serving, the services go on")
            assert "choose another port" in running.err
            taken.close()
            url = await address_of(running)
            assert (await ask(url))["events"] == 0
            assert await running.end() == 0


async def test_one_cycle_serves_nothing(tmp_path: Path) -> None:
    there = place(tmp_path / "place", f'listen = "127.0.0.1:{free_port()}"')
    said = await there.run_once()
    assert "serving" not in said


async def test_several_share_a_port(tmp_path: Path, dsn: str, make_database: Any) -> None:
    """Those of one archive; another one's is refused, and so is what is none of ours."""
    where = f"127.0.0.1:{free_port()}"
    async with (
        serving(tmp_path / "a", dsn, listen=where) as (first, url),
        serving(tmp_path / "b", dsn, listen=where) as (second, other),
    ):
        assert url == other
        assert (await ask(url))["profile"] == "full"
        elsewhere = await make_database(Profile.FULL)
        more = f'[database]\nurl = "{elsewhere}"\n[serve]\nlisten = "{where}"\n'
        third = Place(tmp_path / "c", more=more, workers=2)
        done = await third.call("serve")
        assert done.code == 5
        assert "[serve] listen" in done.sentence
        assert await first.end(signal.SIGINT) == 0
        for _ in range(5):
            assert (await ask(url))["profile"] == "full"
        assert await second.end() == 0


async def test_several_processes_without_the_services(tmp_path: Path, dsn: str) -> None:
    where = f"127.0.0.1:{free_port()}"
    async with serving(tmp_path, dsn, listen=where, serve="processes = 2") as (running, url):
        await address_of(running, 2)
        assert (await ask(url))["profile"] == "full"
        found = children(running.pid, WORDS)
        assert len(found) == 2
        assert await running.end() == 0
        assert not any(map(command, found))


async def test_who_has_the_port(tmp_path: Path) -> None:
    one = await listen("127.0.0.1", 0, "x")
    assert one.getsockname()[1]
    one.close()
    wide = await listen("::", 0, "x")
    wide.close()


async def test_mistakes_are_said(tmp_path: Path) -> None:
    there = Place(tmp_path / "place", workers=2)
    done = await there.call("serve")
    assert (done.code, "--listen 127.0.0.1:7447" in done.sentence) == (2, True)
    done = await there.call("serve", "--listen", "nowhere")
    assert (done.code, "address and a port" in done.sentence) == (2, True)
    done = await there.call("serve", "--listen", "127.0.0.1:0")
    assert (done.code, "there is no archive" in done.sentence) == (3, True)


async def test_one_that_gives_up_says_why_and_ends_with_its_code(tmp_path: Path) -> None:
    """Also while somebody still holds its lifeline."""
    dsn = f"postgresql://nobody@/nothing?host={tmp_path}&port={free_port()}"
    order = pickle.dumps(Order(Config(), dsn, "none"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bigbrotr.serve"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(len(order).to_bytes(LENGTH) + order)
    async with asyncio.timeout(60):
        report = read_report(await process.stdout.readline())
        assert "cannot" in (report.error or "")
        assert await process.wait() == DatabaseError.exit_code
    process.stdin.close()
