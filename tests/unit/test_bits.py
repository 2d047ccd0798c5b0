"""Portable bits: one history and model whatever kernels the environment asks for, on any ranks, however started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launch import Finished, launch, launch_serial

from mpinewton import bits
from mpinewton.cli import asks_for_portable_bits, run_command_line
from mpinewton.data.pack import pack
from mpinewton.errors import ConfigError
from mpinewton.fleet.transport.session import LocalSession

# Stand for processors: OpenBLAS's kernels, and numpy without the loops for AVX2.
PROCESSORS = {
    "haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "sandybridge": {"OPENBLAS_CORETYPE": "Sandybridge"},
    "nehalem": {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": bits.numpy_features("2.4")[-1]},
}
able = pytest.mark.skipif(bool(bits.obstacle()), reason=f"no portable bits here: {bits.obstacle()}")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    pack("sklearn:digits", folder, 3, scale="1/16")
    return folder


@pytest.fixture(scope="module")
def truth(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Digests of a portable run in one process."""
    out = tmp_path_factory.mktemp("truth") / "run"
    return digests(launch_serial(command(shards, out, "--bits", "portable"), env=PROCESSORS["haswell"]), out)


def command(shards: Path, out: Path, *options: str, iterations: int = 6) -> list[str]:
    """DINO by LSMR, whose rounding shows within few iterations. Warnings are errors."""
    head = ["-W", "error", "-m", "mpinewton", "run", "dino", str(shards), "--loss", "softmax", "--tol", "0"]
    return [*head, "--max-iterations", str(iterations), "-o", str(out), *options]


def digests(ended: Finished, out: Path) -> tuple[str, str]:
    assert ended.returncode == 0, str(ended)
    assert "Warning" not in ended.stderr, str(ended)
    result = json.loads((out / "result.json").read_text())
    return result["history_sha256"], result["w_sha256"]


@pytest.mark.slow
@able
def test_portable_bits_are_the_same_on_all_processors_and_ranks_and_fast_ones_are_not(shards, truth, tmp_path, capsys):
    """Ranks that mpinewton starts, on another processor; stopped, and resumed by ranks of mpiexec on a third."""
    parted = tmp_path / "parted"
    first = command(shards, parted, "--bits=portable", "--nproc", "2", iterations=3)
    digests(launch_serial(first, env=PROCESSORS["sandybridge"]), parted)
    # The configuration of the run says which bits: no option is needed.
    again = ["-W", "error", "-m", "mpinewton", "run", "--config", str(parted / "config.toml"), "-o", str(parted)]
    ended = launch(2, [*again, "--max-iterations", "6"], env=PROCESSORS["nehalem"])
    assert digests(ended, parted) == truth
    asked = json.loads((parted / "env.json").read_text())
    assert asked["bits"] == "portable" and len(asked["ranks"]) == 2
    for rank in asked["ranks"]:
        assert rank["kernels"] == ["Haswell"]
        assert rank["loops"] == list(bits.numpy_features(rank["numpy"]))
        assert rank["processor"]
    assert run_command_line(LocalSession(), command(shards, parted, "--bits", "fast")[4:]) == 2
    assert "bits was 'portable', now 'fast'" in capsys.readouterr().err

    out = tmp_path / "fast"
    assert digests(launch_serial(command(shards, out), env=PROCESSORS["sandybridge"]), out) != truth
    env = json.loads((out / "env.json").read_text())
    assert (env["bits"], env["ranks"][0]["kernels"]) == ("fast", ["Sandybridge"])


@pytest.mark.slow
@able
def test_comparisons_compute_them_too(shards, tmp_path):
    text = f"""bits = "portable"
        [data]
        name = "digits"
        folder = "{shards}"
        [objective]
        loss = "softmax"
        [method]
        method = "dino"
        [stop]
        max_iterations = 2
        """
    file, out = tmp_path / "e.toml", tmp_path / "out"
    file.write_text(text)
    ended = launch_serial(["-m", "mpinewton", "compare", str(file), "-o", str(out)], env=PROCESSORS["sandybridge"])
    assert ended.returncode == 0, str(ended)
    assert json.loads((out / "digits/softmax/dino/result.json").read_text())["arithmetic"].startswith("BLAS Haswell;")
    page = (out / "tables.md").read_text()
    assert "portable bits (BLAS Haswell; numpy" in page
    assert "--bits portable" in page


