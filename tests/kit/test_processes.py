"""The look for processes that tests leave behind."""

import asyncio
import os
import signal
import sys

from tests.kit.processes import left_behind, until

# Starts a process that outlives it, and says which.
LEAVES = """
from subprocess import DEVNULL, Popen
print(Popen(["sleep", "600"], stdout=DEVNULL, stderr=DEVNULL, start_new_session=True).pid)
"""


async def test_what_a_child_leaves_is_found() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LEAVES), stdout=asyncio.subprocess.PIPE
    )
    orphan = int((await process.communicate())[0])
    try:
        # A process has no command line for a moment, while it becomes another program.
        await until(lambda: left_behind().get(orphan) == "sleep 600", "it is found")
    finally:
        os.kill(orphan, signal.SIGKILL)
    await until(lambda: orphan not in left_behind(), "it has ended")
