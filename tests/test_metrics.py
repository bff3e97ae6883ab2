"""Metrics: what /metrics serves, and that those who watch it ask for nothing else."""

import asyncio
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from bigbrotr.config.shipped import shipped
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.metrics import METRICS, PREFIX, Sample
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.connect import Failure
from bigbrotr.net.http import Fault
from bigbrotr.nostr.delivery import Outcome
from bigbrotr.nostr.questions import GapReason
from bigbrotr.reads.relays import Stage
from bigbrotr.runner import State
from bigbrotr.serve import metrics
from bigbrotr.services.finder import OK, SOURCES, Remark
from bigbrotr.services.monitor.probe import UNANSWERED
from bigbrotr.services.monitor.verdict import Verdict
from bigbrotr.services.sync.context import Ending
from bigbrotr.services.sync.report import REASONS
from bigbrotr.services.validator import Answer
from bigbrotr.supervisor import SERVICES
from tests.kit.events import make_event
from tests.kit.processes import Place, call, until
from tests.kit.real import free_port
from tests.kit.scripted import ScriptedRelay

CONFIGS = Path(__file__).parents[1] / "configs"
RULES = CONFIGS / "prometheus" / "bigbrotr.rules.yml"
WATCHERS = [RULES, *CONFIGS.glob("grafana/*.json")]
# How conversations can end: at all, for the validator, the synchronizer and the monitor. mypy
# holds the first three to these words.
OUTCOMES = {
    *Failure,
    *get_args(Answer),
    *(*get_args(Ending), *GapReason),
    *(Verdict.UP, *UNANSWERED),
}
EVENTS = [make_event(1_600_000_000 + n, content=f"note {n}") for n in range(40)]

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Page:
    """The samples of a page by name and labels; strictly, as OpenMetrics."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }


def read(url: str) -> Page:
    asked = urllib.request.Request(f"{url}/metrics", headers={"Accept": OPENMETRICS})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        return parse(answer.read().decode())


@pytest.fixture(scope="module")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Place, str]]:
    """A running archive of one relay, and where it serves."""
    port = free_port()
    bad = make_event(1_600_000_100, content="tampered with")
    async with ScriptedRelay([*EVENTS, bad | {"content": "by hand"}]) as relay:
        more = f'[web]\nlisten = "127.0.0.1:{port}"\n'
        dead = f"ws://127.0.0.1:{free_port()}"
        place = Place(tmp_path_factory.mktemp("archive") / "place", [relay.url, dead], more=more)
        async with place.start() as running:
            await running.says("ready")
            url = f"http://127.0.0.1:{port}"

            async def is_copied() -> bool:
                page = await asyncio.to_thread(read, url)
                return page.get(("bigbrotr_events_new_total", frozenset()), 0) == 40

            await until(is_copied, "the copy")
            yield place, url
            assert await running.end() == 0


@pytest.mark.slow
async def test_what_a_running_archive_tells(archive: tuple[Place, str]) -> None:
    place, url = archive
    page: Page = {}

    async def is_told() -> bool:  # metrics of the archive may be some seconds old
        nonlocal page
        page = await asyncio.to_thread(read, url)
        return page.get(("bigbrotr_archive_events", frozenset())) == 40 and {
            "bigbrotr_relays_complete",
            "bigbrotr_candidates",
        } <= {name for name, _ in page}

    await until(is_told, "all that is archived")

    def value(name: str, **labels: str) -> float:
        return page[PREFIX + name, frozenset(labels.items())]

    assert value("database_up") == value("service_state", service="seeder", state="running") == 1
    assert value("archive_pairs") == 40
    assert value("events_received_total") >= 41
    assert value("events_rejected_total", reason="bad id") >= 1
    assert value("relays_complete", network="local") == 1
    assert value("pages_total") >= 1
    assert value("received_bytes_total") > 1000
    spoke = {"service": "validator", "network": "local", "outcome": "speaks-nostr"}
    assert value("connections_total", **spoke) == 1
    assert value("connections_total", **(spoke | {"outcome": "refused"})) >= 1
    assert value("candidates", network="local", state="failing") == 1
    done = [labels for name, labels in page if name == "bigbrotr_connections_total"]
    assert {"synchronizer", "validator"} == {dict(labels)["service"] for labels in done}
    assert value("workers") == 2
    assert value("memory_bytes", process="workers") > value("memory_bytes", process="supervisor")
    assert value("database_size_bytes") > 1e6
    assert value("disk_free_bytes") > 0
    for process in ("supervisor", "workers"):
        assert value("database_uses_total", process=process) > 10
        assert value("database_seconds_total", process=process) > 0
        assert value("database_wait_seconds_total", process=process) >= 0
        for reason in ("pace", "address"):
            assert value("politeness_waits_total", process=process, reason=reason) == 0  # local
    assert value("loop_lag_seconds") < 10
    assert value("service_last_success_timestamp_seconds", service="validator") > 1.7e9
    assert value("backlog", queue="mentions") >= 0
    assert not [labels for _, labels in page if "ws://" in str(labels)]
    assert str(place.data_dir) not in str(page)


@pytest.mark.slow
async def test_health_of_a_running_archive(archive: tuple[Place, str]) -> None:
    place, _ = archive
    done = await place.call("health")
    assert (done.code, done.out) == (0, "ok\n")
    done = await place.call("health", "--alive")
    assert (done.code, done.out) == (0, "ok\n")
    async with place.look() as connection:
        await connection.execute(
            "INSERT INTO bigbrotr.ledger VALUES (99, 'full', 'x', 0, 98, '9.0.0')"
        )
        done = await place.call("health")
        await connection.execute("DELETE FROM bigbrotr.ledger WHERE revision = 99")
    assert done.code == 1
    assert "install a newer bigbrotr" in done.out


@pytest.mark.slow
async def test_health_of_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    done = await place.call("health")
    assert done.code == 2
    assert "[web] listen" in done.sentence
    place = Place(tmp_path / "place", more=f'[web]\nlisten = "0.0.0.0:{free_port()}"\n')
    done = await place.call("health")
    assert done.code == 1
    assert "nobody answers at" in done.out
    assert (await call("health", "--help")).code == 0


async def test_health_of_another_archive(archive: tuple[Place, str], tmp_path: Path) -> None:
    """Whoever answers at the port has to be this archive's."""
    _, url = archive
    place = Place(tmp_path / "place", more=f'[web]\nlisten = "{url.removeprefix("http://")}"\n')
    for words in (["health"], ["health", "--alive"]):
        done = await place.call(*words)
        assert done.code == 1
        assert "runs another archive: this one is not running" in done.out


