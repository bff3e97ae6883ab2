"""Settings: what they may be, what is said about each that may not, and what follows from them."""

import re
from pathlib import Path

import pytest

from bigbrotr.config.settings import (
    Profile,
    name_server,
)
from bigbrotr.config.toml import load, show
from bigbrotr.errors import ConfigError
from tests.config.conftest import read

SECRET = "correct-horse-battery-staple"


MISTAKES = [
    ("[monitor.nip11]\nmax_byte = 3", r"\[monitor\.nip11\] max_byte: unknown key; did you mean"),
    ("[monitor.read]\ntimeout_s = 0", r"\[monitor\.read\] timeout_s: 0 is wrong"),
    ("[monitor.write]\nmax_pow_bits = 30", r"\[monitor\.write\] max_pow_bits: 30 is wrong"),
    ('[monitor.dns]\nnameservers = ["ns.example"]', r"\[monitor\] dns: nameservers: 'ns\.example'"),
    ("[monitor.publish]\nenabled = true", r"\[monitor\] publish: enabled with nowhere to publish"),
    ('[monitor.publish]\nrelays = ["x"]', r"\[monitor\] publish: relays: 'x': a relay URL starts"),
    ('[monitor.publish]\ngeohash = "a"', r"\[monitor\] publish: geohash: 'a': expected 1 to 12"),
    ("[networks.tor]\nwidht = 3", r"\[networks\.tor\] widht: unknown key; did you mean \"width\""),
    (
        "[synchroniser]\nworkers = 3",
        r"\[synchroniser\]: unknown key; did you mean \"synchronizer\"",
    ),
    ("[qqq]", r"\[qqq\]: unknown key; known here: .*database"),
    ("verbose = true", r"\[verbose\]: unknown key"),
    ("[pool.limits]\nqqq = 3", r"\[pool\.limits\] qqq: unknown key; known here: min_size"),
    ("[pool]\nlimits = 3", r"\[pool\] limits: 3 is wrong: expected object"),
    ("[pool.limits]\nmax_size = 0", r"\[pool\.limits\] max_size: 0 is wrong: expected at least 1"),
    ("[pool.limits]\nmax_size = 201", r"\[pool\.limits\] max_size: 201 is wrong"),
    ('[pool.limits]\nmax_size = "8"', r"\[pool\.limits\] max_size: '8' is wrong: expected int"),
    ("[pool.limits]\nmax_size = 8.5", r"\[pool\.limits\] max_size: 8.5 is wrong: expected int"),
    ("[pool.limits]\nmin_size = 9", r"\[pool\] limits: min_size is larger than max_size"),
    ('[log]\nlevel = "LOUD"', r"\[log\] level: 'LOUD' is wrong"),
    ("[log]\njson = 1", r"\[log\] json: 1 is wrong: expected bool"),
    ("[validator]\ninterval_s = 0", r"\[validator\] interval_s: 0 is wrong: expected at least 0.1"),
    ("[validator]\ninterval_s = inf", r"\[validator\] interval_s: expected a finite number"),
    ("[validator]\ninterval_s = nan", r"\[validator\] interval_s: expected a finite number"),
    ("[synchronizer]\nsettle_s = 99999999999", r"\[synchronizer\] settle_s: .* is wrong"),
    ('[web]\nlisten = "nowhere"', r"\[web\]: listen is"),
    ('[web]\nlisten = "h:99999"', r"\[web\]: listen is"),
    ('[politeness]\nopt_out = ["a.example", "b c"]', r"\[politeness\].*opt_out: \"b c\": a blank"),
    (
        '[politeness]\nopt_out = ["wss://a.example"]',
        r"\[politeness\].*opt_out.*more than one address",
    ),
    ('[politeness]\nopt_out = ["a.example/path"]', r"\[politeness\].*neither a host nor a network"),
    ('[politeness]\nopt_out = ["10.0.0.0/33"]', r"\[politeness\].*opt_out"),
    ('[politeness]\ncontact = "me\\r\\nX-Evil: 1"', r"\[politeness\].*contact is printable ASCII"),
    (
        "[politeness]\nper_address = 0",
        r"\[politeness\] per_address: 0 is wrong: expected at least 1",
    ),
    ("[networks.loki]\nenabled = true", r"\[networks\]: loki: enabled without a proxy"),
    ('[networks.tor]\nproxy = "http://h:1"', r"\[networks\] tor: proxy is socks5h://host:port"),
    ('[networks.tor]\nproxy = "socks5://h"', r"\[networks\] tor: proxy is socks5h://host:port"),
    ('[database]\nurl = "mysql://h/d"', r"\[database\]: url is"),
    ('[database]\nurl = "postgresql://h:x/d"', r"\[database\]: url is"),
    ('[database]\nurl = "postgresql://[h/d"', r"\[database\]: url is"),
    ('[database]\nhost = "me@h"', r"\[database\]: host is a name"),
    ('[web]\nlisten = "http://h:80"', r"\[web\]: listen is"),
    ('[web]\nhosts = ["h:80"]', r"\[web\]: hosts: 'h:80' is not a host name"),
    ('[database]\nurl = "postgresql://h/d"\nhost = "h"', r"\[database\]: give either"),
    ("[synchronizer.filter]\nkind = [1]", r"\[synchronizer\.filter\] kind: .*mean \"kinds\""),
    ("[synchronizer.filter]\nkinds = []", r"\[synchronizer\.filter\] kinds: \[\] is wrong"),
    ("[synchronizer.filter]\nkinds = [65536]", r"\[synchronizer\.filter\] kinds: .* <= 65535"),
    ("[synchronizer.filter]\ntags = {t = []}", r"\[synchronizer\.filter\.tags\] t: \[\] is wrong"),
    ('[synchronizer.filter]\ntags = {tt = ["x"]}', r"\[synchronizer\] filter: tags: 'tt' is not"),
    ('[synchronizer.filter]\nauthors = ["x"]', r"\[synchronizer\] filter: authors: 'x' is no"),
    (
        "[synchronizer]\nsince = 9\nfilter = {until = 8}",
        r"\[synchronizer\]: filter.until is before",
    ),
    ('[synchronizer]\nauth = "mine"', r"\[synchronizer\] auth: 'mine' is wrong"),
    (
        '[synchronizer.relays."http://h.com"]',
        r'\[synchronizer\]: relays."http://h.com": a relay URL',
    ),
    (
        '[synchronizer.relays."wss://h.com"]\n[synchronizer.relays."wss://h.com:443"]',
        r'\[synchronizer\]: relays."wss://h.com:443": wss://h.com is there twice',
    ),
    (
        '[synchronizer.relays."wss://g.com"]\n[synchronizer.relays."wss://h.com"]\npage_limits = 3',
        r'\[synchronizer\.relays\."wss://h.com"\] page_limits: unknown .* "page_limit"',
    ),
    (
        '[synchronizer.relays."wss://h.com"]\nfilter = {kinds = [-1]}',
        r'\[synchronizer\.relays\."wss://h.com"\.filter\] kinds: \[-1\] is wrong',
    ),
    (
        '[synchronizer.relays."wss://h.com"]\nsince = 9\nfilter = {until = 8}',
        r'\[synchronizer\]: relays\."wss://h.com"\.filter.until is before since',
    ),
    ("[finder.sources.a]", r"\[finder\.sources\] a: object missing required field url"),
    (
        '[finder.sources.a]\nurl = "https://h.com"\n[finder.sources."b.c"]\nurl = "ftp://h.com"',
        r'\[finder\.sources\] "b\.c": url is http',
    ),
    (
        '[finder.sources.a]\nurl = "https://u:p@h.com"',
        r"\[finder\.sources\] a: url is .*without a password",
    ),
    (
        '[finder.sources.a]\nurl = "https://h.com"\nintervals = 3',
        r"\[finder\.sources\.a\] intervals: unknown key; did you mean \"interval_s\"",
    ),
    (
        '[finder.sources.a]\nurl = "https://h.com"\ninterval_s = 1',
        r"\[finder\.sources\.a\] interval_s: 1 is wrong: expected at least 60",
    ),
    (
        '[finder.sources.a]\nurl = "https://h.com"\npath = "$["',
        r"\[finder\.sources\] a: path: unexpected end of query$",
    ),
    ('[finder.monitors]\npubkeys = ["x"]', r"\[finder\] monitors: pubkeys: 'x' is no public key"),
    (
        '[finder.monitors]\nrelays = ["http://h.com"]',
        r"\[finder\] monitors: relays: 'http://h.com'",
    ),
    (
        "[finder.monitors]\nrelays = [7]",
        r"\[finder\.monitors\] relays: \[7\] is wrong: expected str",
    ),
    ('[policy]\nadmins = ["x"]', r"\[policy\]: admins: 'x' is no public key"),
    ('[policy]\ndeleted = "show"', r"\[policy\] deleted: 'show' is wrong"),
    ('[policy]\ntaken_down = "serve"', r"\[policy\] taken_down: unknown key"),
    ("[finder]\nmax_per_host = -1", r"\[finder\] max_per_host: -1 is wrong"),
    ("[database", r"Expected ']'"),
    ("a = 1\na = 2\n", r"Cannot overwrite a value \(at line 2"),
    ("a = '\udcff'", r"not UTF-8"),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES)
