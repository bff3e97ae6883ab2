"""Files of settings: how they are read, where their mistakes are, and how they are shown."""

import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
import tomli
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bigbrotr.config.settings import (
    Config,
    Link,
    Networks,
    Profile,
    Section,
    SourceSettings,
)
from bigbrotr.config.toml import lines_of, load, show
from bigbrotr.errors import ConfigError
from bigbrotr.models.filter import Filter
from bigbrotr.models.relay import Network
from bigbrotr.secret import without_secrets
from tests.config.conftest import read

SECRET = "correct-horse-battery-staple"


@pytest.mark.parametrize("profile", list(Profile))
def test_a_file_lies_over_the_profile(path: Path, profile: Profile) -> None:
    """What it does not say stays as the profile has it."""
    path.write_text("")
    assert load(path, profile) == load(None, profile)
    assert load(path, None) == load(None, None) == Config()
    path.write_text('[networks.tor]\nenabled = true\nproxy = "socks5h://127.0.0.1:9050"\n')
    config = load(path, profile)
    assert config.networks.tor.enabled
    assert msgspec.structs.replace(config, networks=Networks()) == load(None, profile)


def test_named_tables_are_added_and_single_values_replaced(path: Path) -> None:
    config = read(
        path,
        "[finder.sources.nostr-watch]\nenabled = false\n[finder.sources.mine]\nurl = 'https://h.com'",
    )
    assert not config.finder.sources["nostr-watch"].enabled
    assert config.finder.sources["nostr-watch"].url.startswith("https://api.nostr.watch/")
    assert config.finder.sources["mine"].url == "https://h.com"
    assert config.finder.monitors == load(None, Profile.FULL).finder.monitors
    monitors = read(path, "[finder.monitors]\nrelays = []").finder.monitors
    assert (monitors.relays, len(monitors.pubkeys)) == ((), 2)
    assert load(None, Profile.FULL).web.listen == "127.0.0.1:9464"
    assert read(path, '[web]\nlisten = ""').web.listen == ""
    assert 'listen = ""' in show(read(path, '[web]\nlisten = ""'))


MANY = """\
[log]
level = "LOUD"

[synchronizer.filter]
kinds = [
    1,
    70000,
]
until = 2026-13
"""


def test_all_mistakes_at_once_with_their_lines(path: Path) -> None:
    text = MANY.replace("until = 2026-13", 'untill = 2026-01-31\n[networks.tor]\nwidth = "x"')
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(path, Profile.FULL)
    first, second, third, fourth = str(raised.value).splitlines()
    assert first == (
        f"{path}:2: [log] level: 'LOUD' is wrong: expected one of DEBUG, INFO, WARNING, ERROR, "
        "CRITICAL"
    )
    assert second.startswith(f"{path}:5: [synchronizer.filter] kinds: [1, 70000] is wrong")
    assert third == f'{path}:9: [synchronizer.filter] untill: unknown key; did you mean "until"?'
    assert fourth.startswith(f"{path}:11: [networks.tor] width: 'x' is wrong: expected int")
    path.write_text(MANY)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}:9: "):
        load(path, Profile.FULL)


def test_lines_of_a_file() -> None:
    text = (
        'a.b = 1\n\n[x."y.z"] # c\nk = [\n 1,\n]\n"q r" = { s = 2 }\n'
        '[[t]]\nu = """\n[no]\n"""\nv = 1'
    )
    lines = lines_of(text)
    assert lines["a", "b"] == 1
    assert lines["x", "y.z"] == 3
    assert lines["x", "y.z", "k"] == 4
    assert lines["x", "y.z", "q r", "s"] == 7
    assert lines["t", "v"] == 12
    assert ("no",) not in lines


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-31", 1_769_817_600),
        ("2026-01-31T12:00:00", 1_769_860_800),
        ("2026-01-31 12:00:00Z", 1_769_860_800),
        ("2026-01-31T12:00:00+01:00", 1_769_857_200),
        ("1769817600", 1_769_817_600),
    ],
)
def test_dates_where_moments_are_expected(path: Path, text: str, seconds: int) -> None:
    config = read(path, f"[synchronizer]\nsince = {text}\nfilter = {{ until = {text} }}")
    assert config.synchronizer.since == config.synchronizer.filter.until == seconds
    relay = f'[synchronizer.relays."wss://h.com"]\nsince = {text}\nfilter.until = {text}'
    own = read(path, relay).synchronizer.policy("wss://h.com")
    assert (own.since, own.filter.until) == (seconds, seconds)


