"""The proxies that the documentation has settings for, run with these: API and relay by TLS."""

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bigbrotr.core.brotr import Brotr
from tests.kit.certificates import Authority
from tests.kit.events import NOW, verified
from tests.kit.processes import until
from tests.kit.real import free_port
from tests.serve.relay.client import client_of, newest_first, relay_of, store

FOLDER = Path(__file__).parents[2] / "configs" / "proxies"
NAME = "archive.example.com"
EVENTS = [verified(f"{n}" * 3000, created_at=NOW + n) for n in range(200)]


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with each of these in place of what the shipped settings have."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, ours: str, port: int, certificate: Path) -> list[str]:
    site = replaced(
        (FOLDER / "nginx.conf").read_text(),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("    listen [::]:443 ssl;\n", ""),
        (f"/etc/letsencrypt/live/{NAME}/fullchain.pem", str(certificate)),
        (f"/etc/letsencrypt/live/{NAME}/privkey.pem", str(certificate)),
        ("127.0.0.1:7447", ours),
    )
    (folder / "site.conf").write_text(site)
    paths = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; master_process off;\n"
        f"events {{}}\nhttp {{ access_log off;\n{paths}include {folder}/site.conf; }}\n"
    )
    return ["nginx", "-c", f"{folder}/nginx.conf", "-p", str(folder), "-e", "stderr"]


def caddy(folder: Path, ours: str, port: int, certificate: Path) -> list[str]:
    site = replaced(
        (FOLDER / "Caddyfile").read_text(),
        (f"\n{NAME} {{\n", f"\nhttps://{NAME}:{port} {{\n\ttls {certificate} {certificate}\n"),
        ("127.0.0.1:7447", ours),
    )
    # Only where it stands differs, and that nobody else is asked for a certificate.
    options = "{\n\tadmin off\n\tauto_https off\n\tdefault_bind 127.0.0.1\n}\n"
    (folder / "Caddyfile").write_text(options + site)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", f"{folder}/Caddyfile"]


def certificate_of(authority: Authority) -> Path:
    """A file with a key for the name, and its certificate."""
    authority.context(NAME)
    (path,) = authority.folder.glob("server-*.pem")
    return path


PROXIES = {"nginx": nginx, "caddy": caddy}


@asynccontextmanager
async def proxy(name: str, folder: Path, ours: str, certificate: Path) -> AsyncIterator[int]:
    """Runs a proxy for what listens at `ours`; its port."""
    port = free_port()
    command = PROXIES[name](folder, ours, port, certificate)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 -- it is there at once
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)},
        )
    try:

        async def is_up() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await until(is_up, f"{name} to listen")
        yield port
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)


@pytest.mark.parametrize("name", PROXIES)
async def test_the_archive_behind_a_proxy(
    brotr: Brotr, dsn: str, tmp_path: Path, name: str
) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"no {name}: Debian's package of this name has it")
    await store(brotr, EVENTS)
    authority = Authority(tmp_path)
    certificate = certificate_of(authority)
    trust = ssl.create_default_context(cafile=str(authority.path))
    public = {"public_url": f"https://{NAME}", "trusted_proxies": ("127.0.0.1",)}
    async with relay_of(dsn, serve=public) as place:
        ours = place.http.removeprefix("http://")
        async with proxy(name, tmp_path, ours, certificate) as port:
            url = f"wss://{NAME}:{port}/"
            options: dict[str, Any] = {
                "host": "127.0.0.1",
                "port": port,
                "ssl": trust,
                "server_hostname": NAME,
            }
            async with client_of(url, **options) as client:
                # All of it, whole, and what comes.
                assert await client.stored({"limit": 200}) == (newest_first(EVENTS), ["finish"])
                await client.say("REQ", "live", {"limit": 0})
                await client.until("EOSE")
                late = verified("late", created_at=NOW + 1000)
                await store(brotr, [late])
                assert (await client.hear())[2]["id"] == late.id.hex()
            # Who asks is who the proxy says, whatever he says himself.
            headers = {"X-Forwarded-For": "203.0.113.7"}
            options["local_addr"] = ("127.0.0.2", 0)
            async with client_of(url, additional_headers=headers, **options) as client:
                await client.stored({"limit": 1})
                assert set(place.relay.connections.by_address) == {"127.0.0.2"}
            async with aiohttp.ClientSession() as session:
                at = f"https://127.0.0.1:{port}"
                asked = {
                    "Host": NAME,
                    "Accept": "application/nostr+json",
                    "Origin": "https://client.example",
                }
                async with session.get(at, headers=asked, ssl=trust, server_hostname=NAME) as got:
                    assert json.loads(await got.read())["name"] == "bigbrotr"
                    assert got.headers["Access-Control-Allow-Origin"]
                path = f"{at}/api/v1/events?limit=3"
                asked = {"Host": NAME}
                async with session.get(path, headers=asked, ssl=trust, server_hostname=NAME) as got:
                    assert len((await got.json())["items"]) == 3
