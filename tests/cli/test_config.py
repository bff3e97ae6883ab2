"""`bigbrotr config`: mistakes are named, and what is shown or begun can be read again."""

from pathlib import Path

import pytest

from tests.kit.processes import call

SECRET = "correct-horse-battery-staple"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[log\n", ["config.toml", "line 1"]),
        ("[log]\nlevle = 'INFO'\n", ["[log] levle", "unknown key", 'did you mean "level"']),
        ("[sychronizer]\n", ["[sychronizer]", 'did you mean "synchronizer"']),
        ("[pool.limits]\nmax_size = 'many'\n", ["[pool.limits] max_size", "'many'", "int"]),
        ("[pool.limits]\nmax_size = 1000\n", ["[pool.limits] max_size", "1000", "200"]),
        ("log = 3\n", ["log", "3"]),
        ("[web]\nlisten = 'nowhere'\n", ["[web]", "address:port"]),
        ("[database]\nurl = 'postgresql://a:b@c/d'\n", ["[database]", "DB_PASSWORD"]),
        ("[networks.loki]\nenabled = true\n", ["[networks]", "loki", "proxy"]),
        ("\xff", ["not UTF-8"]),
    ],
)
async def test_mistake_in_the_configuration(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("latin-1"))
    for command in (["run", "--config"], ["config", "check"]):
        done = await call(*command, str(path), cwd=tmp_path)
        assert done.code == 2
        assert done.sentence.startswith(f"bigbrotr: {path}")
        assert len(done.err.splitlines()) == 1
        for word in words:
            assert word in done.sentence
        assert "postgresql://a:b" not in done.err


async def test_a_file_to_begin_with(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    done = await call("config", "init", str(path))
    assert done.code == 0
    assert f"config check {path} --profile lite`" in done.sentence
    assert (await call("config", "check", str(path))).out == f"{path}: ok\n"
    shown = await call("config", "show", "--config", str(path), "--profile", "lite")
    assert shown.out == (await call("config", "show", "--profile", "lite")).out
    done = await call("config", "init", str(path))
    assert (done.code, "exists: it is left alone" in done.sentence) == (2, True)
    printed = await call("config", "init")
    assert printed.out == path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["full", "lite"])
async def test_config_show_can_be_read_again(profile: str, tmp_path: Path) -> None:
    shown = await call("config", "show", "--profile", profile, DB_PASSWORD=SECRET)
    assert shown.code == 0
    assert SECRET not in shown.out
    path = tmp_path / "shown.toml"
    path.write_text(shown.out)
    done = await call("config", "check", str(path))
    assert (done.code, done.out) == (0, f"{path}: ok\n")
    again = await call("config", "show", "--config", str(path))
    assert again.out == shown.out