@pytest.mark.slow
def test_other_processors_are_refused_before_anything_starts(shards, tmp_path):
    code = f"""
import platform, sys
platform.machine = lambda: "aarch64"
sys.argv = ["mpinewton", "run", "dino", {str(shards)!r}, "--bits", "portable", "-o", {str(tmp_path / "out")!r}]
from mpinewton.__main__ import main
main()
"""
    ended = launch(2, code)
    assert ended.returncode == 2, str(ended)
    assert ended.stderr.count("its processor is aarch64. They need an x86-64 processor with AVX2") == 1
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("run dino d --bits portable", True),
        ("run dino d --bits=portable --no-such-option", True),
        ("run dino d --bits fast --config portable.toml", False),
        ("run dino d --set lr=0.1 --config portable.toml", True),
        ("run dino d --config missing.toml", False),
        ("run dino --bits", False),
        ("run dino d", False),
        ("compare portable.toml -o out --nproc 3", True),
        ("compare broken.toml -o out --bits portable", True),
        ("compare broken.toml -o out", False),
        ("compare", False),
        ("doctor", False),
        ("no-such-command --bits portable", False),
        ("", False),
    ],
)
def test_the_command_line_is_understood_before_it_is_carried_out(arguments, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("portable.toml").write_text('bits = "portable"\n')
    Path("broken.toml").write_text("bits = \n")
    assert asks_for_portable_bits(arguments.split()) is wanted


def test_that_does_not_import_numpy():
    code = """
import sys
from mpinewton.cli import asks_for_portable_bits, run_command_line
assert asks_for_portable_bits(["compare", "x.toml", "-o", "out", "--bits", "portable"])
assert asks_for_portable_bits(["run", "dino", "d", "--bits", "portable"])
from mpinewton import bits
from mpinewton.fleet.transport import session, world
bits.hold()
assert "numpy" not in sys.modules
"""
    ended = launch_serial(code)
    assert ended.returncode == 0, str(ended)


def test_what_a_processor_lacks(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Old One\nflags\t\t: fpu sse4_2 avx\n")
    assert bits.processor(cpuinfo) == "Old One"
    assert bits.obstacle("x86_64", cpuinfo) == "its processor has no AVX2"
    assert bits.obstacle("ppc64le", cpuinfo) == "its processor is ppc64le"
    cpuinfo.write_text("flags\t\t: fpu avx avx2 fma bmi2\n")
    assert bits.obstacle("x86_64", cpuinfo) == ""


GOOD = {"host": "n1", "obstacle": "", "kernels": ["Haswell"], "loops": ["X86_V3"], "numpy": "2.4.6", "rows": "compiled"}


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"obstacle": "its processor has no AVX2"}, "its processor has no AVX2"),
        ({"kernels": ["Haswell", "SkylakeX"]}, "its BLAS runs Haswell, SkylakeX"),
        ({"kernels": ["mkl"]}, "its BLAS runs mkl, not OpenBLAS's for Haswell"),
        ({"loops": ["X86_V3", "X86_V4"]}, "its numpy runs loops for X86_V3, X86_V4"),
        ({"loops": []}, "its numpy runs loops for no dispatched feature"),
        ({"rows": "numpy"}, "its loops over rows are numpy, and those of n1 compiled"),
    ],
)
def test_every_rank_must_compute_them(odd, why):
    bits.refuse([GOOD, GOOD])
    with pytest.raises(ConfigError, match=f"--bits portable: n2 cannot compute them: {why}"):
        bits.refuse([GOOD, GOOD | {"host": "n2"} | odd])


def test_the_names_are_those_of_this_numpy():
    """Where numpy's loops can be chosen at all: it warns of a name that it does not know."""
    import numpy as np

    if bits.obstacle():
        pytest.skip(bits.obstacle())
    known = np.show_config(mode="dicts")["SIMD Extensions"]
    names = bits.numpy_features(np.__version__)
    assert set(names) <= {name for part in known.values() for name in part}
    assert not any(name.startswith(("AVX512", "X86_V4")) for name in names)
    assert "AVX2" in bits.numpy_features("2.2.6")
