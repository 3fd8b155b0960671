"""A real Slurm on this machine, for tests: it runs in a temporary folder and leaves nothing behind.

::

    python tests/support/slurm.py                            # start, show the nodes, stop
    python tests/support/slurm.py sbatch --wait my_job.sh    # any command, with a Slurm around it

Debian's ``slurm-wlm`` and ``munge`` are installed where they are missing, which needs root and apt-get. Configuration,
keys, sockets, state and ports belong to this Slurm alone: ``/etc/slurm`` and a running Slurm or munge are not touched.
There are two nodes on loopback, named by their addresses so that no name has to be looked up. Each has two pretended
GPUs (``/dev/null``, ``/dev/zero``), so that job scripts that ask for GPUs run unchanged.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge", "iproute2")  # the last one for the tests with two hosts
NODES = ("127.0.0.1", "127.0.0.2")
CPUS = 4  # of a node, whatever the machine has
MEMORY = 1_000_000  # MiB, likewise
GRACE = 60  # seconds between the signal and the end of a job that another one preempts
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")

CONFIG = """\
ClusterName=skillaxes-tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits; its default is two minutes
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=100000
KillWait=10
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
{nodes}
PartitionName=preemptible Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why this machine cannot run a Slurm for tests; None if it can."""
    if sys.platform != "linux":
        return "a Slurm for tests needs Linux"
    if os.geteuid() != 0:
        return "a Slurm for tests is started by root only"
    if shutil.which("apt-get") is None and not _installed():
        return "Slurm is not installed, and there is no apt-get to install Debian's slurm-wlm, munge and iproute2"
    return None


def _installed() -> bool:
    path = _with_sbin(os.environ.get("PATH", os.defpath))
    return all(shutil.which(name, path=path) for name in ("slurmctld", "slurmd", "munged", "sbatch", "srun", "ip"))


def _with_sbin(path: str) -> str:
    return os.pathsep.join([path, "/usr/sbin", "/sbin"])


def install() -> None:
    """Install Debian's packages where they are missing. Under systemd the package starts its own munge, which idles.

    Raises
    ------
    RuntimeError : apt-get failed; with the end of its output
    """
    if _installed():
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    environment["PATH"] = _with_sbin(environment.get("PATH", os.defpath))
    wanted = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    for command in (wanted, ["apt-get", "update", "-qq"], wanted):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if command is wanted and done.returncode == 0:
            break
    if not _installed():
        raise RuntimeError(f"{' '.join(wanted)} failed: {(done.stderr or done.stdout).strip()[-800:]}")


@dataclass(frozen=True)
class Slurm:
    """A running Slurm: its folder, and the environment in which its commands find it."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *command: str | Path, timeout: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command with this Slurm around it; its output is text, its exit code is not checked."""
        return subprocess.run(
            [str(part) for part in command],
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def submit(self, *options: str | Path, **variables: str) -> str:
        """Submit a job by ``sbatch`` with these arguments; returns its id."""
        done = self.run("sbatch", "--parsable", *options, **variables)
        if done.returncode:
            raise RuntimeError(f"sbatch {' '.join(map(str, options))}: {done.stderr.strip()}")
        return done.stdout.strip().split(";")[0]

    def job(self, job: str) -> dict[str, str]:
        """The fields of ``scontrol show job``: ``JobState``, ``ExitCode``, ``Restarts``, ..."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, *states: str, timeout: float = 120) -> dict[str, str]:
        """Wait until a job is in one of ``states``, or without states until it has ended.

        Raises
        ------
        TimeoutError : it is not within ``timeout`` seconds; with the fields of the job
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            found = self.job(job)
            state = found.get("JobState", "")
            if state in states or (not states and state in ENDED):
                return found
            time.sleep(0.2)
        raise TimeoutError(f"job {job} after {timeout:.0f} s: {json.dumps(self.job(job))}\n{self.logs()}")

    def logs(self) -> str:
        """The last lines of the daemons' logs."""
        parts = []
        for file in sorted(self.folder.glob("*.log")):
            parts.append(f"-- {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-20:]))
        return "\n".join(parts)


def _free_ports(number: int) -> list[int]:
    holders = [socket.socket() for _ in range(number)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [holder.getsockname()[1] for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def _configure(folder: Path) -> None:
    port, *ports = _free_ports(1 + len(NODES))
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr={name} Port={node_port} "
        f"CPUs={CPUS} RealMemory={MEMORY} Gres=gpu:2 State=UNKNOWN"
        for name, node_port in zip(NODES, ports, strict=True)
    )
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(
        CONFIG.format(host=host, folder=folder, port=port, nodes=nodes, grace=GRACE), encoding="utf-8"
    )
    (folder / "gres.conf").write_text("AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)


def _daemon(folder: Path, environment: Mapping[str, str], name: str, *command: str) -> subprocess.Popen[bytes]:
    # setpriv: should the tests be killed, the daemons end too
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )


def _wait_until_idle(slurm: Slurm, daemons: Sequence[subprocess.Popen[bytes]], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    said = ""
    while time.monotonic() < end:
        for daemon in daemons:
            if daemon.poll() is not None:
                raise RuntimeError(f"{daemon.args} ended with {daemon.returncode}\n{slurm.logs()}")
        found = slurm.run("sinfo", "--noheader", "--Node", "--partition=preemptible", "--format=%T")
        said = found.stdout + found.stderr
        if found.stdout.split() == ["idle"] * len(NODES):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the nodes of the Slurm for tests are not idle after {seconds:.0f} s: {said}\n{slurm.logs()}")


def _stop(slurm: Slurm, daemons: Sequence[subprocess.Popen[bytes]]) -> None:
    slurm.run("scancel", "--user=root", "--full")
    end = time.monotonic() + 20
    while slurm.run("squeue", "--noheader").stdout.strip() and time.monotonic() < end:
        time.sleep(0.2)
    for daemon in reversed(daemons):
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


@contextmanager
def running(**variables: str) -> Iterator[Slurm]:
    """A Slurm while the block lasts; its commands and jobs have these variables.

    Raises
    ------
    RuntimeError : it cannot be installed or started; with the reason, or the end of its logs
    """
    reason = why_not()
    if reason:
        raise RuntimeError(reason)
    install()
    # Not below pytest's folder: a socket's path has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)  # munge refuses a socket that not everybody may reach
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
    environment = {**inherited, **variables, "SLURM_CONF": str(folder / "slurm.conf")}
    environment["PATH"] = _with_sbin(environment.get("PATH", os.defpath))
    slurm = Slurm(folder, environment)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _configure(folder)
        munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        daemons.append(
            _daemon(folder, environment, "munged", "munged", "-F", f"--socket={folder}/munge.socket", *munge)
        )
        while not (folder / "munge.socket").exists() and daemons[0].poll() is None:
            time.sleep(0.05)
        daemons.append(_daemon(folder, environment, "slurmctld", "slurmctld", "-D", "-i"))
        for node in NODES:
            daemons.append(_daemon(folder, environment, f"slurmd-{node}", "slurmd", "-D", "-N", node))
        _wait_until_idle(slurm, daemons)
        yield slurm
    finally:
        _stop(slurm, daemons)
        shutil.rmtree(folder, ignore_errors=True)


def main(command: Sequence[str]) -> int:
    """Run a command with a Slurm around it."""
    try:
        with running() as slurm:
            return subprocess.run(command or ["sinfo"], env=dict(slurm.environment), check=False).returncode
    except RuntimeError as error:
        print(f"slurm.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
