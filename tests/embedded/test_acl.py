"""Access control lists, as bytes and as the kernel takes them."""

import pwd
import struct
import subprocess
from pathlib import Path

import pytest

from bigbrotr.embedded import acl, cluster
from tests.kit.servers import as_root

NOID = acl.NOBODY_IN_PARTICULAR


def test_lists_are_bytes_and_back() -> None:
    entries = acl.with_user(acl.from_mode(0o750), 65534, 1)
    data = acl.encode(entries)
    assert acl.parse(data) == entries
    assert data[:12] == struct.pack("<IHHI", 2, acl.USER_OBJ, 7, NOID)
    for wrong in (b"", b"\x02\0\0", b"\x01\0\0\0", data[:-1]):
        with pytest.raises(ValueError, match="an access control list of"):
            acl.parse(wrong)


def test_one_user_more_and_nobody_else() -> None:
    assert acl.with_user(acl.from_mode(0o740), 7, 1) == [
        acl.Entry(acl.USER_OBJ, NOID, 7),
        acl.Entry(acl.USER, 7, 1),
        acl.Entry(acl.GROUP_OBJ, NOID, 4),
        acl.Entry(acl.MASK, NOID, 5),
        acl.Entry(acl.OTHER, NOID, 0),
    ]


def test_a_mask_that_widens_revives_no_rights() -> None:
    masked = [
        acl.Entry(acl.USER_OBJ, NOID, 7),
        acl.Entry(acl.USER, 5, 7),
        acl.Entry(acl.USER, 7, 0),
        acl.Entry(acl.GROUP_OBJ, NOID, 5),
        acl.Entry(acl.GROUP, 9, 3),
        acl.Entry(acl.MASK, NOID, 4),
        acl.Entry(acl.OTHER, NOID, 1),
    ]
    who = [(5, 50), (6, 9), (6, 100), (8, 80)]  # of owner 1 and group 100

    def rights(entries: list[acl.Entry], uid: int, gid: int) -> int:
        return acl.permissions_of(entries, uid=uid, gid=gid, owner=1, owning_group=100)

    after = acl.with_user(masked, 7, 1)
    assert [rights(masked, *each) for each in who] == [4, 0, 4, 1]
    assert [rights(after, *each) for each in who] == [4, 0, 4, 1]
    assert (rights(masked, 7, 70), rights(after, 7, 70)) == (0, 1)
    assert rights(after, 1, 1) == 7


@as_root
def test_the_kernel_agrees(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    account = cluster.Account(nobody.pw_uid, nobody.pw_gid, "nobody")
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    (place / "inside").touch()

    def tries(script: str) -> bool:
        done = subprocess.run(["/bin/sh", "-c", script], **account.dropping, capture_output=True)
        return done.returncode == 0

    assert not acl.is_searchable(place, uid=account.uid, gid=account.gid)
    closed = [
        directory
        for directory in (*reversed(place.parents), place)
        if not acl.is_searchable(directory, uid=account.uid, gid=account.gid)
    ]
    for directory in closed:
        acl.grant_search(directory, uid=account.uid, gid=account.gid)
        acl.grant_search(directory, uid=account.uid, gid=account.gid)
        assert acl.is_searchable(directory, uid=account.uid, gid=account.gid)
    assert tries(f"cd {place} && test -e inside")
    assert not tries(f"ls {place}")
    assert not tries(f"touch {place}/more")
    assert not acl.is_searchable(place, uid=account.uid + 1, gid=account.gid + 1)
