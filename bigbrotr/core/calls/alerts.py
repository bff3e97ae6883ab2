"""Alerts: what has changed at chosen relays, and who is still to be told."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from bigbrotr.core.calls.base import Calls, value_of
from bigbrotr.core.calls.monitoring import Post
from bigbrotr.core.pool import Connection


class Alert(NamedTuple):
    """A claimed alert. Times are Unix seconds."""

    id: int
    target: str
    change: str  # up, down, certificate
    url: str  # of the relay
    since: int  # until when the certificate is valid
    reason: str  # why it is down, in the words of the check
    noted_at: int
    attempts: int  # failed tries


class AlertCalls(Calls):
    """Alerts, from the change to the one who is told."""

    async def note_alerts(
        self,
        target: str,
        urls: Sequence[str],
        changes: Sequence[str],
        *,
        checks: int,
        after_s: float,
        certificate_s: float,
    ) -> int:
        """Notes for a target what has changed at relays and has lasted; returns how much is to be
        told."""
        noted: int = await self._value(
            "note_alerts",
            p_target=target,
            p_urls=urls,
            p_changes=changes,
            p_checks=checks,
            p_after_s=int(after_s),
            p_certificate_s=int(certificate_s),
            p_now=int(time.time()),
        )
        return noted

    async def claim_alerts(
        self, targets: Sequence[str], *, owner: str, lease_s: float
    ) -> list[Alert]:
        """The oldest alert of each target, where it is due; nobody else's within the lease."""
        rows = await self._rows(
            "claim_alerts",
            p_targets=targets,
            p_owner=owner,
            p_lease_s=int(lease_s),
            p_now=int(time.time()),
        )
        return [Alert(*row) for row in rows]

    async def settle_alert(
        self,
        alert: Alert,
        *,
        owner: str,
        is_told: bool,
        max_attempts: int,
        posts: Sequence[Post] = (),
    ) -> bool:
        """Records whether a claimed alert was told; whether it is gone. With the same transaction,
        `posts` go into the outbox."""
        now = int(time.time())

        async def settle(connection: Connection) -> bool:
            if posts:
                await value_of(
                    connection,
                    "post_events",
                    p_targets=[post.target for post in posts],
                    p_kinds=[post.kind for post in posts],
                    p_ds=[post.d for post in posts],
                    p_events=[post.event for post in posts],
                    p_now=now,
                )
            return bool(
                await value_of(
                    connection,
                    "settle_alert",
                    p_id=alert.id,
                    p_owner=owner,
                    p_is_told=is_told,
                    p_max_attempts=max_attempts,
                    p_now=now,
                )
            )

        return await self._transact(settle)

    async def release_alerts(self, owner: str) -> int:
        """Gives back the alerts that `owner` held when it crashed; returns how many."""
        released: int = await self._value("release_alerts", p_owner=owner, p_now=int(time.time()))
        return released
