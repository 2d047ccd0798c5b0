"""Job scripts of `mpinewton slurm` on a real SLURM: a cluster of four virtual nodes on this machine.

All jobs are submitted at the start and run side by side.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm
from launch import rows_of

from mpinewton.cli import run_command_line
from mpinewton.cli.slurm import seconds
from mpinewton.data.manifest import read_manifest
from mpinewton.data.pack import pack
from mpinewton.fleet.transport.session import LocalSession

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "SLURM is here")]

# Each of the six workers sleeps so many seconds in an iteration; there are about 25.
SLOW = "run ranl data --l2 0.1 --tol 1e-300 --checkpoint-seconds 0 --set policy=full --set slowdown={} -o {}"
PACK = """#!/bin/bash
#SBATCH --array=1-3
#SBATCH --output=pack-%a.log
mpinewton pack 'synthetic:logistic?rows=20000&features=30' -o packed --workers 4
"""


def command(words: str) -> str:
    """Run a command in this process; returns its output."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run_command_line(LocalSession(), words.split()) == 0, out.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def cluster() -> Iterator[slurm.Cluster]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, slurm.Cluster(Path(folder) / "c", nodes=4) as cluster:
        os.chdir(folder)
        try:
            pack("synthetic:logistic?rows=40&features=3", Path("data"), 6)
            Path("x.toml").write_text(slurm.EXPERIMENT)
            yield cluster
        finally:
            os.chdir(before)


def submitted(cluster: slurm.Cluster) -> dict[str, str]:
    """Numbers of the jobs. Those of `SLOW` have begun, and what disturbs them has happened or comes within a minute."""
    job, slow = "slurm --time 30 --notice 110 --ntasks", ("chain", "limit", "fails")
    scripts = {
        "chain": command(f"{job} 4 {SLOW.format(1, 'chain')}"),
        "limit": command(f"{job} 4 {SLOW.format(3, 'limit')}").replace("#SBATCH --signal", "# "),
        "fails": command(f"{job} 4 --nodes 2 {SLOW.format(0.5, 'fails')}"),
        "whole": command(f"{job} 2 run lbfgs data -o whole"),
        "array": command(f"{job} 2 compare x.toml -o array"),
        "pack": PACK,
    }
    where = dict.fromkeys(slow, "--nodelist=n4") | {"fails": "--exclude=n4"}
    numbers = {name: cluster.submit(scripts[name], Path.cwd(), where.get(name, "--nice=0")) for name in scripts}
    cluster.until(lambda: all(rows_of(Path(name)) > 3 for name in slow), 600)
    for name, more in (("chain", 2), ("limit", 1)):
        hours, minutes, _ = map(int, cluster.job(numbers[name])["RunTime"].split(":"))
        cluster("scontrol", "update", f"JobId={numbers[name]}", f"TimeLimit={60 * hours + minutes + more}")
    node = cluster.job(numbers["fails"])["BatchHost"]
    cluster.kill(node)
    cluster("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")  # it would notice after a while
    cluster.until(lambda: cluster.job(numbers["chain"])["Restarts"] == "1", 300)
    cluster("scontrol", "update", f"JobId={numbers['chain']}", "TimeLimit=30")
    return numbers


def log_of(number: str) -> str:
    return Path(f"mpinewton-{number}.log").read_text()


def digests(out: str) -> list[str]:
    result = json.loads(Path(out, "result.json").read_text())
    return [result["history_sha256"], result["w_sha256"]]


def undisturbed(name: str, iterations: int = 1000) -> list[str]:
    """Digests of the same run without SLURM, and with workers that do not sleep."""
    command(f"{SLOW.format(0, name)} --max-iterations {iterations}")
    return digests(name)


def check_whole(cluster: slurm.Cluster, number: str) -> None:
    """A job ends with the digests of a local run."""
    ended = cluster.wait(number)
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), ended
    command("run lbfgs data -o here")
    assert digests("whole") == digests("here")


def check_array(cluster: slurm.Cluster, number: str) -> None:
    """Tasks of an array share the data, and the same command merges them."""
    assert ended(cluster, number) == {"COMPLETED"}
    logs = [path.read_text() for path in Path().glob(f"mpinewton-{number}_*.log")]
    assert len(logs) == 3 and sum("packing rows" in log.splitlines() for log in logs) == 1
    assert not Path("array/tables.md").exists()
    for out in ("array", "alone"):
        command(f"compare x.toml -o {out}")
    assert Path("array/tables.md").exists()
    runs = sorted(str(path.parent.relative_to("alone")) for path in Path("alone").glob("*/*/*/result.json"))
    assert len(runs) == 3 and all(digests(f"array/{run}") == digests(f"alone/{run}") for run in runs)


