"""mpinewton doctor: what Python, MPI, threads, files and messages are like here, and what is wrong with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from mpinewton.errors import ConfigError
from mpinewton.fleet.transport.introduction import introduction
from mpinewton.launcher import THREAD_VARIABLES, beside_python, promised_ranks
from mpinewton.runs.folder import versions

if TYPE_CHECKING:
    from mpinewton.fleet.orders import Timing
    from mpinewton.fleet.transport.session import Session

Facts = Mapping[str, Any]
NUMBERS = (1, 128, 131072)  # 8 B, 1 kB, 1 MB
NAMES = {8: "8 B", 1024: "1 kB", 1 << 20: "1 MB"}


@click.command("doctor")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path())
@click.option(
    "--nproc", type=click.IntRange(1), metavar="W", help="Start mpiexec with a driver and W ranks of workers."
)
@click.pass_obj
def command(session: Session, /, folder: Path, nproc: int | None) -> int:
    """Say what Python, MPI, threads and messages are like here, and what the disk under DIR is like.

    Under mpiexec, srun or --nproc it compares all hosts and times the messages between their ranks.
    """
    if nproc is not None:
        from mpinewton.cli.run import launched

        return launched(session, nproc)
    click.echo(examine(session, folder))
    return 0


def examine(session: Session, folder: Path) -> str:
    """Everything, as one block of text.

    Raises
    ------
    ConfigError
        If the folder cannot be written to.
    """
    ranks = [facts(), *session.each(facts, list(range(1, session.ranks)))]
    promised = promised_ranks()
    timings = session.measured(NUMBERS)
    files, wrong_files = about_folder(session, folder)
    lines = [
        *about_versions(ranks[0]),
        ("MPI", " ".join(ranks[0]["mpi"].split()) or f"not in use: one process; there is {_installed_mpi()}"),
        ("launcher", f"{beside_python('mpiexec') or 'no mpiexec'}; {_promise(promised, session.ranks)}"),
        ("ULFM", _ulfm(ranks[0]["mpi"])),
        *[("host", line) for line in about_hosts(ranks)],
        ("threads", "  ".join(f"{name}={value or 'unset'}" for name, value in ranks[0]["thread_variables"].items())),
        ("folder", files),
        *[("messages", line) for line in about_messages(timings)],
        *[("WARNING", line) for line in [*warnings(ranks, promised), *wrong_files]],
    ]
    return "\n".join(f"{name:<10}{text}" for name, text in lines)


def facts(_: object = None) -> dict[str, Any]:
    """What one process has to say; JSON-able."""
    import threadpoolctl

    blas = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    told = introduction()
    return {
        "host": told["host"],
        "mpi": told["mpi"],
        "versions": versions() | {"mpi4py": told["mpi4py"]},
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(told["cores"])),
        "blas": sorted(
            {f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', '?')})" for pool in blas}
        ),
        "threads": max((int(pool["num_threads"]) for pool in blas), default=1),
        "thread_variables": {name: os.environ.get(name, "") for name in THREAD_VARIABLES},
    }


def sees(path: str) -> bool:
    """Whether this process sees a file."""
    return Path(path).exists()


def about_versions(rank: Facts) -> list[tuple[str, str]]:
    return [
        ("versions", ", ".join(f"{name} {version}" for name, version in rank["versions"].items())),
        ("BLAS", ", ".join(rank["blas"]) or "none found"),
    ]


def about_hosts(ranks: Sequence[Facts]) -> list[str]:
    """A line a host: its ranks, their cores and threads."""
    lines = []
    for host, numbers in _by(ranks, lambda rank: str(rank["host"])).items():
        mine = [ranks[n] for n in numbers]
        cores = _span([len(rank["cores"]) for rank in mine])
        lines.append(
            f"{host}: rank {_listed(numbers)}; {cores} cores a rank, {len(_cores(mine))} together; "
            f"{_span([rank['threads'] for rank in mine])} BLAS threads a rank"
        )
    return lines


def about_messages(timings: Sequence[Timing]) -> list[str]:
    """Times and rates of the collectives, and what the fixed order of sums costs."""
    if not timings:
        return ["one process: nothing to time; mpinewton doctor --nproc 2 does"]
    lines = [f"{'':6}{'broadcast':>24}{'reduce by MPI.SUM':>24}{'sum in fixed order':>24}"]
    for t in timings:
        size = 8 * t.numbers
        # What a short message takes is latency; a rate would say nothing.
        cells = [
            f"{1e3 * s:.3f} ms" + (f"  {size / s / 1e6:7.1f} MB/s" if size >= 1 << 16 else 14 * " ")
            for s in (t.broadcast, t.reduce, t.fixed)
        ]
        name = NAMES.get(size, f"{size} B")
        lines.append(f"{name:6}" + "".join(f"{cell:>24}" for cell in cells) + f"  {t.fixed / t.reduce:.1f} x MPI.SUM")
    return lines


def about_folder(session: Session, folder: Path) -> tuple[str, list[str]]:
    """Free space, file locks and who sees the folder; and what is wrong there.

    Raises
    ------
    ConfigError
        If the folder cannot be written to.
    """
    wrong = []
    try:
        with TemporaryDirectory(dir=folder, prefix=".mpinewton-doctor-") as name:
            probe = Path(name) / "probe"
            probe.touch()
            blind = [n for n, seen in enumerate(session.each(sees, [str(probe)] * (session.ranks - 1)), 1) if not seen]
            fault = _lock_fault(Path(name) / "lock.h5")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written to ({error.strerror}); name another folder") from None
    if blind:
        wrong.append(f"rank {_listed(blind)} does not see {folder.resolve()}: shards must lie where all ranks see them")
    if fault:
        wrong.append(
            f"{folder.resolve()}: no HDF5 file locks ({fault}); mpinewton reads without, other programs may not"
        )
    free = shutil.disk_usage(folder).free / 2**30
    return f"{folder.resolve()}: {free:.1f} GiB free, HDF5 file locks {'fail' if fault else 'work'}", wrong


def warnings(ranks: Sequence[Facts], promised: int) -> list[str]:
    """What is wrong, a sentence each."""
    found = []
    if promised not in (0, len(ranks)):
        found.append(
            f"the launcher promised {promised} ranks, and MPI sees {len(ranks)}: they belong to different MPIs"
        )
    for name in ranks[0]["versions"]:
        found += _difference(name, ranks, lambda rank, name=name: str(rank["versions"].get(name)))
    found += _difference("the MPI library", ranks, lambda rank: str(rank["mpi"]))
    for host, numbers in _by(ranks, lambda rank: str(rank["host"])).items():
        mine = [ranks[n] for n in numbers]
        threads, cores = sum(rank["threads"] for rank in mine), len(_cores(mine))
        if threads > cores:
            found.append(
                f"{host}: {len(mine)} ranks have {threads} threads on {cores} cores: "
                "OMP_NUM_THREADS=1, fewer ranks, or other binding options of the launcher"
            )
    return found


def _difference(what: str, ranks: Sequence[Facts], of: Any) -> list[str]:
    hosts = {value: sorted({ranks[n]["host"] for n in numbers}) for value, numbers in _by(ranks, of).items()}
    if len(hosts) == 1:
        return []
    said = "; ".join(f"{value} on {', '.join(where)}" for value, where in hosts.items())
    return [f"{what} is not the same everywhere: {said}. Install one on all hosts"]


def _lock_fault(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path, "w", locking=True) as file:
            file["x"] = 1.0
    except OSError as error:
        return str(error)
    return ""


def _installed_mpi() -> str:
    """The library that Python would use, asked in a process of its own: to load MPI is to start it."""
    command = [sys.executable, "-m", "mpi4py", "--mpi-lib-version"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60)  # noqa: S603
    except subprocess.TimeoutExpired:
        return "an MPI library that does not start within 60 s"
    said = (asked.stdout if asked.returncode == 0 else asked.stderr).strip().splitlines()
    return " ".join((said[0] if asked.returncode == 0 else f"none that loads: {said[-1]}").split()) if said else "none"


def _promise(promised: int, ranks: int) -> str:
    return f"{promised} ranks promised, {ranks} seen" if promised else "not used"


def _ulfm(library: str) -> str:
    found = re.match(r"Open MPI v(\d+)", library)
    if found and int(found[1]) >= 5:
        return "there, when started by mpiexec --with-ft ulfm"
    return "not there: when a rank dies the job ends, and the same command goes on from the checkpoint"


def _by(ranks: Sequence[Facts], of: Any) -> dict[str, list[int]]:
    """Numbers of the ranks, by what is said of them."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, rank in enumerate(ranks):
        groups[of(rank)].append(number)
    return groups


def _cores(ranks: Iterable[Facts]) -> set[int]:
    return set().union(*(rank["cores"] for rank in ranks))


def _span(values: Sequence[int]) -> str:
    return f"{values[0]}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _listed(numbers: Sequence[int]) -> str:
    whole = len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if whole else ", ".join(map(str, numbers))
