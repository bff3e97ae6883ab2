"""Checks one relay: each check that is switched on, over as few connections as can be."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from bigbrotr.config.settings import Link, MonitorSettings, Networks
from bigbrotr.models.check import Check, Failed, Measured, Unmeasured
from bigbrotr.models.nip11 import Nip11
from bigbrotr.models.relay import Network, Relay
from bigbrotr.net.connect import OURS, Failure, Unreached
from bigbrotr.net.dns import DnsRecords, look_into_zone
from bigbrotr.net.http import Unfetched, fetch
from bigbrotr.net.politeness import Politeness
from bigbrotr.nostr.auth import SignedEvent, Signer
from bigbrotr.services.monitor.claims import compare
from bigbrotr.services.monitor.geoip import GeoIp
from bigbrotr.services.monitor.probe import UNANSWERED, Missed, ProbeConnection, Secured, open_probe
from bigbrotr.services.monitor.trial import make_trial
from bigbrotr.services.monitor.verdict import OFF, Findings

QUESTIONS = 10  # to one relay at most, each within its bound
REST_S = 600.0  # for a host that finds us too busy
# Where the address answers HTTP all the same, and may have a document.
ANSWERS_HTTP = frozenset({Failure.NOT_WEBSOCKET, Failure.REFUSES_US})

# Proof of work and documents: off the event loop, and apart from what else has a pool.
_pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="monitor")


class Checker:
    """Looks at relays, one after the other or many at once."""

    def __init__(
        self, settings: MonitorSettings, networks: Networks, politeness: Politeness, signer: Signer
    ) -> None:
        self.geoip = GeoIp(settings.geo.city_db, settings.geo.asn_db)
        self._settings = settings
        self._networks = networks
        self._politeness = politeness
        self._signer = signer

    def budget_s(self, link: Link) -> float:
        """How long an examination can take: to connect, and for each question."""
        checks = self._settings
        bounds = [link.timeout_s, checks.claims.timeout_s, checks.dns.timeout_s]
        bounds += [
            each.timeout_s or link.timeout_s for each in (checks.read, checks.write, checks.nip11)
        ]
        return QUESTIONS * max(bounds)

    async def meet(self, relay: Relay, link: Link) -> ProbeConnection | Missed:
        """Opens a connection that measures."""
        return await open_probe(
            relay, link, allow_local=self._networks.local.enabled, politeness=self._politeness
        )

    async def examine(self, relay: Relay, link: Link) -> Findings:
        """Looks at a relay, with all checks that are switched on."""
        async with asyncio.TaskGroup() as group:
            zone = group.create_task(self._look_up_dns(relay, link))
            found = group.create_task(self._visit(relay, link))
        return found.result()._replace(dns=zone.result())

    async def _look_up_dns(self, relay: Relay, link: Link) -> Check[DnsRecords]:
        dns = self._settings.dns
        if not dns.enabled:
            return OFF
        if relay.network is not Network.CLEARNET or link.proxy is not None:
            return Unmeasured("no name that our resolver is asked for")
        if ":" in relay.host or relay.host.replace(".", "").isdigit():
            return Unmeasured("an address has no records")
        return await look_into_zone(relay.host, dns.timeout_s, dns.nameservers)

    async def _visit(self, relay: Relay, link: Link) -> Findings:
        met = await self.meet(relay, link)
        if isinstance(met, Missed):
            failure = met.why.failure
            if failure is Failure.RATE_LIMITED:
                self._politeness.cool_down(relay.host, relay.port, REST_S)
            closed = Unmeasured("it does not open")
            document: Check[Nip11] = closed
            if failure in ANSWERS_HTTP:
                document = await self._fetch_document(relay, link)
            return Findings(
                opened=met.why,
                nip11=document,
                tls=self._tls(relay, met.tls, met.why),
                http=closed,
                read=closed,
                write=closed,
                claims=closed,
                **await self._locate(met.peer),
            )
        async with met:
            return await self._talk(relay, link, met)

    async def _talk(self, relay: Relay, link: Link, met: ProbeConnection) -> Findings:
        """What one connection tells, and beside it the document."""
        read: Check[float] = OFF
        if self._settings.read.enabled:
            read = await met.read(self._settings.read.timeout_s or link.timeout_s)
        document = await self._fetch_document(relay, link)
        known = document.value if isinstance(document, Measured) else None
        if isinstance(read, Failed) and read.reason in UNANSWERED:
            silent = Unmeasured("it does not answer")
            return await self._describe(relay, met, read, document, silent, silent)
        write: Check[float] = OFF
        if self._settings.write.enabled:
            write = await self._write(met, known, link)
        claims: Check[dict[str, Any]] = OFF
        if self._settings.claims.enabled:
            claims = await self._compare(met, known, write)
        return await self._describe(relay, met, read, document, write, claims)

    async def _describe(
        self,
        relay: Relay,
        met: ProbeConnection,
        read: Check[float],
        document: Check[Nip11],
        write: Check[float],
        claims: Check[dict[str, Any]],
    ) -> Findings:
        return Findings(
            opened=met.opening,
            is_challenged=met.challenge is not None,
            read=read,
            write=write,
            nip11=document,
            tls=self._tls(relay, met.tls),
            http=Measured(dict(met.headers)) if self._settings.http else OFF,
            claims=claims,
            **await self._locate(met.peer),
        )

    async def _fetch_document(self, relay: Relay, link: Link) -> Check[Nip11]:
        settings = self._settings.nip11
        if not settings.enabled:
            return OFF
        answer = await fetch(
            f"http{relay.url.removeprefix('ws')}",
            self._networks,
            max_bytes=settings.max_bytes,
            timeout_s=settings.timeout_s or link.timeout_s,
            accept="application/nostr+json",
            politeness=self._politeness,
        )
        if isinstance(answer, Unfetched):
            if answer.reason in OURS:
                return Unmeasured(answer.detail)
            return Failed(answer.reason.value, answer.detail)
        if answer.status != 200:
            return Failed(f"http-{answer.status}")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_pool, read_document, answer.body)

    async def _write(
        self, met: ProbeConnection, document: Nip11 | None, link: Link
    ) -> Check[float]:
        settings = self._settings.write
        bits = (document.limit("min_pow_difficulty") or 0) if document else 0
        if bits > settings.max_pow_bits:
            return Unmeasured(f"it asks for {bits} bits of work")
        trial = await self._make_trial(bits)
        return await met.write(trial, settings.timeout_s or link.timeout_s)

    async def _compare(
        self, met: ProbeConnection, document: Nip11 | None, write: Check[float]
    ) -> Check[dict[str, Any]]:
        protected = None
        if isinstance(write, Measured):
            bits = (document.limit("min_pow_difficulty") or 0) if document else 0
            protected = await self._make_trial(bits, is_protected=True)
        return Measured(
            await compare(
                met, document, self._settings.claims.timeout_s, protected=protected, wrote=write
            )
        )

    async def _make_trial(self, bits: int, *, is_protected: bool = False) -> SignedEvent:
        make = partial(make_trial, self._signer, int(time.time()), bits, is_protected=is_protected)
        return await asyncio.get_running_loop().run_in_executor(_pool, make)

    def _tls(
        self, relay: Relay, seen: Secured | None, why: Unreached | None = None
    ) -> Check[Secured]:
        if not self._settings.tls:
            return OFF
        if relay.scheme != "wss":
            return Unmeasured("it has none")
        if seen is not None:
            return Measured(seen)
        if why is not None and why.failure in (Failure.TLS, Failure.TLS_OLD):
            return Failed(why.failure.value, why.detail)
        return Unmeasured("it does not open")

    async def _locate(self, peer: str) -> dict[str, Any]:
        if not peer:
            unknown = Unmeasured("its address is not known")
            return {"geo": unknown, "net": unknown}
        return {"geo": await self.geoip.place(peer), "net": await self.geoip.network(peer)}


def read_document(body: bytes) -> Check[Nip11]:
    """The NIP-11 document in the body of an answer."""
    try:
        return Measured(Nip11.parse(body))
    except ValueError as error:
        return Failed("not-json", str(error)[:200])
