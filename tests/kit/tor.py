"""A Tor network of its own on loopback, out of Debian's `tor`: nothing leaves the machine.

Three authorities that agree every few seconds, two relays, a hidden service and a client. It takes
some 10 to 25 seconds until the client reaches the service.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tests.kit.processes import until
from tests.kit.real import free_port, stop

START_S = 90.0
PASSPHRASE = "only for tests\n"

EVERYBODY = """
TestingTorNetwork 1
UseDefaultFallbackDirs 0
AssumeReachable 1
PathsNeededToBuildCircuits 0.67
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
V3AuthNIntervalsValid 2
ShutdownWaitLength 0
"""
ROUTER = """
Address 127.0.0.1
SocksPort 0
ExitPolicy reject *:*
ContactInfo nobody@localhost
"""
AUTHORITY = """
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
TestingV3AuthInitialVotingInterval 5 seconds
TestingV3AuthInitialVoteDelay 2 seconds
TestingV3AuthInitialDistDelay 2 seconds
V3AuthVotingInterval 10 seconds
V3AuthVoteDelay 2 seconds
V3AuthDistDelay 2 seconds
TestingMinExitFlagThreshold 0
"""


def is_installed() -> bool:
    return all(shutil.which(name) for name in ("tor", "tor-gencert"))


class Tor(NamedTuple):
    """Where the network is reached, and what is in it."""

    onion: str  # the name of the hidden service, whose port 80 leads to the target
    proxy: str  # the client's, as in a configuration


@asynccontextmanager
async def tor_network(folder: Path, target: int) -> AsyncIterator[Tor]:
    """The network while it runs, with a hidden service in front of a port of this machine."""
    keys = {f"authority{n}": (free_port(), free_port()) for n in range(3)}
    lines = [await _authority(folder / name, *ports) for name, ports in keys.items()]
    common = EVERYBODY + "".join(lines)
    async with AsyncExitStack() as stack:

        async def start(name: str, *settings: str) -> Path:
            home = folder / name
            home.mkdir(mode=0o700, exist_ok=True)
            own = f"\nNickname {name}\nDataDirectory {home}\nLog notice file {home}/log\n"
            (home / "torrc").write_text(common + own + "\n".join(settings))
            process = await asyncio.create_subprocess_exec(
                *("tor", "--quiet", "-f", str(home / "torrc")), start_new_session=True
            )
            stack.push_async_callback(stop, process)
            return home

        for name, (or_port, dir_port) in keys.items():
            await start(name, AUTHORITY, ROUTER, f"ORPort {or_port}", f"DirPort {dir_port}")
        for name in ("relay0", "relay1"):
            await start(name, ROUTER, f"ORPort {free_port()}")
        hidden = folder / "service" / "hidden"
        await start(
            "service",
            "SocksPort 0",
            f"HiddenServiceDir {hidden}",
            f"HiddenServicePort 80 127.0.0.1:{target}",
        )
        socks = free_port()
        await start("client", f"SocksPort 127.0.0.1:{socks}", "ClientRejectInternalAddresses 0")
        hostname = hidden / "hostname"
        await until(hostname.exists, "the service has a name", START_S)
        yield Tor(hostname.read_text().strip(), f"socks5h://127.0.0.1:{socks}")


async def _authority(home: Path, or_port: int, dir_port: int) -> str:
    """Makes an authority's keys; the line by which everybody knows it."""
    keys = home / "keys"
    for place in (home, keys):
        place.mkdir(mode=0o700)
    await _output(
        *("tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12"),
        *("-i", str(keys / "authority_identity_key"), "-s", str(keys / "authority_signing_key")),
        *("-c", str(keys / "authority_certificate"), "-a", f"127.0.0.1:{dir_port}"),
    )
    certificate = (keys / "authority_certificate").read_text()
    (identity,) = [
        words[1]
        for words in map(str.split, certificate.splitlines())
        if words and words[0] == "fingerprint"
    ]
    # It insists on a whole configuration before it says its fingerprint.
    listed = await _output(
        *("tor", "--quiet", "--list-fingerprint", "--ignore-missing-torrc", "-f", str(home / "-")),
        *("--DataDirectory", str(home), "--Nickname", home.name, "--ContactInfo", "nobody"),
        *("--ORPort", "127.0.0.1:1", "--PublishServerDescriptor", "0"),
        *("--DirAuthority", "x 127.0.0.1:1 " + "F" * 40),
    )
    fingerprint = "".join(listed.split()[1:])
    return (
        f"DirAuthority {home.name} orport={or_port} no-v2 v3ident={identity} "
        f"127.0.0.1:{dir_port} {fingerprint}\n"
    )


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate(PASSPHRASE.encode())
    assert process.returncode == 0, err.decode()
    return out.decode()
