"""`mpinewton doctor`: a description of Python, MPI, threads, files and messages, with warnings."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from mpinewton import kernels
from mpinewton.errors import ConfigError
from mpinewton.fleet.transport.introduction import introduction
from mpinewton.launcher import THREAD_VARIABLES, beside_python, promised_ranks
from mpinewton.runs.environment import versions

if TYPE_CHECKING:
    from mpinewton.fleet.orders import Timing
    from mpinewton.fleet.transport.session import Session

Facts = Mapping[str, Any]
ECHO_SIZES = (8, 1024, 1 << 14, 1 << 17, 1 << 20)
NUMBERS = (1, 128, 131072)  # 8 B, 1 kB, 1 MB
NAMES = {8: "8 B", 1024: "1 kB", 1 << 20: "1 MB"}


@click.command("doctor")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path())
@click.option("--nproc", type=click.IntRange(1), metavar="W", help="Start mpiexec with a driver and W worker ranks.")
@click.option(
    "--network",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Also measure the network between the ranks, and describe it in a file for `replay` and `plan`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(session: Session, /, folder: Path, nproc: int | None, network: Path | None, as_json: bool) -> int:
    """Describe Python, MPI, threads, messages, and the disk of DIR (default: the current folder).

    Under mpiexec, srun or --nproc, compare all hosts and time messages between the ranks.
    """
    if nproc is not None:
        from mpinewton.cli.run import launch

        return launch(session, nproc)
    if network is not None and network.suffix != ".toml":
        raise ConfigError(f"--network {network}: unknown suffix {network.suffix!r}; expected .toml")
    if network is not None and session.ranks == 1:
        raise ConfigError("--network measures messages between ranks: start some with --nproc 2, or under mpiexec")
    said = examine(session, folder)
    if network is not None:
        said += f"\n{'network':<10}{describe_network(session, network)}"
    if as_json:
        found: dict[str, list[str]] = {}
        for line in said.splitlines():
            found.setdefault(line[:10].strip(), []).append(line[10:])
        said = json.dumps(found)
    click.echo(said)
    return 0


def examine(session: Session, folder: Path) -> str:
    """The report as text.

    Raises
    ------
    ConfigError
        If the folder cannot be written to.
    """
    ranks = [facts(), *session.each(facts, list(range(1, session.ranks)))]
    promised = promised_ranks()
    timings = while_fast(session.time_collectives, NUMBERS, lambda timing: timing.fixed)
    files, wrong_files = about_folder(session, folder)
    lines = [
        *about_versions(ranks[0]),
        ("kernels", f"{', '.join(sorted({rank['rows'] for rank in ranks}))} (loops over rows)"),
        ("MPI", " ".join(ranks[0]["mpi"].split()) or f"not in use (one process); installed: {_installed_mpi()}"),
        ("launcher", f"{beside_python('mpiexec') or 'no mpiexec'}; {_promise(promised, session.ranks)}"),
        ("ULFM", _ulfm(ranks[0]["mpi"])),
        *[("host", line) for line in about_hosts(ranks)],
        ("threads", "  ".join(f"{name}={value or 'unset'}" for name, value in ranks[0]["thread_variables"].items())),
        ("folder", files),
        *[("messages", line) for line in about_messages(timings)],
        *[("WARNING", line) for line in [*warnings(ranks, promised), *wrong_files]],
    ]
    return "\n".join(f"{name:<10}{text}" for name, text in lines)


def describe_network(session: Session, path: Path) -> str:
    """Measure the network and write its description. Returns it in a line. Raises ConfigError."""
    from mpinewton.report.network import network_of

    found, error = network_of(while_fast(session.time_echoes, ECHO_SIZES, lambda echo: echo.seconds))
    line = (
        f"latency {1e6 * found.latency:.3g} us, bandwidth {found.bandwidth / 1e9:.3g} Gbit/s, "
        f"message {1e6 * found.message:.3g} us; median error of the model {100 * error:.0f} %"
    )
    about = (
        f"# Measured by `mpinewton doctor` on {session.ranks} ranks; median error of the model {100 * error:.0f} %.\n"
    )
    values = "".join(f"{name} = {getattr(found, name)!r}\n" for name in ("latency", "bandwidth", "message"))
    try:
        path.write_text(f"{about}{values}", encoding="utf-8")
    except OSError as fault:
        raise ConfigError(f"{path} cannot be written: {fault.strerror}; give another --network FILE") from fault
    return f"{line}; written to {path}"


def while_fast(measure: Any, sizes: Sequence[int], seconds: Callable[[Any], float]) -> list[Any]:
    """What is measured of messages of these sizes, up to the first that a slow network lets take long."""
    found: list[Any] = []
    for size in sizes:
        found += measure([size])
        if found and seconds(found[-1]) > max(0.1, 1.5 * seconds(found[0])):
            break
    return found


def facts(_: object = None) -> dict[str, Any]:
    """Versions, cores and threads of this process; JSON-able."""
    import threadpoolctl

    blas = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    process = introduction()
    return {
        "host": process["host"],
        "mpi": process["mpi"],
        "rows": f"{kernels.NAME} {kernels.LEVEL}".strip(),
        "versions": versions() | {"mpi4py": process["mpi4py"]},
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(process["cores"])),
        "blas": sorted(
            {f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', '?')})" for pool in blas}
        ),
        "threads": max((int(pool["num_threads"]) for pool in blas), default=1),
        "thread_variables": {name: os.environ.get(name, "") for name in THREAD_VARIABLES},
    }


def sees(path: str) -> bool:
    """Whether a file exists for this process."""
    return Path(path).exists()


def about_versions(rank: Facts) -> list[tuple[str, str]]:
    return [
        ("versions", ", ".join(f"{name} {version}" for name, version in rank["versions"].items())),
        ("BLAS", ", ".join(rank["blas"]) or "none found"),
    ]


def about_hosts(ranks: Sequence[Facts]) -> list[str]:
    """One line per host: its ranks, their cores and threads."""
    lines = []
    for host, numbers in _by(ranks, lambda rank: str(rank["host"])).items():
        mine = [ranks[n] for n in numbers]
        cores = _span([len(rank["cores"]) for rank in mine])
        lines.append(
            f"{host}: rank {_ranges(numbers)}; {cores} cores per rank, {len(_cores(mine))} in total; "
            f"{_span([rank['threads'] for rank in mine])} BLAS threads per rank"
        )
    return lines


def about_messages(timings: Sequence[Timing]) -> list[str]:
    """Times and rates of the collectives, and the cost of sums in fixed order."""
    if not timings:
        return ["not measured with one process; try mpinewton doctor --nproc 2"]
    lines = [f"{'':6}{'broadcast':>24}{'reduce by MPI.SUM':>24}{'sum in fixed order':>24}"]
    for t in timings:
        size = 8 * t.numbers
        # The time of a short message is latency: its rate has no meaning.
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
        wrong.append(
            f"rank {_ranges(blind)} cannot access {folder.resolve()}: keep shards in a folder that all ranks can access"
        )
    if fault:
        wrong.append(f"{folder.resolve()}: HDF5 file locks do not work ({fault}); other programs may need them")
    free = shutil.disk_usage(folder).free / 2**30
    return f"{folder.resolve()}: {free:.1f} GiB free, HDF5 file locks {'fail' if fault else 'work'}", wrong


def warnings(ranks: Sequence[Facts], promised: int) -> list[str]:
    """Warnings, one sentence each."""
    found = []
    if promised not in (0, len(ranks)):
        found.append(f"the launcher started {promised} ranks, but MPI sees {len(ranks)}: they are of different MPIs")
    for name in ranks[0]["versions"]:
        found += _difference(name, ranks, lambda rank, name=name: str(rank["versions"].get(name)))
    found += _difference("the MPI library", ranks, lambda rank: str(rank["mpi"]))
    for host, numbers in _by(ranks, lambda rank: str(rank["host"])).items():
        mine = [ranks[n] for n in numbers]
        threads, cores = sum(rank["threads"] for rank in mine), len(_cores(mine))
        if threads > cores:
            found.append(
                f"{host}: {len(mine)} ranks have {threads} threads on {cores} cores: "
                "set OMP_NUM_THREADS=1, use fewer ranks, or change the binding options of the launcher"
            )
    return found


def _difference(what: str, ranks: Sequence[Facts], of: Any) -> list[str]:
    hosts = {value: sorted({ranks[n]["host"] for n in numbers}) for value, numbers in _by(ranks, of).items()}
    if len(hosts) == 1:
        return []
    said = "; ".join(f"{value} on {', '.join(where)}" for value, where in hosts.items())
    return [f"{what} differs between hosts: {said}. Install the same on all hosts"]


def _lock_fault(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path, "w", locking=True) as file:
            file["x"] = 1.0
    except OSError as error:
        return str(error)
    return ""


def _installed_mpi() -> str:
    """The MPI library that Python would use, from a process of its own, since loading MPI starts it."""
    command = [sys.executable, "-m", "mpi4py", "--mpi-lib-version"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60)  # noqa: S603
    except subprocess.TimeoutExpired:
        return "a library that does not start within 60 s"
    said = (asked.stdout if asked.returncode == 0 else asked.stderr).strip().splitlines()
    return (
        " ".join((said[0] if asked.returncode == 0 else f"none that can be loaded: {said[-1]}").split())
        if said
        else "none"
    )


def _promise(promised: int, ranks: int) -> str:
    return f"started {promised} ranks, MPI sees {ranks}" if promised else "not used"


def _ulfm(library: str) -> str:
    found = re.match(r"Open MPI v(\d+)", library)
    if found and int(found[1]) >= 5:
        return "available with mpiexec --with-ft ulfm"
    return "not available: when a rank dies the job ends, and the same command resumes from the checkpoint"


def _by(ranks: Sequence[Facts], of: Any) -> dict[str, list[int]]:
    """Numbers of the ranks, grouped by a value."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, rank in enumerate(ranks):
        groups[of(rank)].append(number)
    return groups


def _cores(ranks: Iterable[Facts]) -> set[int]:
    return set().union(*(rank["cores"] for rank in ranks))


def _span(values: Sequence[int]) -> str:
    return f"{values[0]}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _ranges(numbers: Sequence[int]) -> str:
    whole = len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if whole else ", ".join(map(str, numbers))
