"""The house itself: which part may know which, what a wheel holds, where packages come from."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.processes import environment

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bigbrotr"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# What each part may import of the others, besides itself.
FOUNDATION = {"errors", "secret", "models", "config"}
ALLOWED: dict[str, set[str]] = {
    "": set(),  # bigbrotr/__init__.py
    "errors": set(),
    "secret": {"errors"},
    "models": {"errors", "secret"},
    "config": {"errors", "secret", "models"},
    "systemd": set(),
    "net": FOUNDATION,
    "nostr": FOUNDATION | {"net"},
    "embedded": {"errors", "secret"},
    "core": FOUNDATION | {"embedded"},
    "serve": FOUNDATION | {"net", "nostr", "core", "reads", "view.words"},
    "services": FOUNDATION | {"net", "nostr", "core", "reads"},
    "runner": FOUNDATION | {"core"},
    "telemetry": FOUNDATION | {"core", "embedded", "net", "runner", "serve", "systemd"},
    "supervisor": FOUNDATION
    | {"core", "embedded", "reads", "runner", "serve", "services"}
    | {"telemetry"},
    "reads": FOUNDATION | {"core"},
    # What a file has is verified and stored as what a relay sends.
    "transfer": FOUNDATION
    | {"core", "reads", "nostr", "services.sync.ingest", "services.sync.verifier"},
    "view": FOUNDATION | {"core", "reads", "runner", "supervisor"},
    "demo": FOUNDATION | {"core", "embedded", "net", "nostr", "reads", "supervisor", "view"},
    # The command line reads seed files as the seeder does, and sends events as the rescue does.
    "cli": FOUNDATION
    | {"core", "embedded", "net", "reads", "supervisor", "view", "demo", "serve"}
    | {"services.seeder", "services.rescue.selection", "services.rescue.sending", "transfer"},
    "__main__": {"cli"},
}
# Within the synchronizer, from the service down to what a relay hands over.
SYNC = {
    "service": {"process", "worker", "shares", "report"},
    "process": {"worker", "shares", "report", "verifier"},
    "worker": {"visit", "context", "contention", "shares", "report", "verifier"},
    "visit": {"live", "ways", "pages", "reconcile", "ingest", "conversation", "context", "dialect"},
    "live": {"pages", "ingest", "conversation", "context", "dialect"},
    "ways": {"pages", "ingest", "conversation", "context", "dialect"},
    "pages": {"absences", "late", "ingest", "conversation", "context", "dialect"},
    "absences": {"context", "report"},
    "late": {"ingest", "conversation", "context"},
    "reconcile": {
        *("honesty", "holdings", "fetch_by_id", "ingest", "conversation", "context", "report"),
    },
    "honesty": {"holdings", "fetch_by_id", "conversation", "context"},
    "holdings": {"fetch_by_id", "conversation", "context", "report"},
    "fetch_by_id": {"ingest", "conversation", "context", "report"},
    "ingest": {"context", "report", "verifier", "new_ground"},
    "conversation": {"context"},
    "context": {"contention", "dialect", "report", "verifier"},
    "contention": set(),
    "new_ground": set(),
    "dialect": set(),
    "report": set(),
    "shares": set(),
    "verifier": set(),
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def part_of(module: str) -> str:
    return [*module.split("."), ""][1]


def imports(path: Path) -> Iterator[str]:
    """The modules of bigbrotr that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("bigbrotr"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "bigbrotr":
                for alias in node.names:
                    inner = PACKAGE / alias.name
                    is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                    yield f"bigbrotr.{alias.name}" if is_module else "bigbrotr"
            elif node.module and node.module.startswith("bigbrotr."):
                yield node.module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    ours = part_of(name_of(path))
    assert ours in ALLOWED, f"say here what {ours} may import"
    for module in imports(path):
        part = part_of(module)
        if part in ("", ours):
            continue
        below = module.removeprefix("bigbrotr.")
        assert part in ALLOWED[ours] or below in ALLOWED[ours], f"{name_of(path)} -> {module}"


def test_services_do_not_know_each_other() -> None:
    found = set()
    for path in (PACKAGE / "services").rglob("*.py"):
        ours = name_of(path).split(".")
        for module in imports(path):
            theirs = module.split(".")
            if part_of(module) == "services" and ours[2:3] != theirs[2:3]:
                found.add((ours[2], theirs[2]))
    assert not found  # each is a file or a folder


def test_the_synchronizer_reads_downwards() -> None:
    found = {
        path.stem: {
            module.split(".")[3]
            for module in imports(path)
            if module.startswith("bigbrotr.services.sync.")
        }
        for path in (PACKAGE / "services" / "sync").glob("*.py")
        if path.stem != "__init__"
    }
    assert found == SYNC


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_lives_there(path: Path) -> None:
    words = ast.get_docstring(ast.parse(path.read_text()))
    assert words, path
    first = words.partition("\n\n")[0]
    assert re.fullmatch(r"\S[^\n]*(\n[^\n]+)?[.:]", first), f"{path}: {first}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_text_is_read_or_written_by_the_locale(path: Path) -> None:
    """An encoding is named, or bytes are meant."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        words = {each.arg: ast.unparse(each.value) for each in node.keywords}
        if name == "read_text":
            assert node.args or "encoding" in words, f"{path}:{node.lineno}"
        elif name == "write_text":
            assert len(node.args) > 1 or "encoding" in words, f"{path}:{node.lineno}"
        elif name in ("open", "fdopen"):
            modes = [each.value for each in node.args if isinstance(each, ast.Constant)]
            is_binary = any("b" in mode for mode in modes if isinstance(mode, str))
            is_os = ast.unparse(node.func) == "os.open"
            assert is_binary or is_os or "encoding" in words, f"{path}:{node.lineno}"
        assert words.get("text", words.get("universal_newlines")) != "True" or "encoding" in words


@pytest.mark.parametrize("name", ["run.txt", "dev.txt", "parquet.txt"])
def test_requirements_are_pinned_by_hash(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert not re.search(r"(?m)^\s*(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)", text)
    entries = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).strip().splitlines()
    assert len(entries) > 10
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==[^ ;]+( ;[^\\]*?)? +--hash=sha256:[0-9a-f]{64}", entry), (
            entry
        )


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_skips_within_other_tasks(path: Path) -> None:
    """A task group makes a group of it, which ends what runs all further tests of the process."""
    tree = ast.parse(path.read_bytes())
    within = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        or (
            isinstance(node, ast.AsyncFunctionDef)
            and "asynccontextmanager" in map(ast.unparse, node.decorator_list)
        )
    ]
    assert not [
        inner.lineno
        for node in within
        for inner in ast.walk(node)
        if isinstance(inner, ast.Call) and ast.unparse(inner.func) == "pytest.skip"
    ]


def test_nothing_names_a_registry() -> None:
    # In pieces, so that this file does not name one either.
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "crates" + ".io", "docker" + ".io"]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.decode().splitlines():
        path = ROOT / name
        if path.is_file():
            text = path.read_bytes().decode(errors="replace")
            assert not [host for host in hosts if host in text], name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)),
            str(ROOT),
        ],
        check=True,
    )
    (found,) = folder.glob("bigbrotr-*.whl")
    return found


def test_wheel_is_whole(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"bigbrotr/py.typed"}
    wanted |= {str(path.relative_to(ROOT)) for path in MODULES}
    for folder in ("sql", "configs"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        wanted |= {
            f"bigbrotr/{path.relative_to(ROOT)}" for path in files if path.name != ".gitkeep"
        }
    assert wanted <= held, wanted - held
    assert not [name for name in held if name.startswith("tests/")]


def test_wheel_works_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    zipfile.ZipFile(wheel).extractall(target)
    done = subprocess.run(
        [sys.executable, "-m", "bigbrotr", "config", "show"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(target)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "[synchronizer]" in done.stdout
    where = subprocess.run(
        [sys.executable, "-c", "import bigbrotr.config.shipped as c; print(c.shipped('sql'))"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(target)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip() == os.fspath(target / "bigbrotr" / "sql")
