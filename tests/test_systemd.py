"""As a service of systemd: what the unit promises, and what systemd is told."""

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from bigbrotr import supervisor as supervisors
from bigbrotr.config.settings import Config, Database, Profile, ServiceSection
from bigbrotr.core.base_service import BaseService
from bigbrotr.supervisor import Supervisor
from bigbrotr.systemd import Notifier
from tests.kit.processes import Place, until

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "systemd"
UNIT = FOLDER / "bigbrotr.service"
PROGRAM = "/opt/bigbrotr/bin/bigbrotr"
# Growing delays came with systemd 254; before it they are the first delay each time.
NEWER = re.compile(r"Unknown key (name )?'Restart(Steps|MaxDelaySec)'")


class Manager:
    """What stands at the other end of $NOTIFY_SOCKET: remembers what came, and when."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while message := self._socket.recv(65536):
            now = time.monotonic()
            self.heard += [(now, line) for line in message.decode().split("\n")]

    def times(self, line: str) -> list[float]:
        return [at for at, each in list(self.heard) if each == line]

    def lines(self, name: str) -> list[str]:
        return [each for _, each in list(self.heard) if each.startswith(name)]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", str(self.path))
        self._thread.join(10)
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


# What is told


@pytest.mark.slow
async def test_ready_watched_and_stopping(manager: Manager, tmp_path: Path) -> None:
    place = Place(tmp_path / "place", is_prepared=False)
    env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "900000"}
    async with place.start(**env) as running:
        await until(lambda: bool(manager.times("READY=1")), "READY")
        assert "ready" in running.err
        # Before that, patience for the making of a database, and words for whoever waits.
        assert manager.lines("EXTEND_TIMEOUT_USEC")
        assert any("making a new database" in each for each in manager.lines("STATUS"))
        ready_at = manager.times("READY=1")[0]
        await until(lambda: sum(at > ready_at for at in manager.times("WATCHDOG=1")) >= 3, "signs")
        assert any("running: seeder" in each for each in manager.lines("STATUS"))
        assert not manager.times("STOPPING=1")
        assert await running.end() == 0
    assert len(manager.times("READY=1")) == len(manager.times("STOPPING=1")) == 1
    assert manager.lines("STATUS")[-1] == "STATUS=stopping"
    signs = [at for at in manager.times("WATCHDOG=1") if at > ready_at]
    gaps = [after - before for before, after in pairwise(signs)]
    assert min(gaps) > 0.1  # a third of what is wanted, not a flood


class Blocking(BaseService[ServiceSection]):
    """Holds the event loop up, once, as no service may."""

    SERVICE_NAME = "finder"
    CONFIG_CLASS = ServiceSection
    span: tuple[float, float] | None = None

    async def run(self) -> None:
        if Blocking.span is None:
            await anyio.sleep(1)  # in health first
            begun = time.monotonic()
            time.sleep(1.5)  # noqa: ASYNC251 -- the defect
            Blocking.span = begun, time.monotonic()


@pytest.mark.slow
async def test_no_sign_of_life_from_a_stuck_loop(
    manager: Manager, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisors, "SERVICES", {"finder": Blocking})
    monkeypatch.setattr(Blocking, "span", None)
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    config = Config(database=Database(url=dsn))
    supervisor = Supervisor(config, Profile.FULL, tmp_path / "data", only=["finder"])
    async with anyio.create_task_group() as group:
        group.start_soon(supervisor.run)
        await until(lambda: Blocking.span is not None, "the loop was stuck")
        assert Blocking.span is not None
        begun, ended = Blocking.span
        await until(lambda: any(at > ended for at in manager.times("WATCHDOG=1")), "it goes on")
        supervisor.request_shutdown()
    signs = manager.times("WATCHDOG=1")
    assert sum(at < begun for at in signs) >= 3
    assert not [at for at in signs if begun + 0.1 < at < ended - 0.1]


def test_nobody_listens(tmp_path: Path) -> None:
    Notifier({}).tell("READY=1", status="all is well")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")
    assert Notifier({"WATCHDOG_USEC": "5000000"}).watchdog_s == 5.0
    assert Notifier({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier({"WATCHDOG_USEC": "nonsense"}).watchdog_s is None


def test_status_is_one_line(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": str(manager.path)}).tell(status="two\nREADY=1")
    name = f"bigbrotr-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell("READY=1")
        assert abstract.recv(100) == b"READY=1"
    deadline = time.monotonic() + 10
    while not manager.heard and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [line for _, line in manager.heard] == ["STATUS=two READY=1"]


# The unit


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that exists on this machine."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze: Debian's package systemd has it")
    text = UNIT.read_text()
    assert text.count(PROGRAM) == 1
    path = tmp_path / UNIT.name
    path.write_text(text.replace(PROGRAM, shutil.which("true") or "/bin/true"))
    return path


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_unit_is_right(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    complaints = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if unit.name in line and not NEWER.search(line)
    ]
    assert (done.returncode, complaints) == (0, [])


def test_unit_is_hardened(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(unit))
    assert done.returncode == 0, done.stdout + done.stderr
    level = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert level
    assert float(level[1]) <= 2.0


def test_unit_promises() -> None:
    lines = UNIT.read_text().splitlines()
    for line in (
        "Type=notify",
        "KillMode=mixed",
        "Restart=on-failure",
        "RestartPreventExitStatus=2 4",
        "StateDirectory=bigbrotr",
        "LoadCredential=db_password:bigbrotr.db_password",
        "LoadCredential=private_key:bigbrotr.private_key",
    ):
        assert line in lines
    users = (FOLDER / "bigbrotr.sysusers").read_text()
    assert re.search(r"(?m)^u bigbrotr - ", users)


@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="no systemd-sysusers")
def test_install_makes_the_user() -> None:
    make = ["make", "-n", "install", "SYSUSERS=systemd-sysusers --dry-run"]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [command] = [line for line in printed.splitlines() if line.startswith("systemd-sysusers ")]
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Failed" in done.stderr) == (0, False), done.stderr
