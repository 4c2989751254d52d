"""Telling from the table of mounts whether a path lies on a network file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchwright.store.sql.sqlite import network_file_system

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/share rw shared:2 - nfs4 server:/export rw,vers=4.2
31 30 8:2 / /mnt/share/local rw - xfs /dev/sdb1 rw
32 22 0:41 / /mnt/my\040disk rw master:3 - cifs //server/disk rw
33 22 0:42 / /mnt/c rw - 9p C:\134 rw
34 22 8:3 / /mnt/over rw - nfs server:/old rw
35 34 8:4 / /mnt/over rw - ext4 /dev/sdc1 rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/batchwright", None),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/team/data", "nfs4"),
        ("/mnt/share/local/data", None),
        ("/mnt/shared", None),
        ("/mnt/my disk/data", "cifs"),
        ("/mnt/c/Users", "9p"),
        ("/mnt/over/data", None),
    ],
)
def test_the_innermost_and_last_mount_counts(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind


def test_no_table_names_nothing() -> None:
    assert network_file_system(Path("/data"), "") is None
