"""pack, check and info as a user types them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from mpinewton.cli import check, info, pack
from mpinewton.data.manifest import read_manifest
from mpinewton.errors import DataError


def run(module: Any, *arguments: object, obj: object = None) -> str:
    result = CliRunner().invoke(module.command, [str(a) for a in arguments], obj=obj, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_pack_check_and_info(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("kind;a;b;w\npear;1;2;1\nfig;3;4;2\npear;0;6;0.5\n")
    out = run(
        pack,
        tmp_path / "t.csv",
        "-o",
        tmp_path / "p",
        "--workers",
        2,
        "--partition",
        "sizes:1,2",
        "--seed",
        7,
        "--label-column",
        "kind",
        "--weight-column",
        "w",
        "--scale",
        "1/2",
        "--sparse",
        "--compress",
    )
    assert "3 rows, 2 features, 5 entries (83.33%), sparse float64" in out
    assert "fig: 1, pear: 2" in out
    assert "rows 1 / 1.5 / 2" in out
    manifest = read_manifest(tmp_path / "p")
    assert manifest.data_sha256 in out
    assert (manifest.seed, manifest.scale, manifest.partition, manifest.weighted) == (7, "1/2", "sizes:1,2", True)
    assert run(check, tmp_path / "p").splitlines() == ["shard-0000.h5: ok, 1 rows", "shard-0001.h5: ok, 2 rows"]
    assert run(check, tmp_path / "p" / "shard-0001.h5") == "shard-0001.h5: ok, 2 rows\n"
    assert "class_names  ('fig', 'pear')" in run(info, tmp_path / "p")
    shown = run(info, tmp_path / "p" / "shard-0001.h5")
    assert "indices      uint8 3" in shown
    assert "format       mpinewton-shard/2" in shown


def test_the_session_may_spread_the_tasks(tmp_path: Path) -> None:
    class Session:
        tasks: list[str] = []

        def each(self, task: Any, items: Any) -> list[Any]:
            self.tasks.append(task.__name__)
            return [task(item) for item in items]

    session = Session()
    run(pack, "sklearn:iris", "-o", tmp_path / "p", "--workers", 3, obj=session)
    run(check, tmp_path / "p", obj=session)
    assert session.tasks == ["write_one_shard", "check_shard"]


def test_check_says_which_shards_are_faulty(tmp_path: Path) -> None:
    run(pack, "sklearn:iris", "-o", tmp_path / "p", "--workers", 3)
    path = tmp_path / "p" / "shard-0001.h5"
    path.write_bytes(path.read_bytes()[:-100])
    result = CliRunner().invoke(check.command, [str(tmp_path / "p")])
    assert isinstance(result.exception, DataError)
    assert result.exception.exit_code == 2
    assert "1 of 3 shards have faults" in str(result.exception)
    lines = result.output.splitlines()
    assert [line.split(":")[1].startswith(" ok") for line in lines] == [True, False, True]


def test_info_reads_our_other_files_and_no_others(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["format"] = np.bytes_("mpinewton-model/1")
        file.attrs["note"] = "of variable length"
        file["state/w"] = np.zeros((2, 3))
        file["state/link"] = h5py.ExternalLink("/etc/passwd", "/")
        file["state/again"] = file["/"]
    shown = run(info, tmp_path / "model.h5")
    assert "state/w      float64 2x3" in shown
    assert "state/link   (a link to another file, not followed)" in shown
    assert "note         (not a short text" in shown
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["w"] = 1.0
    (tmp_path / "text").write_text("hello")
    for name, words in (("x.h5", "not a file of mpinewton"), ("text", "not an HDF5 file"), ("none", "no such file")):
        with pytest.raises(DataError, match=words):
            run(info, tmp_path / name)