def check_pack(cluster: slurm.Cluster, number: str) -> None:
    """Tasks that pack the same data wait for one another."""
    assert ended(cluster, number) == {"COMPLETED"}
    logs = [Path(f"pack-{task}.log").read_text() for task in (1, 2, 3)]
    assert sum("packed before" in log for log in logs) == 2, logs
    assert read_manifest("packed").rows == 20000


def ended(cluster: slurm.Cluster, array: str) -> set[str]:
    """How the tasks of an array ended."""
    return {cluster.wait(f"{array}_{task}")["JobState"] for task in (1, 2, 3)}


def check_fails(cluster: slurm.Cluster, number: str) -> None:
    """A job whose node fails is queued again, and resumes."""
    found = cluster.wait(number)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "1"), log_of(number)
    assert "resuming from the checkpoint" in log_of(number)
    assert digests("fails") == undisturbed("fails-not")


def check_chain(cluster: slurm.Cluster, number: str) -> None:
    """A job that is signalled before its limit is queued again until it has finished."""
    found = cluster.wait(number)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "1"), log_of(number)
    assert "SIGUSR1" in log_of(number) and "resuming from the checkpoint" in log_of(number)
    assert digests("chain") == undisturbed("chain-not")


def check_limit(cluster: slurm.Cluster, number: str) -> None:
    """A job that reaches its limit without a signal leaves a checkpoint: SLURM sends SIGTERM, later SIGKILL."""
    assert cluster.wait(number)["JobState"] == "TIMEOUT"
    assert json.loads(Path("limit/result.json").read_text())["kind"] == "interrupted", log_of(number)
    done = rows_of(Path("limit")) - 1  # one iteration more
    command(f"{SLOW.format(3, 'limit')} --max-iterations {done}")
    assert "resuming from the checkpoint" in Path("limit/log.txt").read_text()
    assert digests("limit") == undisturbed("limit-not", done)


def test_jobs_that_are_disturbed_end_with_the_digests_of_local_runs(cluster: slurm.Cluster) -> None:
    """One test, since tests may run in several processes, and the jobs take two minutes together."""
    jobs = submitted(cluster)
    checks = (check_whole, check_array, check_pack, check_fails, check_chain, check_limit)
    for check in checks:
        check(cluster, jobs[check.__name__.removeprefix("check_")])


OPTIONS: list[tuple[str, dict[str, str]]] = [
    ("--time 90", {"TimeLimit": "01:30:00"}),
    ("--time 4:00:00", {"TimeLimit": "04:00:00"}),
    ("--time 1-1", {"TimeLimit": "1-01:00:00"}),
    ("--time 2-3:30", {"TimeLimit": "2-03:30:00"}),
    ("--time 1-1:2:59", {"TimeLimit": "1-01:03:00"}),  # in whole minutes
    ("--ntasks 3 --cpus-per-task 2 --nodes 2-4", {"NumTasks": "3", "CPUs/Task": "2"}),
    ("--nodes 2 --mem 400M --name a.b", {"NumNodes": "2-2", "MinMemoryNode": "400M", "JobName": "a.b"}),
    ("--mem 2G --account a --qos long --partition main", {"MinMemoryNode": "2G", "Account": "a", "Partition": "main"}),
    ("--notice 65535 --time 2-0 --module no-such-module", {"Requeue": "1"}),
]


@pytest.mark.parametrize(("options", "expected"), OPTIONS, ids=[options for options, _ in OPTIONS])
def test_sbatch_reads_what_is_printed(options: str, expected: dict[str, str], cluster: slurm.Cluster) -> None:
    script = command(f"slurm --ntasks 2 {options} run newton data")
    number = cluster.submit(script, Path.cwd(), "--hold")
    found: dict[str, Any] = cluster.job(number)
    cluster("scancel", number)
    assert {name: found[name] for name in expected} == expected
    if "TimeLimit" in expected:
        days, _, rest = found["TimeLimit"].rpartition("-")
        assert 0 <= seconds(f"{days or 0}-{rest}") - seconds(options.split()[1]) < 60


@pytest.mark.parametrize("option", ["--time=4h", "--time=1:2:3:4", "--mem=4X", "--nodes=two", "--nodes=3-2",
                                    "--signal=USR1@65536"])  # fmt: skip
def test_sbatch_refuses_what_is_refused(option: str, cluster: slurm.Cluster) -> None:
    with pytest.raises(RuntimeError, match="sbatch: error"):
        cluster.submit(f"#!/bin/bash\n#SBATCH --ntasks=9\n#SBATCH {option}\n", Path.cwd(), "--hold")
    ours = option.replace("signal=USR1@", "notice=")
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert run_command_line(LocalSession(), ["slurm", "--time=2-0", ours, "run", "newton", "data"]) == 2
    assert ours.split("=")[1] in said.getvalue()
