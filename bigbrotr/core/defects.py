"""Defects of ours that a stranger brings to light: told with their traceback, and not for ever."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import TypeVar

import asyncpg

from bigbrotr.core.logger import Logger
from bigbrotr.errors import BigBrotrError, DatabaseError, leaves

T = TypeVar("T")

AGAIN_S = 3600.0  # until the same defect is told again
REMEMBERED = 1000  # places in the code that raised
DATABASE = ("asyncpg.", "bigbrotr.core.pool")  # who is at work when the database fails

# What PostgreSQL, or asyncpg before it, raises about a row that does not fit: it would again.
POISON = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,  # asyncpg's own errors of data are some
    TypeError,
)


# Classes of SQLSTATE: connections, transactions that may not be or collide, roles, databases, room,
# locks, somebody who intervenes, the system.
NOT_NOW = frozenset({"08", "25", "28", "3D", "40", "53", "55", "57", "58"})


class Defects:
    """What strangers made our code raise. One place in the code is told once an hour at most, for
    whoever's sake it raises."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._told: dict[tuple[str, str, int], tuple[float, int]] = {}  # when, and how often since

    def note(self, error: Exception, **fields: object) -> str:
        """Tells of an exception that is being handled, and returns it in words."""
        leaf = leaves(error)[0]
        place = (type(leaf).__name__, *_place(leaf.__traceback__))
        words = f"{place[0]}: {leaf}"
        now = time.monotonic()
        told_at, times = self._told.pop(place, (-AGAIN_S, 0))
        if now - told_at >= AGAIN_S:
            more = {"times_before": times} if times else {}
            self._log.exception("defect", error=words, **fields, **more)
            told_at, times = now, 0
        else:
            times += 1
        self._told[place] = (told_at, times)
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        return words


def is_outside(error: BaseException) -> bool:
    """Whether an exception is the world's, the database's or a lease's, rather than what our code
    made of what a stranger sent."""
    return any(_is_outside(leaf) for leaf in leaves(error))


def _is_outside(error: BaseException) -> bool:
    if isinstance(error, BigBrotrError) or not isinstance(error, Exception):
        return True
    if isinstance(error, POISON):
        return False
    if isinstance(
        error, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError
    ):
        return True
    if isinstance(error, OSError):
        return any(module.startswith(DATABASE) for module in _modules(error.__traceback__))
    return False


async def end_of(task: asyncio.Task[T]) -> T:
    """Waits for a task that others wait for as well; returns its result, or raises what it raised.

    Awaiting a task hands its traceback to the first who does: to the others the error comes
    without, and nothing tells any more whose it is. It goes on when who waits here is cancelled.
    """
    await asyncio.wait([task])
    if (error := task.exception()) is not None:
        raise error
    return task.result()


def refusal(error: BaseException) -> BigBrotrError | None:
    """What keeps a command from its work, as an error of ours in a sentence; None for a defect.

    The database is asked the same by everybody: what it does not know is our fault, what it does
    not allow, or not now, is not.
    """
    if isinstance(error, BigBrotrError):
        return error
    words = str(error).split("\n")[0] or type(error).__name__
    if isinstance(error, asyncpg.PostgresError):
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            return DatabaseError(
                f"the database is read-only, as a standby is, or by its settings: {words}"
            )
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            return DatabaseError(
                f"the role may not do that: {words}; `bigbrotr db roles`, by the owner of the "
                "database, makes roles that may"
            )
        if isinstance(error, asyncpg.QueryCanceledError):
            return DatabaseError(
                f"the server cut a statement short: {words}; a statement_timeout is not needed, "
                "bigbrotr has bounds of its own"
            )
        if isinstance(error, asyncpg.DiskFullError):
            return DatabaseError(f"no space left where the database lies: {words}; make room")
        if (error.sqlstate or "")[:2] in NOT_NOW:
            return DatabaseError(f"the database refuses: {words}")
        return None
    if isinstance(error, TimeoutError) and is_outside(error):
        return DatabaseError("the database did not answer in time")
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError):
        return DatabaseError(f"the database is gone: {words}") if is_outside(error) else None
    return None


def _modules(traceback: TracebackType | None) -> list[str]:
    found = []
    while traceback is not None:
        found.append(f"{traceback.tb_frame.f_globals.get('__name__', '')}.")
        traceback = traceback.tb_next
    return found


def _place(traceback: TracebackType | None) -> tuple[str, int]:
    """File and line of what raised."""
    found = ("", 0)
    while traceback is not None:
        found = (traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


async def one_by_one(
    rows: Sequence[T],
    record: Callable[[Sequence[T]], Awaitable[None]],
    instead: Callable[[T, Exception], T | None],
) -> None:
    """Records rows together or, where one of them does not fit into the database, in halves: that
    one is recorded as what `instead` makes of it while the exception is handled; None: not at all.
    """
    try:
        await record(rows)
    except POISON as error:
        if len(rows) > 1:
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                await one_by_one(half, record, instead)
            return
        other = instead(rows[0], error)
        if other is None:
            raise
        await record([other])
