"""The settings of the embedded PostgreSQL, fitted to the memory and processors that we may use."""

import os
from collections.abc import Iterator
from pathlib import Path

MB = 1 << 20
GB = 1 << 30

SMALL_SHM = 256 * MB  # Docker gives /dev/shm 64 MB; one parallel hash join may want 200


def settings(memory_bytes: int, cpus: int, shm_bytes: int = GB) -> dict[str, str]:
    """PostgreSQL's settings for a machine (or control group) of this size.

    `shm_bytes` is the size of /dev/shm. The server shares the memory with bigbrotr itself and
    with its workers, so it takes less of it than a server with a machine of its own would.
    """
    return {
        # -- memory
        "shared_buffers": _megabytes(memory_bytes // 8, 32 * MB, GB),
        "effective_cache_size": _megabytes(memory_bytes // 2, 64 * MB, 64 * GB),
        "maintenance_work_mem": _megabytes(memory_bytes // 32, 16 * MB, 256 * MB),
        "work_mem": _megabytes(memory_bytes // 256, 4 * MB, 32 * MB),
        "dynamic_shared_memory_type": "posix" if shm_bytes >= SMALL_SHM else "mmap",
        # -- durability: what was reported as done survives a power cut
        "fsync": "on",
        "full_page_writes": "on",
        # -- the log of changes: an archive mostly writes, so checkpoints are rare and smooth
        "max_wal_size": "2GB" if memory_bytes >= 4 * GB else "1GB",
        "min_wal_size": "128MB",
        # A new event touches a random page of several indexes: compressing an image of each by
        # pglz would cost more than all the rest.
        "wal_compression": "off",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        # -- processes
        "max_connections": str(max(60, 30 + 6 * cpus)),  # a worker a core, each with a few
        "max_logical_replication_workers": "0",  # nobody subscribes to anything here
        "max_parallel_workers_per_gather": str(min(2, cpus // 2)),
        "max_locks_per_transaction": "128",  # a query over all time locks every partition
        # -- plans
        "jit": "off",  # not built into the wheel; pays only for long analytical queries
        "random_page_cost": "1.1",  # solid-state disks
        # -- vacuum: tables that only grow need it too, for the visibility map and frozen rows;
        #    a fifth of a large partition (the default) is too long to wait for that
        "autovacuum_naptime": "30s",
        "autovacuum_vacuum_scale_factor": "0.05",
        "autovacuum_vacuum_insert_scale_factor": "0.05",
        "autovacuum_analyze_scale_factor": "0.02",
        "autovacuum_vacuum_cost_limit": "1000",
        # -- who may connect: the directory of the socket is private, and so is the socket
        "unix_socket_permissions": "0700",
        # -- words
        "timezone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C",
        "default_text_search_config": "pg_catalog.simple",
        "logging_collector": "off",  # bigbrotr gives the server a file and keeps it small
        "log_destination": "stderr",
        "log_line_prefix": "%m [%p] ",
        "log_min_messages": "warning",
        "log_checkpoints": "off",
        "log_autovacuum_min_duration": "-1",
    }


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The bytes of memory that we may use: the machine's, or less where a control group says so."""
    return min([_machine_memory(proc), *_memory_limits(proc, cgroup)])


def available_cpus(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The processors that we may use, rounded up, by affinity and control group (version 2)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [count or 1]
    for directory in _groups(proc, cgroup, ""):
        quota, _, period = _read(directory / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            limits.append(max(1, -(-int(quota) // int(period))))
    return min(limits)


def shared_memory(path: Path = Path("/dev/shm")) -> int:  # noqa: S108 - looked at, not written to
    """The size of the file system behind POSIX shared memory, in bytes; 0 where there is none."""
    try:
        status = os.statvfs(path)
    except OSError:
        return 0
    return status.f_frsize * status.f_blocks


def _machine_memory(proc: Path) -> int:
    for line in _read(proc / "meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    # A unit with ProcSubset=pid hides /proc/meminfo.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_limits(proc: Path, cgroup: Path) -> Iterator[int]:
    for controller, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        for directory in _groups(proc, cgroup, controller):
            text = _read(directory / name)
            if text.isdigit() and int(text):  # version 2 says "max" where there is no limit
                yield int(text)


def _groups(proc: Path, cgroup: Path, controller: str) -> Iterator[Path]:
    """The directories of our control group and of those around it; version 2 names no controller.

    In a container the path in /proc may be the host's, of which only the root is visible here.
    """
    root = cgroup / controller
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            ours = root / path.strip("/")
            yield ours
            if ours != root:
                yield from (each for each in ours.parents if each.is_relative_to(root))


def _read(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes()).strip()
    except OSError:
        return ""


def _megabytes(wanted: int, least: int, most: int) -> str:
    return f"{min(max(wanted, least), most) // MB}MB"
