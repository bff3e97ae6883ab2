"""Compiles the library into the wheel, with the C compiler of this machine (`CC`, else `cc`)."""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ["batch.c", "events.c"]
FLAGS = ["-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra"]


class CompileHook(BuildHookInterface[Any]):
    """Makes the wheel one for this machine, and for every Python: the library knows none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, and says what goes into the wheel."""
        self._folder = TemporaryDirectory()
        sources = [str(Path(self.root) / "c" / name) for name in SOURCES]
        library = Path(self._folder.name) / "native.so"
        compiler = shlex.split(os.environ.get("CC") or "cc")
        more = shlex.split(os.environ.get("CFLAGS", ""))
        command = [*compiler, *FLAGS, *more, "-o", str(library), *sources]
        subprocess.run(command, check=True)  # noqa: S603 - whoever builds it says by what
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
        build_data["force_include"][str(library)] = "bigbrotr_native/native.so"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes what was compiled: it is in the wheel now."""
        self._folder.cleanup()