def test_mistakes_are_named(path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        read(path, text)
    assert re.match(rf"{re.escape(str(path))}:(\d+:)? ", str(raised.value))


@pytest.mark.parametrize(
    "text",
    [
        f'[database]\nurl = "postgresql://u:{SECRET}@h/d"',
        f'[database]\nurl = "postgresql://u@h/d?password={SECRET}"',
        f'[database]\nurl = "postgresql://u@h/d?x=y&password={SECRET}"',
        f'[networks.tor]\nproxy = "socks5h://u:{SECRET}@h:1"',
    ],
)
def test_passwords_are_refused_and_not_repeated(path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="must not hold a password") as raised:
        read(path, text)
    assert SECRET not in str(raised.value)


RELAYS = """
[synchronizer]
since = 5
[synchronizer.filter]
kinds = [7, 1]
tags = { t = ["nostr"] }
until = 10
[synchronizer.relays."WSS://One.example.com:443/"]
enabled = false
page_limit = 100
[synchronizer.relays."wss://two.example.com"]
since = 3
filter = { authors = ["npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6"] }
live = false
"""


def test_terms_of_each_relay(path: Path) -> None:
    synchronizer = read(path, RELAYS).synchronizer
    assert synchronizer.refused == ["wss://one.example.com"]
    both = synchronizer.filter
    assert both.to_request() == {"kinds": [1, 7], "#t": ["nostr"]}
    assert both.until == both.newest == 10
    assert synchronizer.policy("wss://other.example.com") == (5, both, 500, True, True)
    assert synchronizer.policy("wss://one.example.com") == (5, both, 100, True, True)
    since, own, page_limit, live, reconcile = policy = synchronizer.policy("wss://two.example.com")
    assert (since, page_limit, live, reconcile) == (3, 500, False, True)
    assert own.to_request() == {
        "authors": ["3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"]
    }
    assert policy.until(8) == 8
    assert [synchronizer.policy("").until(settled) for settled in (8, 11, 99)] == [8, 11, 11]
    assert read(path, show(read(path, RELAYS))) == read(path, RELAYS)


FINDER = """
[finder.sources.a]
url = "https://h.com/list"
[finder.sources."b.c"]
url = "http://h.com"
path = "$.relays.~"
enabled = false
[finder.monitors]
pubkeys = ["npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6"]
relays = ["WSS://One.example.com:443/"]
"""


def test_where_the_finder_looks(path: Path) -> None:
    finder = read(path, FINDER).finder
    assert list(finder.sources) == ["nostr-watch", "a", "b.c"]
    assert (finder.sources["a"].path, finder.sources["b.c"].enabled) == ("$[*]", False)
    assert finder.monitors.relays == ("wss://one.example.com",)
    assert finder.monitors.pubkeys == (
        "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d",
    )
    assert read(path, show(read(path, FINDER))) == read(path, FINDER)
    assert load(None, Profile.FULL).finder == load(None, Profile.LITE).finder


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]:54", ("2001:db8::1", 54)),
    ],
)
def test_addresses_of_name_servers(text: str, address: tuple[str, int]) -> None:
    assert name_server(text) == address


@pytest.mark.parametrize("text", ["", "ns.example", "192.0.2.1:", "192.0.2.1:x", "192.0.2.1:70000"])
def test_what_is_no_name_server(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        name_server(text)
