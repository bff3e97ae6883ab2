"""The alerts service: tells operators what has changed at their relays."""

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import anyio
import msgspec

from bigbrotr.config.settings import AlertsSettings, AlertTarget, Networks
from bigbrotr.core.base_service import BaseService, Context
from bigbrotr.core.brotr import Brotr
from bigbrotr.core.calls.alerts import Alert
from bigbrotr.core.calls.monitoring import Post
from bigbrotr.core.defects import Defects, is_outside
from bigbrotr.errors import ConfigError
from bigbrotr.models.keys import Keys
from bigbrotr.models.relay import Relay
from bigbrotr.net.http import Sent, Unfetched, post
from bigbrotr.net.politeness import politeness_of
from bigbrotr.secret import read_secret

GIFT_WRAP = 1059
LEASE_S = 600.0  # more than a try takes
MAX_BYTES = 1 << 20  # of an answer, which nobody reads
MOST_REASON = 300  # characters; a part of it may be a stranger's
TITLES = {
    "down": "{relay} is down",
    "up": "{relay} is up again",
    "certificate": "the certificate of {relay} expires",
}


class Destination(NamedTuple):
    """A target, with what is secret of it."""

    target: AlertTarget
    url: str = ""  # of a webhook; a secret
    keys: Keys | None = None  # that sign messages


class Words(NamedTuple):
    """An alert for people."""

    title: str
    text: str


