"""Packages: wheel and source distribution, recipes, metadata."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from launch import JOB_ENVIRONMENT

import mpinewton
from mpinewton.cli import completion, run_command_line
from mpinewton.cli.completion import complete_data, complete_loss, complete_method, complete_setting
from mpinewton.fleet.transport.session import LocalSession

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
REQUIRED = sorted(SETUP["options"]["install_requires"].split())


# -- recipes -----------------------------------------------------------------------------------------------------------


def test_versions_agree() -> None:
    for file in ("CITATION.cff", "packaging/conda/meta.yaml", "packaging/spack/packages/mpinewton/package.py"):
        assert mpinewton.__version__ in (ROOT / file).read_text(), file


def test_the_conda_recipe_requires_what_the_package_requires() -> None:
    run = (PACKAGING / "conda" / "meta.yaml").read_text().split("  run:\n")[1].split("\n\n")[0]
    found = sorted(line.strip("- ").replace(" ", "") for line in run.splitlines() if "python " not in line)
    assert found == REQUIRED


def test_the_spack_package_requires_what_the_package_requires() -> None:
    asked: dict[str, dict[str, Any]] = {}
    scope: dict[str, Any] = {
        "PythonPackage": object, "license": str, "version": str, "variant": lambda *_, **__: None,
        "depends_on": lambda spec, **options: asked.__setitem__(spec, options),
    }  # fmt: skip
    source = (PACKAGING / "spack" / "packages" / "mpinewton" / "package.py").read_text()
    exec(source.replace("from spack.package import *", ""), scope)  # noqa: S102
    always = [spec for spec, options in asked.items() if "when" not in options and "run" in options["type"]]
    found = [spec.removeprefix("py-").rstrip(":").replace("@", ">=") for spec in always if spec.startswith("py-")]
    assert sorted(found) == REQUIRED


def test_the_container_copies_files_that_exist_and_installs_extras_that_exist() -> None:
    text = (PACKAGING / "mpinewton.def").read_text()
    for line in text.split("%files\n")[1].split("\n\n")[0].splitlines():
        assert (ROOT / line.split()[0]).exists()
    (extras,) = re.findall(r"/opt/mpinewton\[(.*)\]", text)
    assert set(extras.split(",")) <= set(SETUP["options.extras_require"])


@pytest.mark.skipif(shutil.which("tclsh") is None, reason="needs tclsh")
def test_the_module_file_sets_the_path() -> None:
    stubs = """
