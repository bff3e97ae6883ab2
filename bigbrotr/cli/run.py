"""The commands `run` and `demo`: the services at work."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bigbrotr.cli import parse, place
from bigbrotr.cli.output import program
from bigbrotr.config.settings import Config, LogSettings, service_names
from bigbrotr.core.logger import configure
from bigbrotr.embedded import server as embedded

if TYPE_CHECKING:  # half a second to import: no other command waits for the services
    from bigbrotr.supervisor import Supervisor


def add(commands: parse.Group, shared: parse.Shared) -> None:
    """Adds the commands."""
    words = "run the services until stopped"
    run = parse.add(commands, "run", _run, words, shared.place, shared.speech)
    run.add_argument(
        "--only", type=parse.names, metavar="A,B", help=f"some of {', '.join(service_names())}"
    )
    run.add_argument("--once", action="store_true", help="one cycle of each service, then exit")
    words = "archive a small network of its own, without the internet"
    show_off = parse.add(commands, "demo", _demo, words, shared.speech)
    show_off.add_argument("--data-dir", type=Path, metavar="DIR", help="made anew each time")


def _run(options: argparse.Namespace) -> int:
    from bigbrotr.supervisor import Supervisor

    there = place.find(options)
    log = there.config.log
    configure(log.level, log.json)
    supervisor = Supervisor(there.config, there.profile, there.data_dir, only=options.only)
    return place.loop(_supervise(supervisor, there.config, is_once=options.once))


async def _supervise(supervisor: "Supervisor", config: Config, *, is_once: bool) -> int:
    from bigbrotr.view import panel

    if sys.stderr.isatty() and not config.log.json:
        async with panel.live(supervisor, config.log):
            await supervisor.run(is_once=is_once)
    else:
        await supervisor.run(is_once=is_once)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from bigbrotr import demo

    log = LogSettings(options.log_level or "INFO", options.log_json)
    configure(log.level, log.json)
    data_dir = options.data_dir or embedded.default_data_dir().with_name("bigbrotr-demo")
    return place.loop(demo.run(data_dir.absolute(), _supervise, log, program()))
