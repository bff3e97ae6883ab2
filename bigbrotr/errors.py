"""Every error of bigbrotr on one page, drawn by whose fault it is.

::

    BigBrotrError                  exit code
    ├── ConfigError                2   the command line or a file says something wrong
    ├── DatabaseError              3   the database cannot be reached, or refuses us
    ├── SchemaError                4   the database is of another revision or profile
    ├── BusyError                  5   a data directory or a port is taken by somebody else
    ├── ServiceFailedError         6   a service crashed too often and gave up
    ├── LeaseLostError             -   another process took over this work: drop it
    └── WorkerLostError            -   a worker process died: its uncommitted work is done again

What a relay does wrong is never an exception: it is a value (see `bigbrotr.nostr.session`).
Anything else that is raised is a defect of ours; it ends with exit code 1 and a traceback. Only
what one relay brings to light stays with it: its outcome is "defect", the log has the traceback.
"""


class BigBrotrError(Exception):
    """The root: its text is one clear sentence for the person at the terminal."""

    exit_code = 1


class ConfigError(BigBrotrError):
    """The command line, a configuration file or the environment says something wrong."""

    exit_code = 2


class DatabaseError(BigBrotrError, ConnectionError):
    """The database cannot be reached, or refuses us."""

    exit_code = 3


class SchemaError(BigBrotrError):
    """The database belongs to a newer revision or to the other profile."""

    exit_code = 4


class BusyError(BigBrotrError):
    """A data directory or a port is in use by another process."""

    exit_code = 5


class ServiceFailedError(BigBrotrError):
    """A service crashed too often and gave up; the others went on."""

    exit_code = 6


class LeaseLostError(BigBrotrError):
    """The lease on this work has passed to another process; drop the work."""


class WorkerLostError(BigBrotrError):
    """A worker process died; what it had not committed is done again."""


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group, however deep; one that is no group is its own leaf."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]
