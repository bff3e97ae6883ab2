"""The registry of what SQL and Python both name: the schema, error codes and lock tables."""

from enum import StrEnum

SCHEMA = "bigbrotr"  # holds every table, view and function of ours
SEARCH_PATH = "pg_catalog, pg_temp"  # of our own sessions: each name of ours is qualified


class ErrorCode(StrEnum):
    """SQLSTATEs that our SQL raises."""

    LEASE_LOST = "BB001"  # another process has claimed the relay
    WINDOW_CHANGED = "BB002"  # a window holds other events than those that were compared
    NO_CLUSTER = "BB003"  # the Citus cluster has no coordinator or no workers yet
    NO_QUARTER = "BB004"  # no such partition, or one that is in use


class LockTable(StrEnum):
    """Empty tables whose table locks are our locks.

    A table lock, unlike an advisory lock, needs a privilege: readers have only SELECT, which
    allows ACCESS SHARE, and that blocks none of the modes used here. A lock lasts until the
    transaction ends, so it works behind PgBouncer in transaction mode.
    """

    SCHEMA = "schema_lock"  # EXCLUSIVE: changes the schema
    INGEST = "ingest_lock"  # EXCLUSIVE: verifies and stores new events
    CANDIDATES = "candidates_lock"  # EXCLUSIVE: counts a host's addresses and adds some
    STATISTICS = "statistics_lock"  # EXCLUSIVE: counts a day
    POLICY = "policy_lock"  # EXCLUSIVE: judges events
    WITNESSES = "witnesses_lock"  # EXCLUSIVE: lets monitors in as witnesses
    PRESENCE = "presence_lock"  # ROW EXCLUSIVE: stores; EXCLUSIVE: in any order, or deletes
