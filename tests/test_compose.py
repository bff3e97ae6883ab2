"""`configs/compose.yaml`: that its parts fit one another, and that they run together."""

import json
import os
import re
import secrets
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import pytest
import yaml  # type: ignore[import-untyped]

from bigbrotr.config.settings import Profile
from bigbrotr.config.toml import load
from bigbrotr.embedded.cluster import Account, account_of, binary, make_reachable
from bigbrotr.serve.app import is_ours
from tests.kit.processes import Place, until
from tests.kit.real import free_port

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
COMPOSE: dict[str, Any] = yaml.safe_load((CONFIGS / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS = CONFIGS / "compose.toml"
ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"}


def content(name: str) -> str:
    """One of the files that stand in compose.yaml itself."""
    text: str = COMPOSE["configs"][name]["content"]
    return text.replace("$$", "$")


def mounts(service: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the volumes of a service come from, and where it sees them."""
    for volume in service.get("volumes", ()):
        source, target = volume.split(":")[:2]
        yield source, target


def test_what_is_named_is_there() -> None:
    for name, service in SERVICES.items():
        assert "image" in service or "build" in service, name
        for source in service.get("secrets", ()):
            assert "file" in COMPOSE["secrets"][source]
        for config in service.get("configs", ()):
            assert config["source"] in COMPOSE["configs"], name
        for source, _ in mounts(service):
            assert source in COMPOSE["volumes"] or (CONFIGS / source).exists(), source
        for other in service.get("depends_on", ()):
            assert other in SERVICES
        for port in service.get("ports", ()):  # to this machine only
            assert port.startswith("127.0.0.1:"), port
        image = service.get("image", "bigbrotr")
        assert image == "bigbrotr" or re.search(r":v?\d+", image), image
        assert service["restart"] == "unless-stopped"
    for config in COMPOSE["configs"].values():
        assert "content" in config or (CONFIGS / config["file"]).exists()


def test_read_only_services_take_files() -> None:
    """Compose copies what stands in compose.yaml into the container, and refuses where that is
    read-only."""
    looked_at = 0
    for service in SERVICES.values():
        if service.get("read_only"):
            looked_at += 1
            for config in service.get("configs", ()):
                assert set(COMPOSE["configs"][config["source"]]) == {"file"}
    assert looked_at


def test_settings_of_bigbrotr(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(SETTINGS, Profile.LITE)
    assert config.pool.pgbouncer
    place = urllib.parse.urlsplit(config.database.dsn)
    bouncer = dict(re.findall(r"(?m)^(\w+) = (.+)$", content("pgbouncer")))
    assert (place.hostname, str(place.port)) == ("pgbouncer", bouncer["listen_port"])
    assert place.path == "/bigbrotr"
    prometheus = yaml.safe_load(content("prometheus"))["scrape_configs"][0]["static_configs"][0]
    assert all(is_ours(target, config.web) for target in prometheus["targets"])
    # What listens is published, and nothing else.
    listening = [config.web.address(), config.serve.address()]
    assert {host for host, _ in listening} == {"0.0.0.0"}
    assert SERVICES["bigbrotr"]["ports"] == [f"127.0.0.1:{port}:{port}" for _, port in listening]
    proxy = urllib.parse.urlsplit(config.networks.tor.proxy)
    assert proxy.hostname in SERVICES
    assert f"0.0.0.0:{proxy.port}" in SERVICES["tor"]["command"]
    assert config.finder == load(None, Profile.LITE).finder  # the profile stays for the rest
    # The password comes from where the secret is.
    (name,) = SERVICES["bigbrotr"]["secrets"]
    assert SERVICES["bigbrotr"]["environment"]["DB_PASSWORD_FILE"] == f"/run/secrets/{name}"


def test_prometheus_and_grafana_find_their_files() -> None:
    prometheus = yaml.safe_load(content("prometheus"))
    beside = yaml.safe_load((CONFIGS / "prometheus" / "prometheus.yml").read_text())
    # The same as for a Prometheus without containers, but for where bigbrotr is.
    (job,), (other,) = prometheus["scrape_configs"], beside["scrape_configs"]
    assert [s["targets"] for s in job.pop("static_configs")] == [["bigbrotr:9464"]]
    del other["static_configs"]
    assert prometheus == beside
    targets = dict(mounts(SERVICES["prometheus"]))
    for name in prometheus["rule_files"]:
        assert f"/etc/prometheus/{name}" in targets.values()

    (source,) = yaml.safe_load(content("grafana_source"))["datasources"]
    place = urllib.parse.urlsplit(source["url"])
    assert (place.hostname, place.port) == ("prometheus", 9090)
    (provider,) = yaml.safe_load(content("grafana_dashboards"))["providers"]
    assert provider["options"]["path"] in dict(mounts(SERVICES["grafana"])).values()
    # The dashboard asks whichever Prometheus there is, the default one first: no uid to fit.
    dashboard = json.loads((CONFIGS / "grafana" / "bigbrotr.json").read_text())
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    assert variables["source"]["type"] == "datasource"
    assert variables["source"]["query"] == source["type"]
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": source["type"], "uid": "${source}"}


# --- running together -----------------------------------------------------------------------------


@contextmanager
def running(account: Account, folder: Path, name: str, *command: str | Path) -> Iterator[Path]:
    """A program until the end of the block, and where it says what it says."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=folder, env=ENVIRONMENT, **account.dropping
        )
    try:
        yield log
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(30)


def initialise(data: Path, account: Account, secret: Path) -> None:
    """A cluster that asks for the password in `secret`, as the image of PostgreSQL makes it."""
    subprocess.run(
        [
            *(binary("initdb"), "-D", data, "-U", "bigbrotr", "--no-sync", "--no-instructions"),
            *("--auth=scram-sha-256", "--pwfile", secret),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        **account.dropping,
    )


def ask(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)["data"]


@pytest.mark.slow
async def test_all_of_it_together(tmp_path: Path) -> None:
    """bigbrotr, PgBouncer, PostgreSQL and Prometheus with the settings of compose.yaml, where
    only places differ: names are 127.0.0.1, ports are free ones, files lie in a folder."""
    for program in ("pgbouncer", "prometheus"):
        if shutil.which(program, path=ENVIRONMENT["PATH"]) is None:
            pytest.skip(f"no {program}: Debian's package of this name has it")
    postgres, bouncer, web, prometheus = (free_port() for _ in range(4))
    async with AsyncExitStack() as stack:
        # Not below pytest's own directory, which is closed to that user.
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bigbrotr-compose-")))
        account = account_of(folder)
        make_reachable(folder, account)
        os.chown(folder, account.uid, account.gid)

        def put(name: str, text: str) -> Path:
            """A file that this user may read, whatever the umask."""
            path = folder / name
            path.write_text(text)
            path.chmod(0o644)
            return path

        password = secrets.token_hex(24)
        secret = put("secret", f"{password}\n")

        def moved(text: str) -> str:
            for old, new in {
                "/run/secrets/db_password": str(secret),
                "/etc/pgbouncer.ini": f"{folder}/pgbouncer.ini",
                "/tmp/users.txt": f"{folder}/users.txt",
                "host=postgres port=5432": f"host=127.0.0.1 port={postgres}",
                "@pgbouncer:6432": f"@127.0.0.1:{bouncer}",
                "listen_port = 6432": f"listen_port = {bouncer}\nunix_socket_dir =",
                "0.0.0.0:9464": f"127.0.0.1:{web}",
                "bigbrotr:9464": f"127.0.0.1:{web}",
                "0.0.0.0": "127.0.0.1",
                "30s": "250ms",
            }.items():
                text = text.replace(old, new)
            return text

        # The first of all: five seconds pass before it asks anybody.
        put("prometheus.yml", moved(content("prometheus")))
        put("bigbrotr.rules.yml", (CONFIGS / "prometheus" / "bigbrotr.rules.yml").read_text())
        command: list[str | Path] = [
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=tsdb",
        ]
        command += [f"--web.listen-address=127.0.0.1:{prometheus}"]
        watching = stack.enter_context(running(account, folder, "prometheus", *command))

        data = folder / "postgres"
        initialise(data, account, secret)
        flags = " ".join(SERVICES["postgres"]["command"][1:]).replace("1GB", "64MB")
        flags = flags.replace(" -c default_toast_compression=lz4", "")  # which ours lacks
        flags += f" -c port={postgres} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        command = [binary("postgres"), "-D", data, *flags.split()]
        said = stack.enter_context(running(account, folder, "postgres.server", *command))
        await until(lambda: "ready to accept" in said.read_text(), "PostgreSQL is ready")
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=postgres,
            user="bigbrotr",
            password=password,
            database="postgres",
        )
        await connection.execute("CREATE DATABASE bigbrotr")  # as the image does for POSTGRES_DB
        await connection.close()

        put("pgbouncer.ini", moved(content("pgbouncer")))
        (script,) = SERVICES["pgbouncer"]["command"]
        command = [*SERVICES["pgbouncer"]["entrypoint"], moved(script.replace("$$", "$"))]
        said = stack.enter_context(running(account, folder, "pgbouncer", *command))
        await until(lambda: "process up" in said.read_text(), "PgBouncer is up")

        place = Place(tmp_path / "place", profile="lite", is_prepared=False)
        place.config.write_text(moved(SETTINGS.read_text()))
        env = {"DB_PASSWORD_FILE": str(secret)}
        # The seeder alone, which reaches nobody.
        bigbrotr = await stack.enter_async_context(place.start("--only", "seeder", **env))
        await bigbrotr.says("seeded")
        health = await place.call("health", **env)
        assert health.code == 0, health.err
        status = await place.call("status", **env)
        assert "candidates by source: seed" in status.out, status.err
        assert not place.data_dir.exists()  # and not because of a database of its own

        def rules() -> list[dict[str, Any]]:
            return [
                r for group in ask(prometheus, "/api/v1/rules")["groups"] for r in group["rules"]
            ]

        await until(lambda: "ready to receive" in watching.read_text(), "Prometheus is ready")
        await until(
            lambda: bool(ask(prometheus, "/api/v1/query?query=bigbrotr_database_up==1")["result"]),
            "bigbrotr is scraped",
        )
        await until(lambda: all(r["health"] != "unknown" for r in rules()), "rules are tried")
        assert {r["health"] for r in rules()} == {"ok"}
        (target,) = ask(prometheus, "/api/v1/targets")["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        assert await bigbrotr.end() == 0