async def test_figures_of_the_archive(brotr: Brotr) -> None:
    """Relays wait from the start, an empty archive has no age, and everything is declared."""
    before = {(name, labels): value for name, value, labels in await brotr.metrics()}
    for queue in ("visits", "candidates", "checks", "outbox"):
        assert before["backlog_age_seconds", (queue,)] == 0
    await brotr.insert_relays([Relay("wss://a.example"), Relay("wss://b.example")])
    await brotr.insert_candidates([Relay("wss://c.example")], "seed")
    after = {(name, labels): value for name, value, labels in await brotr.metrics()}
    assert after["relays", ("clearnet", "waiting")] == after["backlog", ("visits",)] == 2
    assert after["candidates", ("clearnet", "new")] == after["backlog", ("candidates",)] == 1
    for name, labels in after:
        assert len(labels) == len(METRICS[name].labels), name
    # Their network is switched off: they are there, but do not wait for a turn.
    off = {(name, labels): value for name, value, labels in await brotr.metrics([Network.TOR])}
    assert off["relays", ("clearnet", "waiting")] == 2
    assert off["candidates", ("clearnet", "new")] == 1
    for queue in ("visits", "candidates", "checks"):
        assert off["backlog", (queue,)] == off["backlog_age_seconds", (queue,)] == 0


