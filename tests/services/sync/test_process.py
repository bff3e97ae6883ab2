"""A worker process: it starts quickly, since it imports nothing that it has no use for."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.kit.processes import environment

ROOT = Path(__file__).parents[3]

# What a process does that `spawn` has started from the command line: it runs the main module by
# another name, and imports the function that it is to call.
BEGIN = """
import json, runpy, sys
runpy.run_module("bigbrotr.__main__", run_name="__mp_main__")
from bigbrotr.services.sync.process import start_process
print(json.dumps(sorted(sys.modules)))
"""
USELESS = {
    *("bigbrotr.cli", "bigbrotr.supervisor", "bigbrotr.serve", "bigbrotr.view", "bigbrotr.reads"),
    *("bigbrotr.services.monitor", "bigbrotr.services.finder", "bigbrotr.services.validator"),
    *("bigbrotr.services.sync.service", "cryptography", "jsonpath", "nostr_sdk", "maxminddb"),
    *("python_socks.async_", "argparse", "bigbrotr.models.keys"),
}


def test_a_worker_imports_nothing_that_it_has_no_use_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    imported = json.loads(done.stdout)
    assert "bigbrotr.services.sync.worker" in imported
    assert not USELESS & set(imported)


def test_the_command_begins_where_workers_begin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"bigbrotr": "bigbrotr.__main__:main"}