def test_dates_elsewhere_are_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r":2: \[log\] level: 2026-01-31 is wrong: expected one"):
        read(path, "[log]\nlevel = 2026-01-31")
    with pytest.raises(
        ConfigError, match=r"\[synchronizer\] since: -86400 is wrong: expected at least 0"
    ):
        read(path, "[synchronizer]\nsince = 1969-12-31")


def test_a_mark_at_the_beginning(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbf[web]\nlisten = "127.0.0.1:1"\n')
    assert load(path, Profile.FULL).web.listen == "127.0.0.1:1"


# Typed where it does not belong: a setting is shown, a secret is not.
PASSWORD, NSEC = "correct/horse:st@ple", "nsec1" + 58 * "q"


@pytest.mark.parametrize(
    "setting",
    [
        '[database]\nurl = "postgresql://me:{}@h/d"',
        '[database]\nurl = "me:{}@h/d"',
        '[database]\nurl = "postgresql://h/d?password={}"',
        '[database]\nhost = "me:{}@h"',
        '[database]\nport = "{}"',
        '[networks.tor]\nproxy = "socks5h://me:{}@h:9050"',
        '[networks.tor]\nproxy = "socks5h://me:{}@h"',
        '[networks.tor]\nproxy = "me:{}@h:9050"',
        '[networks.tor]\nwidth = "{}"',
        '[web]\nlisten = "me:{}@127.0.0.1:80"',
        '[web]\nlisten = "http://me:{}@127.0.0.1:80"',
        '[web]\nlisten = "{}"',
        '[finder.sources.a]\nurl = "https://me:{}@h.com/"',
        '[finder.sources.a]\nurl = "https://:{}@h.com/"',
        '[finder.sources.a]\nurl = "https://me:{}@\u2100h.com/"',
        '[finder.sources.a]\nurl = 3\npath = "https://me:{}@h.com/"',
        '[finder.sources."https://me:{}@h.com/"]\nurl = 3',
        '[finder.monitors]\nrelays = ["http://me:{}@h.com/"]',
        '[finder.monitors]\nrelays = "http://me:{}@h.com/"',
        '[finder.monitors]\npubkeys = ["{}"]',
        '[synchronizer.relays."http://me:{}@h.com/"]',
        '[synchronizer.relays."wss://me:{}@h.com/"]\nsince = "x"',
        '[synchronizer.relays."wss://me:{}@h.com/"]\nnone = 1',
        '[synchronizer.relays."wss://h.com/"]\n[synchronizer.relays."wss://me:{}@h.com/"]',
        '[synchronizer]\nauth = "{}"',
        "[synchronizer.filter]\nauthors = ['{}']",
        "[monitor.publish]\nrelays = ['http://me:{}@h.com/']",
        "[monitor.publish]\ngeohash = '{}'",
        "[monitor.dns]\nnameservers = ['https://me:{}@h/']",
        "[politeness]\nopt_out = ['wss://me:{}@h.com/']",
        "[politeness]\nper_address = 'https://me:{}@h.com/'",
        "'{}' = 1",
    ],
)
def test_secrets_in_settings_are_not_repeated(path: Path, setting: str) -> None:
    for secret in (PASSWORD, NSEC, NSEC.upper(), 32 * "a7"):
        if secret == PASSWORD and not re.search(r"[:=]\{\}", setting):
            continue  # nobody could know
        if secret.startswith("a7") and re.search("pubkeys|authors", setting):
            continue  # a public key looks like that as well
        with pytest.raises(ConfigError) as raised:
            read(path, setting.format(secret))
        said = without_secrets(str(raised.value))
        for part in (secret, "correct", "horse", "st@ple", "ple@", "qqqqqq", "QQQQQQ", "a7a7a7"):
            assert part not in said.replace(str(path), ""), said


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(path, Profile.FULL)
    with pytest.raises(ConfigError, match="directory"):
        load(path.parent, Profile.FULL)


def test_private_keys_are_not_repeated(path: Path) -> None:
    for authors in (f'"nsec1{SECRET}"', f'["nsec1{SECRET}"]', f'["nsec1{SECRET}", 7]'):
        with pytest.raises(ConfigError, match="authors") as raised:
            read(path, f"[synchronizer.filter]\nauthors = {authors}")
        assert SECRET not in str(raised.value)


def test_a_partial_table_keeps_the_other_defaults(path: Path) -> None:
    config = read(path, "[networks.tor]\nenabled = true\n[networks.local]\nwidth = 2\n")
    tor = Networks().tor
    assert config.networks.tor == msgspec.structs.replace(tor, enabled=True)
    assert config.networks.tor.proxy == "socks5h://127.0.0.1:9050"
    assert config.networks.local == msgspec.structs.replace(Networks().local, width=2)
    assert config.networks.clearnet == Link()
    assert [network for network, _ in config.networks.enabled()] == [Network.CLEARNET, Network.TOR]
    assert read(path, "[synchronizer]\nworkers = 2").synchronizer.page_limit == 500
    assert read(path, "[pool.retry]\nmax_attempts = 9").pool.limits == Config().pool.limits


def test_what_is_shown_is_read_back(path: Path) -> None:
    for profile in Profile:
        config = load(None, profile)
        assert read(path, show(config)) == config
    shown = tomli.loads(show(Config()))
    assert set(shown) == set(Config.__struct_fields__)
    assert set(shown["networks"]) == {network.value for network in Network}


def test_every_setting_is_shown() -> None:
    text = show(Config())

    def names(section: type[msgspec.Struct]) -> set[str]:
        found = set()
        for name, kind in get_type_hints(section).items():
            is_table = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
            found |= names(kind) if is_table else {name}
        return found

    for name in names(Config):
        assert f"\n{name} =" in text or f"\n# {name} =" in text


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    monkeypatch.setenv("PRIVATE_KEY", SECRET)
    assert SECRET not in show(load(None, Profile.FULL))


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "kinds": st.lists(st.integers(0, 65535), min_size=1, max_size=3),
        "authors": st.lists(st.sampled_from(["0a" * 32, "FB" * 32]), min_size=1),
        "tags": st.dictionaries(
            st.sampled_from("abT"), st.lists(WORDS, min_size=1, max_size=3), max_size=2
        ),
        "until": st.integers(0, 2**53),
    },
)


