"""What commands say: on terminals and in files that are not UTF-8, and words that can be pasted."""

import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bigbrotr.cli import parser
from bigbrotr.cli.output import pasteable, remember
from tests.kit.processes import Place, call, environment
from tests.kit.scripted import ScriptedRelay
from tests.kit.terminal import Terminal

SPOKEN = (
    "[politeness]\nopt_out = []\n"
    '[monitor.publish.profile]\nname = "\u65e5\u672c \U0001f9ff\u202e"\n'
)


Env = dict[str, str]


LOCALES = {"en_US.ISO-8859-1": "iso8859-1", "ja_JP.EUC-JP": "euc_jp"}


@pytest.fixture(scope="module", params=[*LOCALES, "ascii"])
def tongue(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Env:
    """The environment of somebody whose terminal and files are not UTF-8."""
    if request.param == "ascii":
        plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        return plain | {"PYTHONIOENCODING": "ascii:strict"}
    place = tmp_path_factory.getbasetemp() / "locales"
    place.mkdir(exist_ok=True)
    name, charset = request.param.split(".")
    if not shutil.which("localedef"):
        pytest.skip("no localedef")
    made = subprocess.run(
        ["localedef", "-i", name, "-f", charset, str(place / request.param)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("localedef has nothing to make locales of")
    return {"LC_ALL": request.param, "LOCPATH": str(place), "PYTHONUTF8": "0"}


@pytest.fixture(scope="module")
async def foreign_archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """An archive of no relay, in a folder and by a file whose names no other charset has."""
    folder = tmp_path_factory.mktemp("caf\u00e9 \u65e5\u672c \U0001f9ff")
    place = Place(folder / "place", more=SPOKEN)
    place.config.write_bytes(b"\xef\xbb\xbf" + place.config.read_bytes())  # as editors do
    place.seeds.write_bytes("\ufeff# \u65e5\u672c\nwss://\u4f8b.example\n".encode())
    async with place.start() as running:
        await running.says("ready")
        yield place
        assert await running.end() == 0


@pytest.mark.slow
async def test_whatever_the_locale(tongue: Env, foreign_archive: Place, tmp_path: Path) -> None:
    place = foreign_archive
    done = await place.call("config", "show", **tongue)
    assert (done.code, done.err) == (0, "")
    if "PYTHONIOENCODING" not in tongue:  # what is written into a file can be read again
        assert "\u65e5\u672c \U0001f9ff\\U0000202e" in done.out
        shown = tmp_path / "shown.toml"
        shown.write_text(done.out, "utf-8")
        done = await call("config", "check", str(shown), cwd=None, **tongue)
        assert (done.code, done.out) == (0, f"{shown}: ok\n")
    done = await place.call("status", "--json", **tongue)
    assert (done.code, json.loads(done.out)["candidates"]) == (0, 1)
    assert (await call("--help", cwd=None, **tongue)).code == 0
    done = await place.call("seed", "\u65e5 \udcff", **tongue)
    assert (done.code, "No such file" in done.sentence) == (2, True)


@pytest.mark.slow
async def test_a_terminal_that_cannot_show_everything(
    tongue: Env, terminal: Callable[..., Terminal], foreign_archive: Place
) -> None:
    shown = terminal("config", "show", *foreign_archive.options, cwd="/", **tongue)
    assert await shown.ends() == 0, shown.read()
    assert 'name = "' in shown.read()
    if "ISO-8859-1" in tongue["LC_ALL"]:
        assert b'name = "?? ?\\U0000202e"' in shown.raw
    if "EUC-JP" in tongue["LC_ALL"]:
        assert 'name = "\u65e5\u672c ?\\U0000202e"'.encode("euc_jp") in shown.raw


@pytest.mark.slow
async def test_run_whatever_the_locale(tongue: Env, relay: ScriptedRelay, tmp_path: Path) -> None:
    if "EUC-JP" not in tongue["LC_ALL"]:
        return  # the others can less, and are quicker
    place = Place(tmp_path / "place", more=SPOKEN, workers=1)
    seeds = tmp_path / "caf\u00e9 \u65e5\u672c \U0001f9ff"
    seeds.write_text(relay.url)
    place.config.write_text(place.config.read_text().replace(str(place.seeds), str(seeds)))
    async with place.start("--once", **tongue) as running:
        assert await running.wait() == 0, running.err
    assert str(seeds) in running.err.replace('"', "")
    done = await place.call("status", "--json", **tongue)
    assert json.loads(done.out)["events"] == 40


def test_hints_can_be_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / ".venv" / "bin" / "bigbrotr"
    program.touch(mode=0o755)
    remember(parser().parse_args(["status"]))
    for started, called in (
        (program, ".venv/bin/bigbrotr"),
        (Path(".venv/bin/bigbrotr"), ".venv/bin/bigbrotr"),
        (Path("/opt/x/bigbrotr/__main__.py"), f"{sys.executable} -m bigbrotr"),
        (Path("/elsewhere/pytest"), "bigbrotr"),
    ):
        monkeypatch.setattr("sys.argv", [str(started)])
        assert pasteable("`bigbrotr run` makes one") == f"`{called} run` makes one"
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr("sys.argv", [str(program)])
    assert pasteable("say `bigbrotr run` or not") == "say `bigbrotr run` or not"
    remember(parser().parse_args(["status", "--data-dir", "/a b"]))
    assert pasteable("`bigbrotr db migrate`") == "`bigbrotr db migrate --data-dir '/a b'`"
    assert pasteable("`bigbrotr run --x`") == "`bigbrotr run --x`"
    remember(parser().parse_args(["demo"]))


@pytest.mark.slow
async def test_reader_of_our_output_goes_away() -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 -- for a moment
        [sys.executable, "-m", "bigbrotr", "config", "show"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0
