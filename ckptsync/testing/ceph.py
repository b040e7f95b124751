"""A one-node Ceph in memory: its configuration and the steps that bring it to life."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY = "testkey"
SECRET_KEY = "testsecret"  # noqa: S105  of a server on loopback that lives for one test run
PACKAGES = ("ceph-mon", "ceph-osd", "radosgw", "ceph-common", "uuid-runtime")
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
STEP_TIMEOUT_S = 60.0
INSTALL_TIMEOUT_S = 600.0
POLL_S = 0.1


class CephError(RuntimeError):
    """A step failed; what the program said is in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A configured cluster.

    Attributes:
        folder: holds its configuration, keys and logs.
        port: of the gateway.
        mon_port: of the monitor.
    """

    folder: Path
    port: int
    mon_port: int

    @property
    def conf(self) -> Path:
        """The configuration file all daemons share."""
        return self.folder / "ceph.conf"

    @property
    def keyring(self) -> Path:
        """The keys of all daemons."""
        return self.folder / "keyring"

    @property
    def mon(self) -> list[str]:
        """Command of the monitor."""
        return ["ceph-mon", "-c", str(self.conf), "-f", "-i", "a"]

    @property
    def osd(self) -> list[str]:
        """Command of the object store."""
        return ["ceph-osd", "-c", str(self.conf), "-f", "-i", "0"]

    @property
    def rgw(self) -> list[str]:
        """Command of the gateway."""
        return ["radosgw", "-c", str(self.conf), "-f", "-n", "client.rgw.a"]


def ensure_installed() -> None:
    """Make sure that Ceph's programs are there; Debian's packages are installed when we are root.

    Raises:
        CephError: they are not, and we may not install them.
    """
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if not missing:
        return
    wanted = " ".join(PACKAGES)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise CephError(
            f"Ceph's {missing[0]} is not installed; as root: apt-get install --no-install-recommends {wanted}"
        )
    install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    try:
        _run(install, timeout_s=INSTALL_TIMEOUT_S)
    except CephError:
        _run(["apt-get", "update"], timeout_s=INSTALL_TIMEOUT_S)
        _run(install, timeout_s=INSTALL_TIMEOUT_S)


def configure(folder: Path, *, port: int, mon_port: int, memory_bytes: int) -> Cluster:
    """Write the configuration of a cluster whose daemons all listen on 127.0.0.1.

    Args:
        folder: empty; everything of the cluster will lie in it.
        port: for the gateway.
        mon_port: for the monitor.
        memory_bytes: room for objects.
    """
    for name in ("mon", "osd", "gateway", "run", "log"):
        (folder / name).mkdir()
    cluster = Cluster(folder=folder, port=port, mon_port=mon_port)
    sections = {
        "global": _global_options(cluster),
        "mon": {
            "mon data": folder / "mon",
            "mon data avail crit": 1,
            "mon data avail warn": 2,
            "paxos propose interval": 0.05,
            "paxos min wait": 0.01,
        },
        "osd": {
            "osd data": folder / "osd",
            "osd objectstore": "memstore",
            "memstore device bytes": memory_bytes,
            "memstore page set": "false",  # its pages cost twice the memory and half the speed
            "osd max object size": 128 << 20,
            "osd class load list": "*",
            "osd class default list": "*",
        },
        "client.rgw.a": {
            "rgw data": folder / "gateway",
            "rgw frontends": f"beast endpoint=127.0.0.1:{port}",
            "rgw enable ops log": "false",
            "rgw enable usage log": "false",
            "rgw dynamic resharding": "false",
            # What was overwritten or aborted is freed two hours later by default; a full memstore hangs every write.
            "rgw gc obj min wait": 2,
            "rgw gc processor period": 2,
        },
    }
    lines = []
    for section, options in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {value}" for name, value in options.items()]
    cluster.conf.write_text("\n".join(lines) + "\n")
    return cluster


def _global_options(cluster: Cluster) -> dict[str, object]:
    """Options all daemons share."""
    folder = cluster.folder
    return {
        "fsid": uuid.uuid4(),
        "mon initial members": "a",
        "mon host": f"[v2:127.0.0.1:{cluster.mon_port}/0]",
        "ms bind msgr1": "false",
        "public network": "127.0.0.0/8",
        "keyring": cluster.keyring,
        "run dir": folder / "run",
        "admin socket": f"{folder}/run/$name.$pid.asok",
        "pid file": f"{folder}/run/$name.pid",
        "log file": f"{folder}/log/$name.log",
        "mon cluster log file": folder / "log" / "cluster.log",
        # One copy on one disk in one placement group: what is tested is the gateway.
        "osd pool default size": 1,
        "osd pool default min size": 1,
        "osd pool default pg num": 1,
        "osd pool default pgp num": 1,
        "osd pool default pg autoscale mode": "off",
        "osd crush chooseleaf type": 0,
        "mon allow pool size one": "true",
        "mon warn on pool no redundancy": "false",
        "mon max pg per osd": 4096,
        "ms crc data": "false",
    }


def make_monitor(cluster: Cluster) -> None:
    """Make the keys, the monitor map and the monitor's data; it can be started afterwards."""
    keyring = str(cluster.keyring)
    _run(["ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"])
    for entity in ("client.admin", "client.rgw.a", "osd.0"):
        rights = [word for service in ("mon", "osd", "mgr") for word in ("--cap", service, "allow *")]
        _run(["ceph-authtool", keyring, "--gen-key", "-n", entity, *rights])
    map_file = str(cluster.folder / "monmap")
    address = f"[v2:127.0.0.1:{cluster.mon_port}/0]"
    fsid = next(line for line in cluster.conf.read_text().splitlines() if line.startswith("fsid")).split()[-1]
    _run(["monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, map_file])
    _run([*cluster.mon, "--mkfs", "--monmap", map_file, "--keyring", keyring])


def make_osd(cluster: Cluster) -> None:
    """Make the object store's data, the monitor running; it can be started afterwards."""
    name = str(uuid.uuid4())
    _run(_ask(cluster, "osd", "new", name, "0"))
    _run([*cluster.osd, "--mkfs", "--osd-uuid", name])


def make_user(cluster: Cluster) -> None:
    """Wait for the object store, then make the gateway's pools and one user.

    Raises:
        CephError: the object store did not come up in time.
    """
    deadline_s = time.monotonic() + STEP_TIMEOUT_S
    while json.loads(_run(_ask(cluster, "osd", "stat", "-f", "json")))["num_up_osds"] < 1:
        if time.monotonic() > deadline_s:
            raise CephError(f"Ceph's object store did not come up within {STEP_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
    admin = ["radosgw-admin", "-c", str(cluster.conf), "-n", "client.rgw.a", "user", "create"]
    _run([*admin, "--uid=test", "--display-name=test", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"])


def _ask(cluster: Cluster, *words: str) -> list[str]:
    """Command to the monitor, which may still be electing itself."""
    return ["ceph", "-c", str(cluster.conf), "--connect-timeout", str(int(STEP_TIMEOUT_S)), *words]


def _run(command: Sequence[str], *, timeout_s: float = STEP_TIMEOUT_S) -> str:
    """Run one step and return what it printed."""
    try:
        done = subprocess.run(  # noqa: S603  our own arguments, no shell
            list(command),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.CalledProcessError as error:
        raise CephError(f"{command[0]} failed with status {error.returncode}: {error.stderr[-2000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise CephError(f"{command[0]} did not finish within {timeout_s:.0f} s") from error
    return done.stdout
