"""Settings that fit the memory and the processors that there are."""

import os
from pathlib import Path

import pytest

from bigbrotr.embedded import tuning
from bigbrotr.embedded.tuning import settings

GB = 1 << 30
MB = 1 << 20


@pytest.mark.parametrize(
    ("memory", "shared", "work", "maintenance"),
    [
        (128 * MB, "32MB", "4MB", "16MB"),
        (2 * GB, "256MB", "8MB", "64MB"),
        (8 * GB, "1024MB", "32MB", "256MB"),
        (256 * GB, "1024MB", "32MB", "256MB"),
    ],
)
def test_settings_fit_the_memory(memory: int, shared: str, work: str, maintenance: str) -> None:
    fitting = settings(memory, 2)
    assert fitting["shared_buffers"] == shared
    assert fitting["work_mem"] == work
    assert fitting["maintenance_work_mem"] == maintenance
    assert fitting["max_parallel_workers_per_gather"] == "1"
    assert (fitting["fsync"], fitting["full_page_writes"]) == ("on", "on")


def test_a_small_shared_memory_is_not_used() -> None:
    assert settings(GB, 1, 64 * MB)["dynamic_shared_memory_type"] == "mmap"
    assert settings(GB, 1, GB)["dynamic_shared_memory_type"] == "posix"


def _tree(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / "proc", root / "cgroup"


@pytest.mark.parametrize(
    ("files", "memory", "cpus"),
    [
        ({}, 8 * GB, 1000),
        ({"proc/self/cgroup": "0::/a/b\n", "cgroup/a/b/memory.max": "max\n"}, 8 * GB, 1000),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "cgroup/a/b/memory.max": f"{4 * GB}\n",
                "cgroup/a/memory.max": f"{2 * GB}\n",
                "cgroup/a/cpu.max": "150000 100000\n",
            },
            2 * GB,
            2,
        ),
        ({"proc/self/cgroup": "0::/\n", "cgroup/memory.max": f"{GB}\n"}, GB, 1000),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/on-the-host\n0::/\n",
                "cgroup/memory/memory.limit_in_bytes": f"{3 * GB}\n",
            },
            3 * GB,
            1000,
        ),
    ],
)
def test_control_groups_are_respected(
    tmp_path: Path,
    files: dict[str, str],
    memory: int,
    cpus: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000)))
    meminfo = f"MemTotal:       {8 * GB // 1024} kB\nMemFree: 1 kB\n"
    proc, cgroup = _tree(tmp_path, {"proc/meminfo": meminfo, **files})
    assert tuning.available_memory(proc, cgroup) == memory
    assert tuning.available_cpus(proc, cgroup) == cpus


def test_a_hidden_meminfo_is_no_obstacle(tmp_path: Path) -> None:
    assert tuning.available_memory(tmp_path, tmp_path) > 64 * MB
    assert tuning.shared_memory(tmp_path / "nowhere") == 0
