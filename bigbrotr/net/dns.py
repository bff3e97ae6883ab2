"""What the domain name system holds about a host: its addresses, aliases, name servers, and the
names of its address; asked for record by record, within bounds."""

import asyncio
from functools import cache
from typing import Any, NamedTuple

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver
import dns.reversename
from dns.nameserver import Do53Nameserver

from bigbrotr.config.settings import name_server
from bigbrotr.models.check import Check, Failed, Measured, Unmeasured

MAX_RECORDS = 20  # of a kind
MAX_CLIMB = 5  # labels that are taken off in search of a zone's name servers


class DnsRecords(NamedTuple):
    """What was found, sorted, names without the last dot. `ttl_s` is what the resolver says: it
    counts down between two looks into the zone."""

    a: list[str]
    aaaa: list[str]
    cname: str | None  # where the chain of aliases ends
    ns: list[str]
    ptr: list[str]  # of the first address
    ttl_s: int

    def document(self) -> dict[str, Any]:
        """What stays the same while the zone does."""
        return {
            "a": self.a,
            "aaaa": self.aaaa,
            "cname": self.cname,
            "ns": self.ns,
            "ptr": self.ptr,
        }


async def look_into_zone(
    host: str, timeout_s: float, nameservers: tuple[str, ...] = ()
) -> Check[DnsRecords]:
    """The records of a host within `timeout_s` in all; by these name servers ("address" or
    "address:port"), or the system's. An address has none, nor has a host of an overlay network:
    the caller asks for neither."""
    try:
        resolver = _resolver(nameservers)
    except dns.resolver.NoResolverConfiguration as error:
        return Unmeasured(str(error))
    try:
        async with asyncio.timeout(timeout_s):
            return await _look(resolver, dns.name.from_text(host), timeout_s)
    except (TimeoutError, dns.exception.Timeout):
        return Failed("no-answer", f"no name server answered within {timeout_s:g} s")
    except dns.resolver.NXDOMAIN:
        return Failed("no-such-name", "the name does not exist")
    except dns.resolver.NoNameservers as error:
        return Failed("server-failure", str(error)[:200])
    except (dns.exception.DNSException, OSError, ValueError) as error:
        return Failed("malformed", str(error)[:200])


@cache
def _resolver(nameservers: tuple[str, ...]) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=not nameservers)
    if nameservers:
        resolver.nameservers = [Do53Nameserver(*name_server(text)) for text in nameservers]
    resolver.search = []
    resolver.cache = None
    return resolver


async def _look(
    resolver: dns.asyncresolver.Resolver, name: dns.name.Name, timeout_s: float
) -> Check[DnsRecords]:
    async def ask(about: dns.name.Name, kind: str) -> dns.resolver.Answer:
        return await resolver.resolve(
            about, kind, raise_on_no_answer=False, lifetime=timeout_s, search=False
        )

    v4, v6 = await asyncio.gather(ask(name, "A"), ask(name, "AAAA"))
    a, aaaa = _texts(v4), _texts(v6)
    first = [*a, *aaaa][:1]
    ns, ptr = await asyncio.gather(
        _servers(ask, v4.canonical_name),
        _pointers(ask, first[0]) if first else _nothing(),
    )
    alias = v4.canonical_name
    ttls = [each.rrset.ttl for each in (v4, v6) if each.rrset is not None]
    if not ttls:
        return Failed("no-address", "the name has no address")
    return Measured(
        DnsRecords(
            a=a,
            aaaa=aaaa,
            cname=None if alias == name else _text(alias),
            ns=ns,
            ptr=ptr,
            ttl_s=min(ttls),
        )
    )


async def _servers(ask: Any, name: dns.name.Name) -> list[str]:
    """The name servers of the zone that a name is in: of the nearest name above that has any."""
    for _ in range(MAX_CLIMB):
        try:
            answer = await ask(name, "NS")
        except (dns.resolver.NXDOMAIN, dns.resolver.NoNameservers):
            answer = None
        if answer is not None and answer.rrset is not None:
            return _texts(answer)
        if len(name.labels) <= 3:  # two, and the root
            break
        name = name.parent()
    return []


async def _pointers(ask: Any, address: str) -> list[str]:
    try:
        return _texts(await ask(dns.reversename.from_address(address), "PTR"))
    except (dns.resolver.NXDOMAIN, dns.resolver.NoNameservers, dns.exception.Timeout):
        return []  # most have none, and many zones of addresses are broken


async def _nothing() -> list[str]:
    return []


def _texts(answer: dns.resolver.Answer) -> list[str]:
    if answer.rrset is None:
        return []
    return sorted({each.to_text().removesuffix(".").lower() for each in answer.rrset})[:MAX_RECORDS]


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