def test_page_is_openmetrics() -> None:
    samples = [Sample("gaps", 3, ('a "reason"\n',)), Sample("pages", 7)]
    body, kind = metrics.page(samples, OPENMETRICS)
    text = body.decode()
    assert kind.startswith("application/openmetrics-text")
    page = parse(text)
    assert page["bigbrotr_gaps", frozenset({("reason", 'a "reason"\n')})] == 3
    assert page["bigbrotr_pages_total", frozenset()] == 7
    assert text.endswith("# EOF\n")
    for name, figure in METRICS.items():
        assert f"# TYPE {PREFIX}{name} {figure.kind}\n" in text
        assert not name.endswith("_total")
    with pytest.raises(KeyError):
        metrics.page([Sample("undeclared", 1)])


async def test_plain_text_where_nothing_else_is_asked_for(archive: tuple[Place, str]) -> None:
    """As a person or an older program sees it; Prometheus itself finds no fault with it."""
    _, url = archive

    def plain() -> str:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text: str = answer.read().decode()
            return text

    text = await asyncio.to_thread(plain)
    assert "# EOF" not in text
    assert "# TYPE bigbrotr_events_new_total counter\nbigbrotr_events_new_total 40.0\n" in text
    for name in ("resident_memory_bytes", "open_fds", "cpu_seconds_total", "start_time_seconds"):
        assert re.search(rf"(?m)^process_{name} [1-9]", text), name
    run_promtool("check", "metrics", stdin=text)


def test_no_ratio_divides_by_nothing() -> None:
    """Where nothing was counted there is no quotient, rather than one that is no number."""
    panels = json.loads((CONFIGS / "grafana" / "bigbrotr.json").read_text())["panels"]
    found = [t["expr"] for panel in panels for t in panel.get("targets", ())]
    ratios = [expr for expr in found if re.search(r"\)\s*/|\}\s*/", expr)]
    assert len(ratios) >= 3
    for expr in ratios:
        divisor = expr.rpartition("/ ")[2]
        assert re.fullmatch(r"\(.* > 0\)|clamp_min\(.*\)", divisor), expr


@pytest.mark.parametrize("path", WATCHERS, ids=lambda path: path.name)
def test_who_watches_asks_for_what_is_served(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".json":
        panels = json.loads(text)["panels"]
        text = "\n".join(t["expr"] for panel in panels for t in panel.get("targets", ()))
        assert len(panels) == len({panel["id"] for panel in panels})
    served = {
        PREFIX + name + ("_total" if figure.kind == "counter" else "")
        for name, figure in METRICS.items()
    }
    asked = set(re.findall(r"\bbigbrotr_[a-z_]+", text))
    assert len(asked) > 5
    assert asked <= served, asked - served
    check_labels(text)


def check_labels(text: str) -> None:
    """Whoever asks names labels that there are, with values that they can have."""
    for name, inside in re.findall(r"\b(bigbrotr_[a-z_]+)\{([^}]*)\}", text):
        bare = name.removeprefix(PREFIX).removesuffix("_total")
        for label, operator, wanted in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside):
            if label == "instance":
                continue
            assert label in METRICS[bare].labels, (name, label)
            for each in wanted.split("|") if "~" in operator else [re.escape(wanted)]:
                can_be = [value for value in values(bare, label) if re.fullmatch(each, value)]
                assert can_be, f"{name}: no {label} is ever {wanted}"


