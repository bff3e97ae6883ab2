"""Dashboards and alarms: they ask for nothing but what is served."""

import json
import re
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import pytest

from bigbrotr.config.shipped import shipped
from bigbrotr.core.metrics import METRICS, PREFIX
from bigbrotr.models.relay import Network
from bigbrotr.net.connect import Failure
from bigbrotr.net.http import Fault
from bigbrotr.nostr.delivery import Outcome
from bigbrotr.nostr.questions import GapReason
from bigbrotr.reads.relays import Stage
from bigbrotr.runner import State
from bigbrotr.serve.children import CLASSES
from bigbrotr.services.finder import OK, SOURCES, Remark
from bigbrotr.services.monitor.probe import UNANSWERED
from bigbrotr.services.monitor.verdict import Verdict
from bigbrotr.services.sync.context import Ending
from bigbrotr.services.sync.report import REASONS
from bigbrotr.services.validator import Answer
from bigbrotr.supervisor import SERVICES
from tests.kit.promtool import run_promtool

CONFIGS = Path(__file__).parents[2] / "configs"


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
        ("serve_answers", "status"): CLASSES,
        ("service_state", "state"): State,
    }
    of_any: dict[str, Iterable[str]] = {
        "network": Network,
        "process": ("supervisor", "workers", "serve"),
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