URLS = st.sampled_from(["wss://one.example.com/", "WS://two.example.com:8080/Path", "ws://[::1]:7"])


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Whatever the declaration of a setting allows."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return st.fixed_dictionaries(
            {},
            optional={
                name: values(inner)
                for name, inner in get_type_hints(kind, include_extras=True).items()
                if name not in ("url", "host", "proxy", "listen", "path")
            },
        ).map(lambda said: said | ({"url": "https://h.com"} if kind is SourceSettings else {}))
    metas = [meta for meta in get_args(kind)[1:] if isinstance(meta, msgspec.Meta)]
    plain = get_args(kind)[0] if metas else kind
    if plain is Filter:
        return FILTERS
    if get_origin(plain) is tuple:  # of URLs or keys
        return st.just([])
    if get_origin(plain) is dict:
        return st.dictionaries(URLS, values(get_args(plain)[1]), max_size=2)
    if type(None) in get_args(plain) and plain != str | None:
        return values(get_args(plain)[0])  # a file cannot say none
    if get_origin(plain) is Annotated:
        return values(plain)
    if plain is bool:
        return st.booleans()
    if plain in (int, float):
        bounds: dict[str, Any] = {"min_value": 0, "max_value": 2**53}
        for meta in metas:
            low = meta.ge if meta.ge is not None else meta.gt
            bounds |= {"min_value": low} if low is not None else {}
            bounds |= {"max_value": meta.le} if meta.le is not None else {}
        if plain is int:
            return st.integers(**bounds)
        return st.floats(**bounds, allow_nan=False).filter(bool) | st.integers(
            int(bounds["min_value"]) + 1, int(bounds["max_value"])
        )
    if get_args(plain) and all(isinstance(each, str) for each in get_args(plain)):
        return st.sampled_from(get_args(plain))
    return WORDS


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(values(Config))
def test_anything_that_is_read_is_shown_and_read_again(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "said.toml"
    try:
        config = msgspec.convert(said, Config)
    except msgspec.ValidationError:
        assume(False)
    path.write_text(show(config))
    again = load(path, None)
    # A file cannot say that a default proxy is none: tables that were given bare lack one.
    keep = {
        name: msgspec.structs.replace(getattr(again.networks, name), proxy=None)
        for name in Networks.__struct_fields__
    }
    bare = {
        name: msgspec.structs.replace(getattr(config.networks, name), proxy=None)
        for name in Networks.__struct_fields__
    }
    assert keep == bare
    assert msgspec.structs.replace(again, networks=config.networks) == config
    assert show(load(path, None)) == show(again)
