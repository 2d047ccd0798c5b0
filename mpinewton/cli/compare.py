"""mpinewton compare: a grid of runs and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session


HELP = """
Run every method of EXPERIMENT.toml on every objective and data set, and draw them.

Each run is an ordinary run folder, DIR/<data>/<objective>/<label>. Finished ones are not run again, unfinished ones
go on; a failing one does not stop the others. Then DIR has a figure for each problem, tables.md and report.html.

\b
  title = "Digits"
  seeds = [0, 1]                     # [0] if left out
  quantity = "test_accuracy"         # of the figures; test_loss, gap, loss, grad_norm; found by itself if left out
  measure_every = 10                 # what no method needs, the loss of minibatch methods above all; 1 if left out
  axes = ["rounds", "bits"]          # and "seconds", if left out
\b
  [[data]]                           # packed once, into DIR/data/digits
  name = "digits"
  source = "sklearn:digits"          # as for `pack`; or folder = "shards", packed before
  workers = 4                        # and partition, sample, seed, scale, dtype, storage, rows, features, format, ...
  test = "digits-test.csv"           # records accuracy and loss there
\b
  [[objective]]
  loss = "softmax"
  name = "softmax"                   # in headings and file names; the loss if left out
  l2 = [1e-3, 1e-5]                  # one number or several; 1/rows if left out
  intercept = true
  start = "zero"
  data = ["digits"]                  # all if left out
\b
  [[method]]
  method = "dino"
  label = "DINO"
  settings = { solver = ["lsmr", "lanczos"], theta = 1e-4 }     # a list: one run for every value
\b
  [[claim]]                          # put to the runs: holds, does not hold
  says = "DINO needs half the rounds of L-BFGS"
  better = "DINO"                    # labels; or reaches = ..., monotone = ..., fails = ...
  than = "lbfgs"
  by = 2
  opposite = false                   # true: the claim is that it is not so
  measure = "rounds"                 # or iterations, bits_up, floats_up, seconds, ...
  gap = 1e-6                         # the target; or loss, grad_norm, test_accuracy, test_loss
  on = ["digits/*"]                  # problems it is about; a [[method]] may have this, too
\b
  [stop]                             # the stops of `run`, for every run
  gap = 1e-8
  reference = "auto"
  max_rounds = 500

Paths are relative to the file, and $NAME in them is an environment variable.

Exit codes: 0 every run finished or used up its budget; 1 some failed; 2 bad settings or data, no run was started;
3 stopped by a signal: run the same command again.
"""  # fmt: skip


@click.command("compare", help=HELP)
@click.argument("experiment", type=click.Path(path_type=Path), metavar="EXPERIMENT.toml")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where all goes.")
@click.option(
    "--nproc", type=click.IntRange(1), metavar="W", help="Start mpiexec with a driver and W ranks of workers, once."
)
@click.option("--only", default="", metavar="PATTERN", help="Only the runs whose name fits, as 'a9a/*/DINO*'.")
@click.option(
    "--page", type=click.Path(path_type=Path), metavar="FILE.md", help="Write figures, tables and claims up there, too."
)
@click.option("--fresh", is_flag=True, help="Move older runs aside and begin anew.")
@click.pass_obj
def command(
    session: Session,
    /,
    experiment: Path,
    output: Path,
    nproc: int | None,
    only: str,
    page: Path | None,
    fresh: bool,
) -> int:
    from mpinewton.experiments.grid import cells, read_experiment

    read = read_experiment(experiment)
    cells(read, output, only)
    if nproc is not None:
        from mpinewton.cli.run import launched

        return launched(session, nproc)
    from mpinewton.experiments.compare import compare

    return compare(session, read, output, only, fresh, page)
