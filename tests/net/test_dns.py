"""Records of a zone, from a DNS server of our own on loopback; and servers that are no good."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from bigbrotr.models.check import Failed, Measured
from bigbrotr.net.dns import DnsRecords, look_into_zone

RECORDS = {
    ("relay.example.com.", "CNAME"): ["edge.example.net."],
    ("edge.example.net.", "A"): ["192.0.2.2", "192.0.2.1"],
    ("edge.example.net.", "AAAA"): ["2001:db8::1"],
    ("example.net.", "NS"): ["ns2.example.net.", "NS1.example.net."],
    ("1.2.0.192.in-addr.arpa.", "PTR"): ["host.example.org."],
    ("plain.example.com.", "A"): ["192.0.2.9"],
    ("six.example.com.", "AAAA"): ["2001:db8::9"],
    ("empty.example.com.", "TXT"): ["nothing"],
}


def answer(query: dns.message.Message) -> dns.message.Message | None:
    """What a resolver that knows RECORDS says."""
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.RA
    (question,) = query.question
    name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
    while (target := RECORDS.get((name, "CNAME"))) and kind != "CNAME":
        reply.answer.append(dns.rrset.from_text(name, 300, "IN", "CNAME", *target))
        name = target[0]
    if found := RECORDS.get((name, kind)):
        reply.answer.append(dns.rrset.from_text(name, 120, "IN", kind, *found))
    elif not any(known.endswith(name) for known, _ in RECORDS):
        reply.set_rcode(dns.rcode.NXDOMAIN)
    return reply


Reply = Callable[[dns.message.Message], dns.message.Message | bytes | None]


class Server(asyncio.DatagramProtocol):
    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.queries: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.queries.append(query.question[0].to_text())
        reply = self.reply(query)
        if reply is not None:
            wire = reply if isinstance(reply, bytes) else reply.to_wire()
            self.transport.sendto(wire, address)  # type: ignore[attr-defined]


@asynccontextmanager
async def nameserver(reply: Reply = answer) -> AsyncIterator[tuple[str, Server]]:
    """A DNS server on loopback: its address with the port, and what it saw."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: Server(reply), local_addr=("127.0.0.1", 0)
    )
    try:
        yield f"127.0.0.1:{transport.get_extra_info('sockname')[1]}", server
    finally:
        transport.close()


async def test_all_that_a_zone_says() -> None:
    async with nameserver() as (address, _):
        zone = await look_into_zone("relay.example.com", 5.0, (address,))
    assert zone == Measured(
        DnsRecords(
            a=["192.0.2.1", "192.0.2.2"],
            aaaa=["2001:db8::1"],
            cname="edge.example.net",
            ns=["ns1.example.net", "ns2.example.net"],
            ptr=["host.example.org"],
            ttl_s=120,
        )
    )
    assert isinstance(zone, Measured)
    assert "ttl_s" not in zone.value.document()


async def test_a_zone_that_says_little() -> None:
    async with nameserver() as (address, _):
        plain = await look_into_zone("plain.example.com", 5.0, (address,))
        six = await look_into_zone("six.example.com", 5.0, (address,))
        empty = await look_into_zone("empty.example.com", 5.0, (address,))
        none = await look_into_zone("none.example.org", 5.0, (address,))
    assert plain == Measured(DnsRecords(["192.0.2.9"], [], None, [], [], 120))
    assert six == Measured(DnsRecords([], ["2001:db8::9"], None, [], [], 120))
    assert isinstance(empty, Failed)
    assert empty.reason == "no-address"
    assert isinstance(none, Failed)
    assert none.reason == "no-such-name"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda _: None, "no-answer"),
        (lambda query: query.to_wire()[:7], "no-answer"),
        (lambda _: b"\xff" * 40, "no-answer"),
    ],
)
async def test_servers_that_are_no_good(reply: Reply, reason: str) -> None:
    async with nameserver(reply) as (address, _):
        zone = await look_into_zone("relay.example.com", 0.3, (address,))
    assert isinstance(zone, Failed)
    assert zone.reason in (reason, "malformed", "server-failure")


async def test_a_server_that_refuses() -> None:
    def refuse(query: dns.message.Message) -> dns.message.Message:
        reply = dns.message.make_response(query)
        reply.set_rcode(dns.rcode.SERVFAIL)
        return reply

    async with nameserver(refuse) as (address, _):
        zone = await look_into_zone("relay.example.com", 0.5, (address,))
    assert isinstance(zone, Failed)
    assert zone.reason in ("server-failure", "no-answer")


async def test_aliases_that_go_round() -> None:
    def round_and_round(query: dns.message.Message) -> dns.message.Message:
        reply = dns.message.make_response(query)
        for name, target in (("a.example.", "b.example."), ("b.example.", "a.example.")):
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", target))
        return reply

    async with nameserver(round_and_round) as (address, _):
        assert isinstance(await look_into_zone("a.example", 0.5, (address,)), Failed)