def values(name: str, label: str) -> set[str]:
    """All that a figure's label can be, as the code that counts says it."""
    told_by_us: dict[tuple[str, str], Iterable[str]] = {
        ("connections", "outcome"): OUTCOMES,
        ("checks", "verdict"): Verdict,
        ("deliveries", "outcome"): get_args(Outcome),
        ("events_rejected", "reason"): REASONS,
        ("finder_requests", "outcome"): (OK, *get_args(Remark), *Failure, *Fault, *GapReason),
        ("gaps", "reason"): GapReason,
        ("politeness_waits", "reason"): ("pace", "address"),
        ("politeness_wait_seconds", "reason"): ("pace", "address"),
        ("pool_connections", "state"): ("used", "idle"),
        ("relays", "state"): Stage,
        ("relays_checked", "state"): ("unknown", "up", "down"),
        ("service_state", "state"): State,
    }
    of_any: dict[str, Iterable[str]] = {
        "network": Network,
        "process": ("supervisor", "workers"),
        "service": SERVICES,
        "source": SOURCES,
    }
    if found := told_by_us.get((name, label)) or of_any.get(label):
        return set(found)
    # Told by the database: what stands there in quotes.
    files = ("60_totals.sql", "62_metrics.sql")  # the former says in which stage a relay is
    text = "".join(re.sub("--.*", "", (shipped("sql") / name).read_text()) for name in files)
    assert f"'{name}'" in text, f"say what the {label} of {name} can be"
    return set(re.findall(r"'([^']*)'", text))


@pytest.mark.parametrize(
    ("asked", "is_right"),
    [
        ('connections_total{outcome="proxy"}', True),
        ('connections_total{outcome=~"proxied.*"}', False),
        ('connections_total{outcome=~"proxy|proxied"}', False),
        ('connections_total{instance="x",service!="synchroniser"}', False),
        ('events_rejected_total{reason="bad signature"}', True),
        ('relays{state="restless"}', False),
        ('relays{state!="retired"}', True),
        ('relays{service="monitor"}', False),
    ],
)
def test_what_cannot_be_is_not_asked_for(asked: str, is_right: bool) -> None:
    with nullcontext() if is_right else pytest.raises(AssertionError):
        check_labels(f"sum(bigbrotr_{asked})")


ALARM = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: bigbrotr_{moving}
        values: 0+1x480
      - series: bigbrotr_{still}
        values: 0x480
    alert_rule_test:
      - eval_time: 8h
        alertname: {alert}
        exp_alerts: [{raised}]
"""
CONNECTIONS = 'connections_total{instance="a",network="tor",outcome="%s"}'
DELIVERIES = 'deliveries_total{instance="a",outcome="%s"}'


@pytest.mark.parametrize(
    ("alert", "series", "moving", "still", "labels"),
    [
        ("BigbrotrNetworkUnreachable", CONNECTIONS, Failure.PROXY, "up", "network: tor"),
        ("BigbrotrNetworkUnreachable", CONNECTIONS, Failure.SLOW, "proxy", ""),
        ("BigbrotrNothingPublished", DELIVERIES, "failed", "accepted", "outcome: accepted"),
        ("BigbrotrNothingPublished", DELIVERIES, "accepted", "failed", ""),
    ],
)
def test_alarms(
    alert: str, series: str, moving: str, still: str, labels: str, tmp_path: Path
) -> None:
    """What rises minute by minute, and what does not; `labels` where that is to raise an alarm."""
    raised = ""
    if labels:
        words = json.dumps(annotations(alert)).replace("{{ $labels.network }}", "tor")
        about = f"{{instance: a, severity: ticket, {labels}}}"
        raised = f"{{exp_labels: {about}, exp_annotations: {words}}}"
    path = tmp_path / "test.yml"
    path.write_text(
        ALARM.format(
            rules=RULES, alert=alert, moving=series % moving, still=series % still, raised=raised
        )
    )
    run_promtool("test", "rules", str(path))


def annotations(alert: str) -> dict[str, str]:
    """What an alert says to people; a line each in the rules."""
    _, _, rest = RULES.read_text().partition(f"alert: {alert}\n")
    rule, _, _ = rest.partition("- alert:")
    lines = rule.partition("annotations:\n")[2].strip().splitlines()
    return {name.strip(): text.strip(' "') for name, _, text in (x.partition(":") for x in lines)}


@pytest.mark.slow
def test_rules_are_right() -> None:
    run_promtool("check", "rules", str(RULES))
    run_promtool("check", "config", str(RULES.with_name("prometheus.yml")))


def run_promtool(*words: str, stdin: str | None = None) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: Debian's package prometheus has it")
    done = subprocess.run(
        [promtool, *words], input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