proc module-whatis {text} {}
proc prereq {name} { puts "prereq $name" }
proc prepend-path {name value} { puts "$name $value" }
"""
    script = stubs + (PACKAGING / "modules" / "mpinewton.tcl").read_text()
    finished = subprocess.run(["tclsh"], input=script, capture_output=True, text=True)
    assert finished.stdout.split("\n")[:2] == ["prereq openmpi", "PATH /opt/mpinewton/0.1.0/bin"], finished.stderr


# -- examples and completion -------------------------------------------------------------------------------------------


def test_examples_writes_experiments_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mpinewton.experiments.grid import read_experiment

    def examples(*more: str) -> int:
        return run_command_line(LocalSession(), ["examples", str(tmp_path / "e"), *more])

    assert examples() == 0
    assert str(tmp_path / "e" / "digits.toml") in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "e").iterdir()} == {path.name for path in (ROOT / "jobs").iterdir()}
    assert read_experiment(tmp_path / "e" / "digits.toml").title == "Digits, few classes on each worker"
    assert examples() == 0  # the same files
    (tmp_path / "e" / "digits.toml").write_text("mine")
    assert examples() == 2
    assert "has other files named digits.toml; choose another folder, or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "e" / "digits.toml").read_text() == "mine"
    assert examples("--overwrite") == 0


def test_the_shell_completes_methods_losses_settings_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import click

    from mpinewton.cli.run import command

    monkeypatch.chdir(tmp_path)
    for name in ("shards/a9a", "shards/a2a", "other"):
        Path(name).mkdir(parents=True)
    Path("shards/a9a", completion.MANIFEST).touch()
    context, param = click.Context(command), command.params[0]

    def found(complete: Any, text: str) -> list[str]:
        return [item.value for item in complete(context, param, text)]

    assert found(complete_method, "nl") == ["nl1", "nl2"]
    assert found(complete_loss, "so") == ["softmax", "softplus"]
    assert found(complete_loss, "mlp:hidden=64,act") == ["mlp:hidden=64,activation="]
    assert found(complete_data, "") == ["other/", "shards/"] and found(complete_data, "shards/a") == ["shards/a9a"]
    assert found(complete_data, "nowhere/") == []
    assert found(complete_setting, "th") == []
    monkeypatch.setenv("COMP_WORDS", "mpinewton run dino a9a --set th")
    assert found(complete_setting, "th") == ["theta=", "theta_hat="]
    assert {p.name for p in command.params if p._custom_shell_complete} == {"method", "data", "pairs", "loss"}


FACTS = {
    "methods dino": lambda said: said["name"] == "dino" and said["cost"]["rounds"] == "6",
    "methods": lambda said: len(said) == len(mpinewton.methods()),
    "losses huber": lambda said: said["settings"][0]["name"] == "delta",
    "losses": lambda said: {loss["name"] for loss in said} == set(mpinewton.losses()),
    "pack sklearn:iris -o again --workers 2": lambda said: said["rows"] == 150 and len(said["shards"]) == 2,
    "check iris": lambda said: [shard["fault"] for shard in said] == [None, None],
    "info iris": lambda said: said["classes"] == [0.0, 1.0, 2.0] and said["workers"] == 2,
    "info iris/shard-0000.h5": lambda said: said["rows"] == 75,
    "doctor": lambda said: said["versions"][0].startswith("mpinewton "),
}


@pytest.mark.parametrize("line", FACTS)
def test_facts_are_printed_as_json(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mpinewton.pack("sklearn:iris", Path("iris"), 2)
    assert run_command_line(LocalSession(), [*line.split(), "--json"]) == 0
    assert FACTS[line](json.loads(capsys.readouterr().out))


# -- the distributions -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that is built from it, without network."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("needs a checkout with git")
    for name in tracked.stdout.splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    build = "from setuptools import build_meta as b; import sys; print(getattr(b, sys.argv[1])(sys.argv[2]))"
    command = [sys.executable, "-c", build, "build_sdist", folder]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    subprocess.run([*command[:3], "build_wheel", folder], cwd=unpacked, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_the_distributions_contain_what_they_should(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"mpinewton/jobs/{path.name}" for path in (ROOT / "jobs").iterdir()} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "mpinewton").rglob("*.py")}
    assert modules | {"mpinewton/py.typed"} <= names
    about = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("/METADATA"))).decode()
    for line in ("Author: mpinewton developers", "Keywords: optimisation", "License: BSD-3-Clause"):
        assert line in about, about[:1500]


@pytest.mark.slow
def test_the_wheel_alone_runs_in_a_fresh_environment(distributions: Path, tmp_path: Path) -> None:
    """Dependencies come from this environment: no network."""
    (wheel,) = distributions.glob("*.whl")
    python, scripts = tmp_path / "venv" / "bin" / "python", tmp_path / "venv" / "bin"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | JOB_ENVIRONMENT
    subprocess.run(install, check=True, env=environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (Path(site) / "others.pth").write_text("".join(f"{path}\n" for path in sys.path if "site-packages" in path))

    def run(*arguments: object) -> str:
        command = [scripts / "mpinewton", *map(str, arguments)]
        finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    where = subprocess.run([python, "-c", "import mpinewton; print(mpinewton.__file__)"], cwd=tmp_path, env=environment,
                           check=True, capture_output=True, text=True).stdout  # fmt: skip
    assert where.startswith(str(tmp_path / "venv"))
    assert run("--version").strip() == f"mpinewton, version {mpinewton.__version__}"
    run("examples", "e")
    run("compare", "e/digits.toml", "-o", "digits", "--only", "*/newton*")
    assert (tmp_path / "digits" / "report.html").exists()
