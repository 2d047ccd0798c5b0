"""`mpinewton slurm`."""

from __future__ import annotations

import shlex

import click

from mpinewton.errors import ConfigError

SCRIPT = """\
#!/bin/bash
# A run that outlives its time limit: submit it once with `sbatch`, it queues itself until it is done.
# Read it, change what your site wants otherwise, keep the order of the parts.

#SBATCH --job-name={name}
#SBATCH --ntasks={ntasks}  # a driver and {workers} ranks of workers; any number gives the same bits
#SBATCH --cpus-per-task={cpus}  # threads of the linear algebra in each rank
#SBATCH --time={time}
#SBATCH --signal=USR1@{notice}  # so many seconds before the end every rank is told to stop after this iteration
#SBATCH --requeue  # allows the job to go back into the queue, here and after a node has failed
#SBATCH --open-mode=append  # the log goes on, too
#SBATCH --output=%x-%j.log
{more}
set -u

# --mpi=pmi2 for MPICH, which `pip install mpinewton[mpich]` brings; --mpi=pmix for most sites' Open MPI. If they do not
# fit, mpinewton says so and stops, and `srun --mpi=... mpinewton doctor` shows what there is.
# The same command starts the run and goes on with it.
srun --mpi={mpi} mpinewton run {arguments}
code=$?

# 3: stopped by the signal, with a checkpoint. Everything else is final: 0 finished, 1 failed, 2 bad settings or data.
if [ "$code" -eq 3 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


@click.command("slurm", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--ntasks", type=click.IntRange(2), default=9, show_default=True, help="Ranks: a driver and its workers'."
)
@click.option("--cpus-per-task", type=click.IntRange(1), default=1, show_default=True, help="Threads of a rank.")
@click.option("--time", "limit", default="04:00:00", show_default=True, help="Limit; the job then queues again.")
@click.option("--notice", type=click.IntRange(1), default=300, show_default=True, help="Seconds to end in before it.")
@click.option("--mpi", type=click.Choice(["pmi2", "pmix"]), default="pmi2", show_default=True)
@click.option("--name", default="mpinewton", show_default=True, help="Name of the job.")
@click.option("--partition")
@click.option("--account")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="run METHOD DATA ...")
def command(
    ntasks: int, cpus_per_task: int, limit: str, notice: int, mpi: str, name: str,
    partition: str | None, account: str | None, arguments: tuple[str, ...],
) -> None:  # fmt: skip
    """Print a job script for `mpinewton run METHOD DATA ...`, to read, to edit and to submit.

    The arguments are those of `run`, checked now: what would be refused is refused before it has waited in a queue.

    mpinewton slurm --ntasks 33 run dino shards/a9a --tol 1e-8 -o runs/a9a > a9a.sbatch
    """
    from mpinewton.cli import run

    if arguments[0] != "run":
        raise ConfigError(
            f"slurm prints job scripts for `run`, not for {arguments[0]!r}: mpinewton slurm run METHOD ..."
        )
    options = run.command.make_context("run", list(arguments[1:])).params
    for about_output in ("output", "as_json"):  # no matter of what is run
        options.pop(about_output)
    if options.pop("fresh"):
        raise ConfigError(
            "--fresh would move the run aside each time that the job queues again: move the folder yourself"
        )
    if options.pop("nproc"):
        raise ConfigError("--nproc starts mpiexec on one machine; under SLURM srun starts the ranks: give --ntasks")
    job, manifest = run.asked_for(**options)
    if ntasks - 1 > manifest.workers:
        raise ConfigError(
            f"--ntasks {ntasks} is a driver and {ntasks - 1} ranks, but {job.data} holds {manifest.workers} workers: "
            f"at most {manifest.workers + 1}, or pack the data for more workers"
        )
    more = [f"#SBATCH --{key}={value}\n" for key, value in (("partition", partition), ("account", account)) if value]
    text = SCRIPT.format(
        name=name, ntasks=ntasks, workers=ntasks - 1, cpus=cpus_per_task, time=limit, notice=notice, mpi=mpi,
        more="".join(more), arguments=shlex.join(arguments[1:]),
    )  # fmt: skip
    click.echo(text, nl=False)
