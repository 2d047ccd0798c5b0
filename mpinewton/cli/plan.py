"""`mpinewton plan`."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpinewton.cli.reading import NETWORK_FORMS
from mpinewton.errors import ConfigError

if TYPE_CHECKING:
    from mpinewton.experiments.plan import Estimate


@click.command("plan")
@click.argument("data", type=click.Path(), metavar="DATA")
@click.option(
    "--network",
    "name",
    required=True,
    metavar="NETWORK",
    help=f"{NETWORK_FORMS}.",
)
@click.option("--methods", metavar="A,B,...", help="Methods to try.  [default: eight that are often the fastest]")
@click.option("--loss", help="Loss, as for `mpinewton run`.")
@click.option("--l2", type=float, help="l2 regularisation.  [default: 1/rows]")
@click.option("--intercept", is_flag=True, help="Add an intercept, which is not regularised.")
@click.option("--rtol", type=float, default=1e-6, show_default=True, help="Goal: gradient norm relative to the first.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="Maximum time of each method here.")
@click.option("--ranks", type=click.IntRange(1), help="Worker ranks on NETWORK.  [default: one for each worker]")
@click.option("--ranks-per-node", type=click.IntRange(1), default=1, show_default=True, help="Ranks on a node.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Keep the runs in this folder.")
@click.option("--nproc", type=click.IntRange(1), metavar="W", help="Start mpiexec with a driver and W worker ranks.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the log goes to standard error.")
@click.pass_obj
def command(
    session: Any,
    /,
    data: str,
    name: str,
    methods: str | None,
    rtol: float,
    seconds: float,
    ranks: int | None,
    ranks_per_node: int,
    output: Path | None,
    nproc: int | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Estimate what training on DATA would take on NETWORK, by several methods, before you book nodes.

    Every method runs here for some seconds, and its ledger is replayed on NETWORK; see `mpinewton replay --help`. A run
    that does not reach the goal is extrapolated from the decrease of |g| in its last half and in its last quarter; the
    two results are a range. Bits are those sent by the busiest worker; memory is for the rows and matrices of a rank.

    \b
      mpinewton plan shards --network ethernet --ranks 64
    """
    from mpinewton.cli.run import launch, log_to_stderr

    if nproc is not None:
        return launch(session, nproc)
    import tempfile

    import msgspec

    from mpinewton.experiments.plan import CANDIDATES, probe
    from mpinewton.report.network import read_network

    network = read_network(name, ranks)
    if not seconds > 0 or not 0 < rtol < 1:
        raise ConfigError(f"--seconds {seconds:g}, --rtol {rtol:g}: expected seconds above 0 and rtol between 0 and 1")
    named = tuple(filter(None, map(str.strip, methods.split(",")))) if methods else CANDIDATES
    if as_json:
        log_to_stderr()
    given = {"data": data, "rtol": rtol, **{key: value for key, value in options.items() if value is not None}}
    with tempfile.TemporaryDirectory(prefix="mpinewton-plan-") as scratch:
        found = probe(session, given, named, network, seconds, output or Path(scratch))
    workers = network.ranks or found[0].workers
    nodes = -(-(workers + 1) // ranks_per_node)
    if as_json:
        facts = [msgspec.to_builtins(e) | {"node_hours": [nodes * s / 3600 for s in e.seconds]} for e in found]
        click.echo(json.dumps(facts, indent=2, default=str))
    else:
        click.echo(_table(found, nodes))
        click.echo(f"\n{_advice(found, name, workers, rtol)}")
    return 0 if isfinite(found[0].seconds[0]) else 1


def _table(found: list[Estimate], nodes: int) -> str:
    from mpinewton.report.tables import Table

    header = ("method", "iterations", "seconds", "messages", "Mbit up", "GB a rank", "node-hours")
    return Table(header, [_row(e, nodes) for e in found]).text()


def _row(e: Estimate, nodes: int) -> tuple[str, ...]:
    name = e.method + (f" ({e.chosen})" if e.chosen not in ("", e.method) else "")
    if e.reason:
        return (name, *"------")
    low, high = (seconds * nodes / 3600 for seconds in e.seconds)
    return (
        name, _range(e.iterations, ".0f"), _range(e.seconds, ".3g"), f"{e.communication:.0%}", f"{e.bits / 1e6:.3g}",
        f"{e.memory / 1e9:.2g}", _range((low, high), ".2g"),
    )  # fmt: skip


def _range(ends: tuple[float, float], form: str) -> str:
    low, high = (format(end, form) for end in ends)
    return low if low == high else f"{low} to {high}"


def _advice(found: list[Estimate], name: str, workers: int, rtol: float) -> str:
    """Which method to take, and why others are left out."""
    best, *others = found
    goal = f"to |g| <= {rtol:g} |g_0| on {name} with {workers} worker ranks"
    lines = []
    if best.reason:
        lines.append(f"None of these methods has an estimate {goal}.")
    else:
        lines.append(f"{best.method} is fastest: {_range(best.seconds, '.3g')} s {goal}.")
        rivals = [e.method for e in others if e.seconds[0] <= best.seconds[1]]
        if rivals:
            lines.append(f"Within its uncertainty: {', '.join(rivals)}.")
    lines += [f"{e.method}: {e.reason}" for e in found if e.reason]
    return "\n".join(lines)
