"""`mpinewton slurm`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

import click

from mpinewton.errors import ConfigError

SCRIPT = """\
#!/bin/bash
# A run that may take longer than the time limit: submit it once with `sbatch`; it requeues itself until it is finished.
# Read it and adapt it to your site; keep the order of the parts.

#SBATCH --job-name={name}
#SBATCH --ntasks={ntasks}  # a driver and {workers} worker ranks; any number gives the same bits
#SBATCH --cpus-per-task={cpus}  # threads of linear algebra per rank
#SBATCH --time={time}
#SBATCH --signal=USR1@{notice}  # seconds before the end; the run then stops after the iteration
#SBATCH --requeue  # the job may be requeued, below and after a node failure
#SBATCH --open-mode=append  # append to the log
#SBATCH --output={log}
{more}
set -u
{modules}
# --mpi=pmi2 is for MPICH, as installed by `pip install mpinewton[mpich]`; --mpi=pmix for Open MPI at most sites. If it
# does not match, mpinewton stops with an error; `srun --mpi=... mpinewton doctor` shows more.
# The same command starts and resumes the run. --wait ends the others 60 s after a rank that leaves too early.
srun --mpi={mpi} --wait=60 mpinewton {command}
code=$?

# 3: stopped by the signal, with a checkpoint. Otherwise it is final: 0 finished, 1 failed, 2 invalid settings or data.
if [ "$code" -eq 3 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
ARRAY = """\
#SBATCH --array=1-{cells}  # one task for each run of the comparison

# When all tasks have ended, write figures, tables and report: mpinewton {command}
"""
# Forms of a time limit, as in `man sbatch`.
TIMES = re.compile(
    r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?|(?P<m1>\d+)(:(?P<s1>\d+))?|(?P<h2>\d+):(?P<m2>\d+):(?P<s2>\d+)"
)
TIME_FORMS = "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes[:seconds]"


def matching(pattern: str, expected: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """A callback that refuses a value of an option that does not match a pattern."""

    def check(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise ConfigError(f"--{(option.name or '').replace('_', '-')} {value!r}: expected {expected}")
        return value

    return check


word = matching(r"[\w.,:+=@/-]+", "a name without blanks")


@click.command("slurm", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--ntasks", type=click.IntRange(2), default=9, show_default=True, help="Ranks: a driver and worker ranks."
)
@click.option("--cpus-per-task", type=click.IntRange(1), default=1, show_default=True, help="Threads per rank.")
@click.option("--time", "limit", default="04:00:00", show_default=True, help="Time limit; the job is then requeued.")
@click.option(
    "--notice", type=click.IntRange(1, 65535), default=300, show_default=True, help="Seconds from signal to limit."
)
@click.option("--mpi", type=click.Choice(["pmi2", "pmix"]), default="pmi2", show_default=True, help="Plugin of srun.")
@click.option("--name", default="mpinewton", callback=word, show_default=True, help="Name of the job.")
@click.option("--nodes", callback=matching(r"\d+(-\d+)?", "a number or a range, as 2 or 2-4"), help="Number of nodes.")
@click.option("--mem", callback=matching(r"\d+[KMGT]?", "a size, as 4000M or 16G"), help="Memory per node.")
@click.option("--partition", callback=word, help="Partition of the cluster.")
@click.option("--qos", callback=word, help="Quality of service.")
@click.option("--account", callback=word, help="Account to charge.")
@click.option("--module", "modules", multiple=True, help="Module to load before the run; may be repeated.")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="run METHOD DATA ...")
def command(
    ntasks: int, cpus_per_task: int, limit: str, notice: int, mpi: str, name: str, modules: tuple[str, ...],
    arguments: tuple[str, ...], **more: str | None,
) -> None:  # fmt: skip
    """Print a job script for `mpinewton run METHOD DATA ...` or `mpinewton compare FILE -o DIR`, to read and submit.

    The arguments are checked now, not when the job starts. For `compare` the job is an array, one task for each run.

    mpinewton slurm --ntasks 33 run dino shards/a9a --tol 1e-8 -o runs/a9a > a9a.sbatch
    """
    if seconds(limit) <= notice:
        raise ConfigError(f"--time {limit} is {seconds(limit)} s: it must be longer than --notice {notice}")
    nodes = [int(number) for number in (more["nodes"] or "0").split("-")]
    if nodes != sorted(nodes):
        raise ConfigError(f"--nodes {more['nodes']}: the first number is larger than the second")
    if arguments[0] not in ("run", "compare"):
        raise ConfigError(
            f"slurm prints job scripts for `run` and `compare`, not for {arguments[0]!r}; "
            "expected mpinewton slurm run METHOD DATA"
        )
    cells = check_run(arguments, ntasks) if arguments[0] == "run" else check_compare(arguments)
    chosen = "".join(f"#SBATCH --{key}={value}\n" for key, value in more.items() if value is not None)
    text = shlex.join(arguments)
    array = ARRAY.format(cells=cells, command=text) if cells else ""
    script = SCRIPT.format(
        name=name, ntasks=ntasks, workers=ntasks - 1, cpus=cpus_per_task, time=limit, notice=notice, mpi=mpi,
        more=chosen + array, modules="".join(f"module load {shlex.quote(module)}\n" for module in modules),
        log="%x-%A_%a.log" if cells else "%x-%j.log",
        command=text + (' --cell "$SLURM_ARRAY_TASK_ID"' if cells else ""),
    )  # fmt: skip
    click.echo(script, nl=False)


def seconds(limit: str) -> int:
    """Seconds of a time limit of SLURM. Raises ConfigError."""
    found = TIMES.fullmatch(limit)
    if found is None:
        raise ConfigError(f"--time {limit!r}: expected a time limit of SLURM: {TIME_FORMS}")
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    return sum(units[name[0]] * int(value) for name, value in found.groupdict().items() if value)


def check_run(arguments: tuple[str, ...], ntasks: int) -> int:
    """Validate the arguments of `run`. Returns 0: the job is no array. Raises ConfigError."""
    from mpinewton.cli import run

    options = parse(run.command, arguments)
    for about_output in ("output", "as_json"):  # do not change the run
        options.pop(about_output)
    refuse_options(options)
    options.pop("on_failure")
    job, manifest = run.parse_job(**options)
    if ntasks - 1 > manifest.workers:
        raise ConfigError(
            f"--ntasks {ntasks} is a driver and {ntasks - 1} worker ranks, but {job.data} has {manifest.workers} "
            f"workers: give at most {manifest.workers + 1}, or pack the data for more workers"
        )
    return 0


def check_compare(arguments: tuple[str, ...]) -> int:
    """Validate the arguments of `compare`. Returns its number of runs. Raises ConfigError."""
    from mpinewton.cli import compare
    from mpinewton.experiments.grid import cells, read_experiment

    options = parse(compare.command, arguments)
    refuse_options(options)
    if options["cell"] is not None:
        raise ConfigError("--cell is set by the job script: leave it out")
    return len(cells(read_experiment(options["experiment"], options["bits"]), options["output"], options["only"]))


def parse(inner: click.Command, arguments: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of `run` or `compare` with these arguments. Raises ConfigError, click.UsageError."""
    name, *rest = arguments
    try:
        return inner.make_context(f"mpinewton {name}", rest).params
    except click.NoSuchOption as error:
        if not any(error.option_name in option.opts for option in command.params):
            raise
        raise ConfigError(f"{error.option_name} is an option of slurm: give it before `{name}`") from None


def refuse_options(options: dict[str, Any]) -> None:
    """Take out the options of a command that have no place in a job script. Raises ConfigError if one is given."""
    if options.pop("fresh"):
        raise ConfigError("--fresh would move the run aside each time the job is requeued: move the folder yourself")
    if options.pop("nproc"):
        raise ConfigError("--nproc starts mpiexec on one machine; under SLURM srun starts the ranks: give --ntasks")
