"""`mpinewton slurm`."""

from __future__ import annotations

import shlex

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
#SBATCH --output=%x-%j.log
{more}
set -u

# --mpi=pmi2 is for MPICH, as installed by `pip install mpinewton[mpich]`; --mpi=pmix for Open MPI at most sites. If it
# does not match, mpinewton stops with an error; `srun --mpi=... mpinewton doctor` shows more.
# The same command starts and resumes the run.
srun --mpi={mpi} mpinewton run {arguments}
code=$?

# 3: stopped by the signal, with a checkpoint. Otherwise it is final: 0 finished, 1 failed, 2 invalid settings or data.
if [ "$code" -eq 3 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


@click.command("slurm", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--ntasks", type=click.IntRange(2), default=9, show_default=True, help="Ranks: a driver and worker ranks."
)
@click.option("--cpus-per-task", type=click.IntRange(1), default=1, show_default=True, help="Threads per rank.")
@click.option("--time", "limit", default="04:00:00", show_default=True, help="Time limit; the job is then requeued.")
@click.option("--notice", type=click.IntRange(1), default=300, show_default=True, help="Seconds from signal to limit.")
@click.option("--mpi", type=click.Choice(["pmi2", "pmix"]), default="pmi2", show_default=True, help="Plugin of srun.")
@click.option("--name", default="mpinewton", show_default=True, help="Name of the job.")
@click.option("--partition", help="Partition of the cluster.")
@click.option("--account", help="Account to charge.")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="run METHOD DATA ...")
def command(
    ntasks: int, cpus_per_task: int, limit: str, notice: int, mpi: str, name: str,
    partition: str | None, account: str | None, arguments: tuple[str, ...],
) -> None:  # fmt: skip
    """Print a job script for `mpinewton run METHOD DATA ...`, to read, edit and submit.

    The arguments of `run` are validated now, before the job waits in a queue.

    mpinewton slurm --ntasks 33 run dino shards/a9a --tol 1e-8 -o runs/a9a > a9a.sbatch
    """
    from mpinewton.cli import run

    if arguments[0] != "run":
        raise ConfigError(
            f"slurm prints job scripts for `run`, not for {arguments[0]!r}: mpinewton slurm run METHOD DATA"
        )
    options = run.command.make_context("run", list(arguments[1:])).params
    for about_output in ("output", "as_json"):  # do not change the run
        options.pop(about_output)
    if options.pop("fresh"):
        raise ConfigError("--fresh would move the run aside each time the job is requeued: move the folder yourself")
    if options.pop("nproc"):
        raise ConfigError("--nproc starts mpiexec on one machine; under SLURM srun starts the ranks: give --ntasks")
    job, manifest = run.parse_job(**options)
    if ntasks - 1 > manifest.workers:
        raise ConfigError(
            f"--ntasks {ntasks} is a driver and {ntasks - 1} worker ranks, but {job.data} has {manifest.workers} "
            f"workers: give at most {manifest.workers + 1}, or pack the data for more workers"
        )
    more = [f"#SBATCH --{key}={value}\n" for key, value in (("partition", partition), ("account", account)) if value]
    text = SCRIPT.format(
        name=name, ntasks=ntasks, workers=ntasks - 1, cpus=cpus_per_task, time=limit, notice=notice, mpi=mpi,
        more="".join(more), arguments=shlex.join(arguments[1:]),
    )  # fmt: skip
    click.echo(text, nl=False)
