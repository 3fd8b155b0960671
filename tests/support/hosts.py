"""Two hosts on one machine, each with a network, a loopback and a name, and a cable between them.

They are Linux namespaces, each held by a sleeping process; the kernel removes them, and the cable, when these processes
end. The file system is the machine's. Needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_HOLD = 'hostname "$1" && mount --bind "$2" /etc/hosts && ip link set lo up && echo ready && exec sleep infinity'
_TOOLS = ("unshare", "nsenter", "setpriv", "ip", "mount", "hostname")


def why_not() -> str | None:
    """Why this machine cannot have two hosts; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"network namespaces need {', '.join(missing)} (Debian: iproute2, util-linux, hostname)"
    namespaces = ["unshare", "--net", "--uts", "--mount", "true"]
    tried = subprocess.run(namespaces, capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class Host:
    """One of the two hosts: its name, its address, and the id of the process that holds it."""

    name: str
    address: str
    holder: int

    def start(self, *command: str | Path, log: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a command on this host, in a process group of its own; both streams go to ``log``."""
        inside = ["nsenter", f"--target={self.holder}", "--net", "--uts", "--mount", "--", *map(str, command)]
        with log.open("ab") as file:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *inside],
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """The hosts ``east`` and ``west`` while the block lasts; their names are written to a file in ``folder``."""
    addresses = {"east": "10.213.7.1", "west": "10.213.7.2"}
    names = folder / "hosts"
    lines = [f"{address} {name}" for name, address in addresses.items()]
    names.write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
    hold = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "--mount", "sh", "-c", _HOLD, "sh"]
    holders = [subprocess.Popen([*hold, name, str(names)], stdout=subprocess.PIPE) for name in addresses]
    try:
        for holder in holders:
            assert holder.stdout is not None
            if holder.stdout.readline() != b"ready\n":
                raise RuntimeError("a host could not be made; see what its shell said above")
        east, west = (str(holder.pid) for holder in holders)
        ends = ["name", "eth0", "netns", east, "type", "veth", "peer", "name", "eth0", "netns", west]
        subprocess.run(["ip", "link", "add", *ends], check=True)
        for holder, address in zip(holders, addresses.values(), strict=True):
            inside = ["nsenter", f"--target={holder.pid}", "--net", "ip"]
            subprocess.run([*inside, "address", "add", f"{address}/24", "dev", "eth0"], check=True)
            subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)
        pairs = zip(addresses.items(), holders, strict=True)
        first, second = (Host(name, address, holder.pid) for (name, address), holder in pairs)
        yield first, second
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            if holder.stdout is not None:
                holder.stdout.close()