class Alerts(BaseService[AlertsSettings]):
    """Notes what has changed and has lasted, and tells it: to each target in order, one at a time.

    What changed is noted in one transaction with what is to be told; of the supervisors that share
    a database, one tells it. A message (NIP-17) is told once; a webhook may be asked again where a
    process died before it could note the answer, and then with the same id.
    """

    SERVICE_NAME = "alerts"
    CONFIG_CLASS = AlertsSettings

    def __init__(
        self,
        brotr: Brotr,
        settings: AlertsSettings | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(brotr, settings, context)
        self._defects = Defects(self.log)
        self._destinations = destinations(self.settings)
        self._networks = reaching(self.context.config.networks)
        self._politeness = politeness_of(self.context.config.politeness)
        self._has_begun = False

    async def __aenter__(self) -> Self:
        await self.brotr.release_alerts(self.owner)
        return await super().__aenter__()

    async def run(self) -> None:
        """Notes changes, and tells what is due."""
        if not self._has_begun:
            await self._warn_of_strangers()
            self._has_begun = True
        for name, to in self._destinations.items():
            await self.brotr.note_alerts(
                name,
                to.target.watch,
                to.target.changes,
                checks=self.settings.checks,
                after_s=self.settings.after_s,
                certificate_s=self.settings.certificate_s,
            )
        while not self._stop.is_set():
            alerts = await self.brotr.claim_alerts(
                list(self._destinations), owner=self.owner, lease_s=LEASE_S
            )
            if not alerts:
                return
            async with anyio.create_task_group() as group:
                for alert in alerts:
                    group.start_soon(self._tell, alert)

    async def _warn_of_strangers(self) -> None:
        """Says which of the watched relays are none of this archive: perhaps one is misspelt."""
        watched = {url for to in self._destinations.values() for url in to.target.watch}
        rows = await self.brotr.pool.fetch(
            "SELECT r.url FROM bigbrotr.relays r WHERE r.url = ANY ($1)", sorted(watched)
        )
        for url in sorted(watched - {row["url"] for row in rows}):
            self.log.warning("watched, and not known here: nothing is told of it yet", relay=url)

    async def _tell(self, alert: Alert) -> None:
        to = self._destinations[alert.target]
        posts: list[Post] = []
        try:
            if to.keys is None:
                wrong = await self._send(alert, to)
            else:
                wrong, posts = "", messages(alert, to.target, to.keys)
        except Exception as error:  # this target's, and nobody else's
            if is_outside(error):
                raise
            self._defects.note(error, to=alert.target)
            wrong = "defect"
        is_gone = await self.brotr.settle_alert(
            alert,
            owner=self.owner,
            is_told=not wrong,
            max_attempts=self.settings.max_attempts,
            posts=posts,
        )
        fields = {"to": alert.target, "relay": alert.url, "change": alert.change}
        if not wrong:
            self.log.info("told", **fields)
        elif is_gone:
            self.log.error("cannot be told, given up", reason=wrong, **fields)
        else:
            self.log.warning("cannot be told now", reason=wrong, tries=alert.attempts + 1, **fields)

    async def _send(self, alert: Alert, to: Destination) -> str:
        """Asks a webhook; what went wrong, in words that repeat nothing of its URL."""
        answer = await post(
            to.url,
            self._networks,
            FORMS[to.target.form](alert),
            max_bytes=MAX_BYTES,
            timeout_s=self.settings.timeout_s,
            politeness=self._politeness,
        )
        if isinstance(answer, Unfetched):
            return answer.reason.value
        return "" if 200 <= answer.status < 300 else f"status {answer.status}"


def destinations(settings: AlertsSettings) -> Mapping[str, Destination]:
    """The targets by name, with their secrets from the environment.

    Raises:
        ConfigError: a secret is missing or wrong.
    """
    return {name: _destination(name, target) for name, target in settings.to.items()}


def _destination(name: str, target: AlertTarget) -> Destination:
    if target.form == "nostr":
        keys = Keys.from_env("PRIVATE_KEY")
        if keys is None:
            raise ConfigError(f"[alerts.to.{name}] signs messages with PRIVATE_KEY: set it")
        return Destination(target, keys=keys)
    url = (read_secret(target.url_from) or "").strip()
    if not url:
        raise ConfigError(
            f"[alerts.to.{name}] url_from: set {target.url_from} to the URL of the webhook, or "
            f"{target.url_from}_FILE to the path of a file that holds it"
        )
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and "@" not in parts.netloc
        Relay(f"wss://{parts.netloc}")
    except ValueError:
        is_right = False
    if not is_right:
        raise ConfigError(
            f"[alerts.to.{name}] url_from: what {target.url_from} holds is no URL of a webhook: "
            "https://host/path or http://host/path, without a name and a password"
        )
    return Destination(target, url)


def reaching(networks: Networks) -> Networks:
    """The networks as they are for webhooks: the operator's own machines are among them."""
    local = msgspec.structs.replace(networks.local, enabled=True)
    return msgspec.structs.replace(networks, local=local)


def words(alert: Alert) -> Words:
    """The alert in a title and a sentence; what strangers said is cut and stays in its line."""
    relay = alert.url.removeprefix("wss://")
    title = TITLES[alert.change].format(relay=relay)
    at = f"{datetime.fromtimestamp(alert.since, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if alert.change == "certificate":
        return Words(title, f"The certificate of {alert.url} is valid until {at}.")
    reason = _plain(alert.reason)
    why = f" ({reason})" if reason else ""
    return Words(title, f"{alert.url} is {alert.change} since {at}{why}.")


def id_of(alert: Alert) -> str:
    """An id that is the same each time the alert is told."""
    said = f"{alert.target}\n{alert.url}\n{alert.change}\n{alert.since}\n{alert.noted_at}"
    return str(uuid.uuid5(uuid.NAMESPACE_URL, said))


def _plain(text: str) -> str:
    """A text of strangers in one line, without what steers a terminal or turns the line around."""
    cut = text[:MOST_REASON] + ("…" if len(text) > MOST_REASON else "")
    return "".join(each if each.isprintable() else "\ufffd" for each in cut)


def as_json(alert: Alert) -> Sent:
    """The form json."""
    title, text = words(alert)
    said = {
        "id": id_of(alert),
        "change": alert.change,
        "relay": alert.url,
        "since": None if alert.change == "certificate" else alert.since,
        "expires": alert.since if alert.change == "certificate" else None,
        "reason": _plain(alert.reason) or None,
        "noted_at": alert.noted_at,
        "title": title,
        "text": text,
    }
    headers = [("Content-Type", "application/json"), ("Idempotency-Key", id_of(alert))]
    return Sent(msgspec.json.encode(said), headers)


def as_slack(alert: Alert) -> Sent:
    """The form of Slack's incoming webhooks, which others understand as well."""
    title, text = words(alert)
    safe = f"{title}\n{text}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Sent(msgspec.json.encode({"text": safe}), [("Content-Type", "application/json")])


def as_ntfy(alert: Alert) -> Sent:
    """The form of ntfy: the text is the body, the rest are headers."""
    title, text = words(alert)
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Title", re.sub("[^ -~]", "?", title)),
        ("Priority", "high" if alert.change == "down" else "default"),
        ("Tags", {"down": "red_circle", "up": "green_circle"}.get(alert.change, "warning")),
    ]
    return Sent(text.encode("utf-8", "replace"), headers)


FORMS = {"json": as_json, "slack": as_slack, "ntfy": as_ntfy}


def messages(alert: Alert, target: AlertTarget, keys: Keys) -> list[Post]:
    """A private message (NIP-17) for the outbox: the same one for each relay of its reader."""
    title, text = words(alert)
    event = keys.wrap_message(target.npub, f"{title}\n{text}", alert.noted_at)
    d = f"alert {alert.id}"
    return [Post(relay, GIFT_WRAP, d, event) for relay in target.relays]
