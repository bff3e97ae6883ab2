"""POSIX access control lists of directories, just enough to let one more user search one.

The bytes are Linux's own (`man 5 acl`, include/uapi/linux/posix_acl_xattr.h): a little-endian
version, then entries of tag, permissions and id. Needs no libacl and no setfacl.
"""

import errno
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ATTRIBUTE = "system.posix_acl_access"
VERSION = 2
NOBODY_IN_PARTICULAR = 0xFFFFFFFF  # the id of entries that name nobody

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
GROUP_CLASS = (USER, GROUP_OBJ, GROUP)  # what the mask limits

SEARCH = 0o1  # "execute", for a directory

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """Who (tag and id) may do what (the usual three bits); in the kernel's order."""

    tag: int
    id: int
    permissions: int


def parse(data: bytes) -> list[Entry]:
    """The entries of an extended attribute; `ValueError` when it is something else."""
    if len(data) < _HEADER.size or (len(data) - _HEADER.size) % _ENTRY.size:
        raise ValueError(f"an access control list of {len(data)} bytes")
    (version,) = _HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"an access control list of version {version}")
    return [
        Entry(tag, id_, permissions)
        for tag, permissions, id_ in _ENTRY.iter_unpack(data[_HEADER.size :])
    ]


def encode(entries: Sequence[Entry]) -> bytes:
    """The bytes of an extended attribute, in the order that the kernel insists on."""
    return _HEADER.pack(VERSION) + b"".join(
        _ENTRY.pack(entry.tag, entry.permissions, entry.id) for entry in sorted(entries)
    )


def from_mode(mode: int) -> list[Entry]:
    """What the nine permission bits say, as entries."""
    return [
        Entry(USER_OBJ, NOBODY_IN_PARTICULAR, mode >> 6 & 7),
        Entry(GROUP_OBJ, NOBODY_IN_PARTICULAR, mode >> 3 & 7),
        Entry(OTHER, NOBODY_IN_PARTICULAR, mode & 7),
    ]


def permissions_of(
    entries: Sequence[Entry], *, uid: int, gid: int, owner: int, owning_group: int
) -> int:
    """What a process of this user, with this one group, may do to a file (`man 5 acl`)."""
    by_tag = {entry.tag: entry.permissions for entry in entries}
    if uid == owner:
        return by_tag[USER_OBJ]
    limit = by_tag.get(MASK, 7)
    for entry in entries:
        if entry.tag == USER and entry.id == uid:
            return entry.permissions & limit
    groups = [
        entry.permissions
        for entry in entries
        if (entry.tag == GROUP_OBJ and gid == owning_group)
        or (entry.tag == GROUP and entry.id == gid)
    ]
    if groups:
        # The kernel looks for one entry that grants all that is asked for. Who asks for search
        # alone gets it from any of them.
        return max(groups, key=lambda each: (each & SEARCH, each)) & limit
    return by_tag[OTHER]


def with_user(entries: Sequence[Entry], uid: int, permissions: int) -> list[Entry]:
    """The same rights for everybody else, and these permissions for one named user.

    A wider mask would revive rights that the old one had switched off, so these are dropped.
    """
    limit = next((entry.permissions for entry in entries if entry.tag == MASK), 7)
    kept = [
        replace(entry, permissions=entry.permissions & limit) if entry.tag in GROUP_CLASS else entry
        for entry in entries
        if entry.tag != MASK and (entry.tag, entry.id) != (USER, uid)
    ]
    kept.append(Entry(USER, uid, permissions))
    mask = 0
    for entry in kept:
        if entry.tag in GROUP_CLASS:
            mask |= entry.permissions
    return sorted([*kept, Entry(MASK, NOBODY_IN_PARTICULAR, mask)])


def read(path: Path) -> list[Entry]:
    """The list of a file; where it has none, or the file system keeps none, its mode bits."""
    try:
        return parse(os.getxattr(path, ATTRIBUTE))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        return from_mode(stat.S_IMODE(path.stat().st_mode))


def is_searchable(path: Path, *, uid: int, gid: int) -> bool:
    """Whether this user, with this one group, may pass through a directory."""
    return bool(_permissions(path, read(path), uid, gid) & SEARCH)


def grant_search(path: Path, *, uid: int, gid: int) -> None:
    """Let one user pass through a directory, and change nothing for anybody else.

    Raises `OSError` where the file system keeps no lists or is read-only.
    """
    entries = read(path)
    now = _permissions(path, entries, uid, gid)
    os.setxattr(path, ATTRIBUTE, encode(with_user(entries, uid, now | SEARCH)))


def _permissions(path: Path, entries: Sequence[Entry], uid: int, gid: int) -> int:
    status = path.stat()
    return permissions_of(
        entries, uid=uid, gid=gid, owner=status.st_uid, owning_group=status.st_gid
    )
