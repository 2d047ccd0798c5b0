"""Recorded runs on other networks: closed forms, and what a ledger of a run gives."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from mpinewton.cli.replay import command
from mpinewton.cli.run import parse_network
from mpinewton.errors import ConfigError, DataError
from mpinewton.report.figures import draw
from mpinewton.report.network import HEAD, NETWORKS, Network, Tree, read_network
from mpinewton.report.reading import read_run
from mpinewton.report.replay import replay

SLOW = Network(latency=0.05, bandwidth=1e8, message=1e-4)
ETHERNET = Network(latency=3e-5, bandwidth=1e10)


def test_up_to_the_fan_a_message_takes_one_latency_and_its_turn() -> None:
    for ranks in (1, 5, 16):
        tree = Tree(SLOW, ranks)
        short, end = 1e-4 + 8 * 200 / 1e8, 1e-4 + 8 * 1000 / 1e8
        assert tree.down(1000) == pytest.approx(0.05 + ranks * end, rel=1e-12)
        # The first answer comes while others receive the order: the longer of the two messages takes its turns.
        for direct in (False, True):
            assert tree.exchange(1000, 200, direct) == pytest.approx(0.1 + ranks * end + short, rel=1e-12)
            assert tree.exchange(200, 1000, direct) == pytest.approx(0.1 + short + ranks * end, rel=1e-12)


def test_the_depth_of_the_tree_grows_with_the_logarithm() -> None:
    far = Network(latency=1.0, bandwidth=np.inf)
    for ranks, depth in ((16, 1), (17, 2), (16 + 16**2, 2), (17 + 16**2, 3), (100_000, 5)):
        assert (Tree(far, ranks).down(10), Tree(far, ranks).exchange(10, 10)) == (depth, 2 * depth), ranks
        assert Tree(far, ranks).exchange(10, 10, direct=True) == depth + 1
    flat = msgspec.structs.replace(far, fan=1_000_000)
    assert Tree(flat, 100_000).exchange(10, 10) == 2.0
    chain = msgspec.structs.replace(far, fan=1)
    assert Tree(chain, 50).down(10) == 50.0


def test_a_rank_passes_on_what_it_has_and_the_last_branch_decides() -> None:
    # Ranks 1 and 3 hear the driver after 1 + 1 and 2 + 1 seconds; each sends to one more rank.
    two = Network(latency=1.0, bandwidth=8.0, fan=2)
    assert Tree(two, 4).down(1) == 2 + 1 + 1 + 1
    # Ranks 2 and 4 hear at 4 and 5; ranks 1 and 3 have their answers at 6 and 7, the driver at 8 and 9.
    assert Tree(two, 4).exchange(1, 1) == 9


def test_long_vectors_go_down_by_a_broadcast() -> None:
    size = 100_000.0
    end, head = 8 * size / 1e6, 8 * HEAD / 1e6
    slow = Network(latency=1.0, bandwidth=1e6)
    # Of 6 processes, 0 sends to 4, 2 and 1; 2 sends to 3, and 4 to 5: they have it at these times.
    times = sorted([1 + end, 1 + 2 * end, 1 + 3 * end, 2 + 2 * end, 2 + 3 * end])
    assert Tree(slow, 5).down(size) == pytest.approx(5 * head + times[-1])
    assert Tree(slow, 5).exchange(size, 0) == pytest.approx(5 * head + times[-1] + 1)
    assert Tree(slow, 5).exchange(size, 0, direct=True) == pytest.approx(5 * head + times[-1] + 1)
    # Of 12 processes, all have it after 4 steps of scattering and 4 of gathering, each of which takes it once in all.
    assert Tree(slow, 11).exchange(size, 0) == pytest.approx(11 * head + 8 + 2 * end + 1)


def test_long_messages_wait_for_the_receiver() -> None:
    asked = msgspec.structs.replace(SLOW, handshake=1000)
    assert Tree(asked, 3).exchange(8, 1000) == Tree(SLOW, 3).exchange(8, 1000)
    assert Tree(asked, 3).exchange(8, 1001) == pytest.approx(Tree(SLOW, 3).exchange(8, 1001) + 2 * 0.05)


def test_names_pairs_and_files(tmp_path: Path) -> None:
    assert read_network("ethernet") is NETWORKS["ethernet"]
    assert read_network("20ms, 100Mbit") == Network(latency=0.02, bandwidth=1e8)
    assert read_network("50us,10Gbit/s") == Network(latency=50e-6, bandwidth=1e10)
    (tmp_path / "n.toml").write_text('like = "ethernet"\nlatency = 0.001\nranks = 40\n')
    expected = msgspec.structs.replace(NETWORKS["ethernet"], latency=0.001, ranks=40)
    assert read_network(str(tmp_path / "n.toml")) == expected
    # `run --network` takes the same for auto.
    assert parse_network(str(tmp_path / "n.toml")) == {"latency": 0.001, "rate": 1e10}
    assert parse_network("20ms,100Mbit") == {"latency": 0.02, "rate": 1e8}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("latency = 1", "missing required field `bandwidth`"),
        ('like = "ethernett"', "did you mean 'ethernet'"),
        ("latency = 1\nbandwidth = 0", "bandwidth = 0.*above 0"),
        ("latency = -1\nbandwidth = 1", "latency = -1.*at least 0"),
        ("latency = 1\nbandwidth = 1\nrank = 3", "unknown field `rank`"),
        ("latency = 1\nbandwidth = 1\nranks = 0", "ranks = 0"),
        ("latency = nan\nbandwidth = 1", "latency = nan"),
        ("latency = ", "is not TOML"),
    ],
)
def test_wrong_descriptions_are_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "n.toml").write_text(content)
    with pytest.raises((ConfigError, DataError), match=words):
        read_network(str(tmp_path / "n.toml"))


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ethernet'"):
        read_network("etherent")
    with pytest.raises(DataError, match=r"nowhere.toml cannot be read"):
        read_network("nowhere.toml")


LEDGER = "round,iteration,direction,kind,task,workers,floats,indices,bits,bits_total,wire,control,seconds,compute"
LINES = [
    (0, 0, "down", "mean", "free", 4, 100, 0, 6400, 25600, 0, 0, 0.0, 0.0),  # a round that a paper does not count
    (1, 1, "down", "mean", "f", 4, 10, 0, 640, 2560, 0, 0, 0.0, 0.0),
    (2, 1, "up", "mean", "f", 4, 20, 0, 1280, 5120, 0, 0, 0.8, 0.4),
    (3, 1, "down", "send", "g", 4, 1, 0, 64, 256, 0, 0, 0.0, 0.0),
    (4, 2, "down", "mean", "f", 4, 10, 0, 640, 2560, 0, 0, 0.0, 0.0),
    (5, 2, "up", "mean", "f", 4, 20, 0, 1280, 5120, 0, 0, 0.8, 0.4),
    (6, 2, "up", "gather", "h", 4, 30, 0, 1920, 7680, 0, 0, 0.2, 0.1),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two iterations of four workers in one process, with 0.5 seconds of the driver in each."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "ledger.csv").write_text("\n".join([LEDGER, *(",".join(map(str, line)) for line in LINES)]) + "\n")
    (path / "history.csv").write_text(
        "iteration,rounds,floats_up,bits_up,seconds,loss,grad_norm\n0,0,0,0,0.0,3,1\n1,3,20,1280,1.3,2,1\n2,6,70,4480,2.8,1,1\n"
    )
    (path / "config.toml").write_text('method = "toy"\n')
    (path / "result.json").write_text(json.dumps({"kind": "converged", "workers": 4, "ranks": 1}))
    return path


def test_a_ledger_on_a_network(folder: Path) -> None:
    free = Network(latency=1.0, bandwidth=np.inf, message=0.0)
    found = replay(read_run(folder), free)
    # Two latencies a call: the layouts of the answers travel with them.
    np.testing.assert_allclose(found.latency, [0, 2 + 2, 2 + 2 + 2 + 2])
    np.testing.assert_array_equal(found.bandwidth, [0, 0, 0])
    np.testing.assert_allclose(found.compute, [0, 0.1, 0.1 + 0.1 + 0.025])  # one process did the work of four
    np.testing.assert_allclose(found.driver, [0, 0.5, 1.0])
    np.testing.assert_allclose(found.seconds, found.latency + found.compute + found.driver)
    halved = replay(read_run(folder), msgspec.structs.replace(free, ranks=2, speed=2.0, slowest=0.5))
    np.testing.assert_allclose(halved.compute, 2 * found.compute)
    np.testing.assert_allclose(halved.driver, found.driver / 2)


def test_bits_take_their_time_on_the_links(folder: Path) -> None:
    found = replay(read_run(folder), Network(latency=0.0, bandwidth=8.0))
    # Four ranks, one after the other, by the longer of order and answer, and the shorter one of one rank. With the
    # answers to the first call of a task come their layouts, HEAD bytes of each.
    f, g = HEAD + 80 + 4 * (2 * HEAD + 160), HEAD + 8 + 4 * 2 * HEAD
    assert found.bandwidth[1] == pytest.approx(f + g)
    np.testing.assert_allclose(found.latency, 0, atol=1e-9)


def test_the_command_and_the_axis(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        command,
        [str(folder), "--network", "continents", "--network", "5ms,1Gbit", "-o", str(tmp_path / "s.csv"), "--json"],
    )
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert [fact["network"] for fact in facts] == ["continents", "5ms,1Gbit"]
    for fact in facts:
        assert fact["seconds"] == pytest.approx(
            sum(fact[part] for part in ("latency", "bandwidth", "compute", "driver"))
        )
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert [row["iteration"] for row in rows] == ["0", "1", "2"] * 2
    assert float(rows[2]["seconds"]) == facts[0]["seconds"]
    assert "toy  continents" in CliRunner().invoke(command, [str(folder), "--network", "continents"]).stdout
    draw([read_run(folder)], tmp_path / "f.png", ["rounds", "seconds:continents"])
    points = list(csv.DictReader((tmp_path / "f.csv").read_text().splitlines()))
    assert float(points[-1]["x"]) == facts[0]["seconds"]
    with pytest.raises(ConfigError, match="unknown axis 'second'"):
        draw([read_run(folder)], tmp_path / "f.png", ["second"])


def test_a_damaged_or_missing_ledger_is_named(folder: Path) -> None:
    (folder / "ledger.csv").write_text(LEDGER + "\n1,x,down,mean,f,4,1,0,64,64,0,0,0,0\n")
    with pytest.raises(DataError, match=r"ledger.csv is damaged"):
        replay(read_run(folder), SLOW)
    (folder / "ledger.csv").unlink()
    with pytest.raises(DataError, match=r"ledger.csv cannot be read"):
        replay(read_run(folder), SLOW)
    (folder / "result.json").unlink()
    with pytest.raises(DataError, match="the run has not ended"):
        replay(read_run(folder), SLOW)


PLATFORM = """<?xml version="1.0"?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1"><cluster id="cluster" prefix="h" suffix="" radical="0-16" speed="1Gf" bw="{0}Bps" lat="{1}s"
sharing_policy="SPLITDUPLEX"/></platform>"""
# Latencies and rates are those of the platform, without corrections for a real cluster; computing takes no time.
PLAIN = (
    "network/model:CM02", "network/TCP-gamma:0", "network/weight-S:0", "network/latency-factor:1",
    "network/bandwidth-factor:1", "smpi/bw-factor:0:1", "smpi/lat-factor:0:1", "smpi/simulate-computation:no",
    "smpi/async-small-thresh:0", "smpi/send-is-detached-thresh:100000000",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("smpirun"), reason="SimGrid's SMPI (smpicc, smpirun) is not installed")
def test_simgrid_takes_as_long_where_messages_do_not_share_the_drivers_link_on_the_way_down(tmp_path: Path) -> None:
    program, platform, hosts = tmp_path / "exchange", tmp_path / "platform.xml", tmp_path / "hosts"
    source = Path(__file__).parents[1] / "support" / "exchange.c"
    subprocess.run(["smpicc", "-O2", str(source), "-o", str(program)], check=True, capture_output=True)
    hosts.write_text("\n".join(f"h{i}" for i in range(17)))
    for network in (Network(latency=0.05, bandwidth=1e8), Network(latency=5e-3, bandwidth=1e7), ETHERNET):
        platform.write_text(PLATFORM.format(network.bandwidth / 8, network.latency / 2))  # a message crosses two links
        for ranks in (2, 5, 16):
            for down, up in [(1000, 160_000), *([(1000, 1000)] if network.latency > 0.01 else [])]:
                options = ["-np", str(ranks + 1), "-platform", str(platform), "-hostfile", str(hosts)]
                options += [f"--cfg={name}" for name in PLAIN] + ["--log=root.thres:error"]
                command = ["smpirun", *options, str(program), str(down), str(up), "4"]
                said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
                assert Tree(network, ranks).exchange(down, up) == pytest.approx(float(said.split()[-1]), rel=0.02)
