"""`mpinewton replay`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mpinewton.cli.reading import NETWORK_FORMS
from mpinewton.errors import ConfigError

PARTS = ("latency", "bandwidth", "compute", "driver")


@click.command("replay")
@click.argument("paths", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--network",
    "names",
    multiple=True,
    required=True,
    metavar="NETWORK",
    help=f"{NETWORK_FORMS}. Repeatable.",
)
@click.option("--ranks", type=click.IntRange(1), help="Worker ranks on NETWORK.  [default: one for each worker]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.csv", help="Write the seconds of every iterate."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    paths: tuple[Path, ...], names: tuple[str, ...], ranks: int | None, output: Path | None, as_json: bool
) -> None:
    """Compute what recorded runs would have taken on other networks, from their ledgers.

    RUN is a run folder, or a folder that contains some. Every message of the run is replayed on a model of the network:
    it takes the latency, and its bits divided by the bandwidth, on every link along the tree of ranks. Computation
    takes its recorded time, divided over the ranks. Iterates, rounds and bits are the recorded ones. More ranks than
    workers are replayed as a run with one worker for each rank, if that does not change the iterates.

    \b
      mpinewton replay runs/dino runs/lbfgs --network ethernet --network continents
      mpinewton plot runs/dino runs/lbfgs --axes rounds,seconds:continents

    \b
    Your own network is a file. Only the first two fields are required; `like = NAME` takes the others from NAME:
      latency = 2e-5        # seconds from one rank to another
      bandwidth = 1e10      # bits per second of a link
      message = 5e-6        # seconds of processor time a message, at each end
      handshake = 65536     # longer messages (bytes) wait for the receiver: two latencies more
      fan = 16              # the most ranks that a rank sends to; 1000000: all from the driver
      ranks = 64            # worker ranks; default: one for each worker
      speed = 1.0           # of computation, relative to the machine of the run
      slowest = 0.5         # speed of the slowest rank, relative to the others
    """
    from mpinewton.report.network import read_network
    from mpinewton.report.reading import read_runs
    from mpinewton.report.replay import replay
    from mpinewton.report.tables import Table

    networks = {name: read_network(name, ranks) for name in names}
    pairs = [(run, name) for run in read_runs(paths) for name in networks]
    replays = [replay(run, networks[name]) for run, name in pairs]
    if output is not None:
        try:
            with output.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("run", "network", "iteration", "seconds", "loss", "gap"))
                for (run, name), found in zip(pairs, replays):
                    iterates = zip(run.columns["iteration"], found.seconds, run.columns["loss"], run.columns["gap"])
                    writer.writerows((run.label, name, int(k), *map(_cell, numbers)) for k, *numbers in iterates)
        except OSError as error:
            raise ConfigError(f"{output} cannot be written: {error.strerror}; give another -o FILE") from error
    facts = [
        {"run": run.label, "network": name, "iterations": int(run.last("iteration")), "here": run.last("seconds")}
        | {part: float(getattr(found, part)[-1]) for part in ("seconds", *PARTS)}
        for (run, name), found in zip(pairs, replays)
    ]
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    header = ("run", "network", "iterations", "seconds here", "seconds there", *(f"of it {part}" for part in PARTS))
    rows = [(*map(str, list(fact.values())[:3]), *_seconds(fact)) for fact in facts]
    click.echo(Table(header, rows, 2).text())


def _seconds(fact: dict[str, Any]) -> Iterator[str]:
    yield from (f"{fact[name]:.3g}" for name in ("here", "seconds"))
    yield from (f"{fact[part] / (fact['seconds'] or 1.0):.0%}" for part in PARTS)


def _cell(value: float) -> str:
    return "" if value != value else repr(float(value))  # NaN: not known
