"""A SLURM cluster of virtual nodes on this machine, in a folder of its own, for tests and campaigns.

munged, slurmctld and a slurmd for each node run as children of this process, with their own ports, keys and files;
nothing outside the folder is written. Needs root, and Debian's packages slurm-wlm and munge.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from launch import JOB_ENVIRONMENT, OUTER_LAUNCHER, Job

# Three cells, for a job array.
EXPERIMENT = """
[[data]]
name = "rows"
source = "synthetic:logistic?rows=40&features=3"
workers = 2
[[objective]]
loss = "logistic"
[[method]]
method = "newton"
[[method]]
method = "lbfgs"
settings = { memory = [3, 5] }
[stop]
max_iterations = 2
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
# Requeued jobs wait for cred_expire seconds, 120 by default.
CONFIGURATION = """\
ClusterName=mpinewton
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=pmi2
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdTimeout={timeout}
KillWait=30
MinJobAge=600
SlurmdParameters=config_overrides
TmpFS={folder}/tmp-%n
"""
END = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL")


def missing() -> str:
    """Why there can be no cluster here; "" if there can."""
    if os.geteuid() != 0:
        return "only root can start a SLURM cluster"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"SLURM is not installed ({', '.join(absent)})" if absent else ""


class Cluster:
    """Nodes n1, n2, ... of 8 processors each, while the context lasts.

    Parameters
    ----------
    folder : Path
        A short path: the sockets are in it.
    """

    def __init__(self, folder: Path, nodes: int = 3, timeout: int = 10) -> None:
        self.folder, self.names, self.stack = folder, [f"n{i + 1}" for i in range(nodes)], contextlib.ExitStack()
        self.daemons: list[Job] = []
        ports = _free_ports(nodes + 1)
        settings = CONFIGURATION.format(folder=folder, host=socket.gethostname(), port=ports[0], timeout=timeout)
        for name, port in zip(self.names, ports[1:], strict=True):
            (folder / f"tmp-{name}").mkdir(parents=True)
            settings += (
                f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port}"
                " CPUs=8 RealMemory=4000 State=UNKNOWN\n"
            )
        settings += f"PartitionName=main Nodes=n[1-{nodes}] Default=YES MaxTime=60 State=UP\n"
        (folder / "state").mkdir()
        (folder / "slurm.conf").write_text(settings)
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        own = {name: value for name, value in os.environ.items() if not name.startswith(OUTER_LAUNCHER)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # The nodes are one machine: MPICH's shared memory of one would be taken for that of another.
        here = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path, "MPIR_CVAR_NOLOCAL": "1"}
        self.env = own | JOB_ENVIRONMENT | here

    def __enter__(self) -> Cluster:
        with contextlib.ExitStack() as stack:
            files = ("socket=munge", "key-file=key", "pid-file=munge.pid", "log-file=munge.log", "seed-file=seed")
            munge = [f"--{kind}={self.folder / name}" for kind, name in (file.split("=") for file in files)]
            self._daemon(stack, "munged", "--foreground", "--force", "--num-threads=2", *munge)
            self.until((self.folder / "munge").exists)
            self._daemon(stack, "slurmctld", "-D")
            for name in self.names:
                self.start(name, stack)
            self.until(lambda: self("sinfo", "-h", "-t", "idle", "-o", "%D", check=False) == str(len(self.names)))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        for name in self.names:
            self.kill(name)
        self.stack.close()

    def _daemon(self, stack: contextlib.ExitStack, *command: str, cwd: Path | None = None) -> Job:
        self.daemons.append(stack.enter_context(Job(command, env=self.env, cwd=cwd or self.folder)))
        return self.daemons[-1]

    def start(self, name: str, stack: contextlib.ExitStack | None = None) -> None:
        """Start the slurmd of a node, in a folder by which its processes are known."""
        self._daemon(stack or self.stack, "slurmd", "-D", "-N", name, cwd=self.folder / f"tmp-{name}")

    def kill(self, name: str) -> None:
        """Kill a node: first slurmd and those that would report the end of jobs, then all processes of jobs on it."""
        marks = (f"SLURMD_NODENAME={name}\0".encode(), f"{self.folder}/".encode())
        daemons, tasks = list[int](), list[int]()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cwd").readlink() == self.folder / f"tmp-{name}":
                    daemons.append(int(process.name))
                elif all(mark in (process / "environ").read_bytes() for mark in marks):
                    tasks.append(int(process.name))
        for pid in (*daemons, *tasks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __call__(self, *command: str | Path, check: bool = True, cwd: Path | None = None) -> str:
        """The output of a command of SLURM's. Raises RuntimeError if it fails."""
        for _ in range(3):
            done = subprocess.run(
                list(map(str, command)), env=self.env, capture_output=True, text=True, timeout=120, cwd=cwd, check=False
            )
            if done.returncode >= 0:  # on a loaded machine slurmctld now and then hangs up: SIGPIPE
                break
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def submit(self, script: str, cwd: Path, *options: str) -> str:
        """Submit a job script; returns the number of the job."""
        (cwd / "job.sbatch").write_text(script)
        return self("sbatch", "--parsable", *options, cwd / "job.sbatch", cwd=cwd)

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol` says of a job."""
        words = self("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, seconds: float = 300) -> dict[str, str]:
        """Wait for the end of a job and all that it requeues. Returns what `scontrol` says of it."""
        self.until(lambda: self.job(number)["JobState"] in END, seconds)
        return self.job(number)

    def until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until the condition holds. Raises TimeoutError with what the daemons say."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                said = [self("squeue", "-l", check=False), self("sinfo", "-Nl", check=False)]
                said += [f"{job.command}: {job._finished()}"[-3000:] for job in self.daemons]
                raise TimeoutError("\n".join([f"still not after {seconds} s", *said]))
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses, below those that the system gives to connections."""
    rng = np.random.default_rng(os.getpid())
    found: list[int] = []
    while len(found) < count:
        port = int(rng.integers(20000, 32000))
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("", port))
            found += [port] if port not in found else []
    return found
