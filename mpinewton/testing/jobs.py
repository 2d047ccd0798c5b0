"""A method under mpiexec: jobs on the shards of a tiny problem, compared with the bits of one process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from mpinewton.data.pack import pack
from mpinewton.extensions import Reference
from mpinewton.launcher import launcher_environment, mpiexec
from mpinewton.methods import METHODS
from mpinewton.methods.settings import settings_of
from mpinewton.methods.support.method import Algorithm
from mpinewton.testing.problems import Problem, together
from mpinewton.testing.report import CheckFailed

LIMIT = 300  # seconds that a job may take


def check_mpiexec(method: Algorithm, problem: Problem, many: Sequence[int] = (2, 3, 5)) -> str:
    """`mpinewton run` gives the same history and model on many ranks as on 1."""
    with tempfile.TemporaryDirectory() as text:
        folder, whole = Path(text), together(problem.shards)
        weight = np.ones(whole.rows) if whole.sample_weight is None else whole.sample_weight
        np.savez(folder / "rows.npz", X=sparse.csr_array(whole.X).toarray(), y=whole.y, weight=weight)
        sizes = ",".join(str(shard.rows) for shard in problem.shards)
        pack(str(folder / "rows.npz"), folder / "shards", len(problem.shards), partition=f"blocks:{sizes}")
        digests = {ranks: _digests(method, problem, folder, ranks) for ranks in (1, *many)}
    for ranks, digest in digests.items():
        if digest != digests[1]:
            raise CheckFailed(
                f"{ranks} ranks give other bits than one process",
                expected=digests[1],
                found=digest,
                cause="see the check `bits`; or something that a process computes only once, as its own random numbers",
            )
    return f"history_sha256 {digests[1][0][:12]}"


def _digests(method: Algorithm, problem: Problem, folder: Path, ranks: int) -> tuple[str, str]:
    """Digests of history and model after 6 iterations on so many ranks."""
    out = folder / f"run-{ranks}"
    arguments = ["run", _name(method), folder / "shards", "-o", out, "--loss", problem.loss.name, "--tol", "0"]
    arguments += ["--l2", str(problem.l2), "--max-iterations", "6", *_set(settings_of(method))]
    command = [sys.executable, "-m", "mpinewton", *map(str, arguments)]
    if ranks > 1:
        command = [mpiexec(), "-n", str(ranks), *command]
    try:
        ended = subprocess.run(  # noqa: S603
            command, env=launcher_environment(ranks), capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        raise CheckFailed(f"a job on {ranks} ranks did not end", found=f"still running after {LIMIT} seconds") from None
    if ended.returncode:
        raise CheckFailed(
            f"a job on {ranks} ranks failed",
            expected="exit code 0",
            found=f"exit code {ended.returncode}\n{(ended.stdout + ended.stderr)[-3000:]}",
            cause="see what the job said",
        )
    result = json.loads((out / "result.json").read_text())
    return result["history_sha256"], result["w_sha256"]


def _name(method: Algorithm) -> str:
    """How the command line names the class: a built-in name, `FILE.py:Class` or `package.module:Class`."""
    return method.name if METHODS.get(method.name) is type(method) else Reference.of(method).kind


def _set(settings: dict[str, object], prefix: str = "") -> list[str]:
    """The settings as options `--set key=value`."""
    options: list[str] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            options += _set(value, f"{prefix}{name}.")
        else:
            options += ["--set", f"{prefix}{name}={'none' if value is None else json.dumps(value).strip(chr(34))}"]
    return options
