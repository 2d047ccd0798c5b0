"""`mpinewton compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpinewton.cli.run import bits_option, launch, log_to_stderr, memory_option
from mpinewton.errors import ConfigError

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session


@click.command("compare")
@click.argument("experiment", type=click.Path(path_type=Path), metavar="EXPERIMENT.toml")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Output folder.")
@click.option("--nproc", type=click.IntRange(1), metavar="W", help="Start mpiexec with a driver and W worker ranks.")
@click.option("--only", default="", metavar="PATTERN", help="Only the runs whose names match, such as 'a9a/*/DINO*'.")
@click.option("--cell", type=click.IntRange(1), metavar="K", help="Run only the K-th run, and write no report.")
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    metavar="FILE.md",
    help="Also write figures, tables and claims to this file.",
)
@bits_option
@memory_option
@click.option("--fresh", is_flag=True, help="Move older runs aside and start again.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; the log goes to standard error.")
@click.pass_obj
def command(
    session: Session,
    /,
    experiment: Path,
    output: Path,
    nproc: int | None,
    only: str,
    cell: int | None,
    page: Path | None,
    bits: str | None,
    memory: str | None,
    fresh: bool,
    as_json: bool,
) -> int:
    """Run every method of EXPERIMENT.toml on every objective and data set, and write figures and tables.

    Each run has a run folder, DIR/<data>/<objective>/<label>. Finished runs are not repeated, unfinished runs are
    resumed. If a run fails, the others continue. Several processes, also on several hosts, may execute the same command
    and share the runs. At the end DIR contains a figure for each problem, the tables as tables.md and tables.tex
    (LaTeX, booktabs), a row for each run in runs.csv, and report.html.

    \b
      title = "Digits"
      seeds = [0, 1, 2]                  # median and range are shown; default: [0]
      quantity = "test_accuracy"         # or test_loss, gap, loss, grad_norm; default: depends on the runs
      measure_every = 10                 # iterations between measurements that the method does not need; default: 1
      axes = ["rounds", "bits"]          # default: these and "seconds"
      bits = "portable"                  # the same bits on every x86-64 processor with AVX2; default: "fast"
    \b
      [[data]]                           # packed once, into DIR/data/digits
      name = "digits"
      source = "sklearn:digits"          # as for `pack`; or folder = "shards" for packed data
      workers = 4                        # also partition, sample, seed, scale, dtype, storage, rows, format, ...
      test = "digits-test.csv"           # test data: accuracy and loss on them are recorded
    \b
      [[objective]]
      loss = "softmax"
      name = "softmax"                   # in headings and file names; default: the loss
      l2 = [1e-3, 1e-5]                  # a number or a list; default: 1/rows
      intercept = true
      start = "zero"
      data = ["digits"]                  # default: all
    \b
      [[method]]
      method = "dino"
      label = "DINO"
      settings = { solver = ["lsmr", "lanczos"], theta = 1e-4 }     # a list: one run for each value
    \b
      [[claim]]                          # tested on the runs
      says = "DINO needs half the rounds of L-BFGS"
      better = "DINO"                    # labels; or reaches = ..., monotone = ..., fails = ...
      than = "lbfgs"
      by = 2
      opposite = false                   # true: claim the opposite
      measure = "rounds"                 # or iterations, bits_up, floats_up, seconds, ...
      gap = 1e-6                         # the target; or loss, grad_norm, test_accuracy, test_loss
      on = ["digits/*"]                  # problems; also for [[method]]; default: all
    \b
      [stop]                             # stopping rules of `run`
      gap = 1e-8
      reference = "auto"
      max_rounds = 500

    Paths are relative to the file; $NAME in a path is an environment variable.

    Exit codes: 0 all runs finished; 1 some failed; 2 invalid settings or data, no run was started; 3 stopped by a
    signal: run the same command again.
    """
    if nproc is not None:
        return launch(session, nproc)
    from mpinewton.experiments.grid import cells, read_experiment

    read = read_experiment(experiment, bits)
    count = len(cells(read, output, only))
    if cell is not None and cell > count:
        raise ConfigError(f"--cell {cell}: there are {count} runs")
    if as_json:
        log_to_stderr()
    from mpinewton.experiments.compare import compare
    from mpinewton.experiments.contents import document, read_page

    code = compare(session, read, output, only, fresh, page, cell, memory)
    if as_json:
        click.echo(json.dumps({"exit_code": code, **document(read_page(output))}, indent=2))
    return code
