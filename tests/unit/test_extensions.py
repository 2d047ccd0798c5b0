"""Methods and losses of users: found by file, module or entry point, refused in sentences, the same on every rank."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from mpinewton import extensions
from mpinewton.errors import ConfigError
from mpinewton.extensions import (
    Reference,
    find_class,
    load_class,
    load_file,
    resolve_paths,
    shown,
    source_sha256,
    verify,
)
from mpinewton.fleet.calls import find_task, task_name
from mpinewton.losses import LOSSES, Loss, make_loss
from mpinewton.methods import METHODS, Method
from mpinewton.methods.settings import find_method, make_method

EXAMPLES = Path(__file__).parents[2] / "examples"
METHOD, LOSS = EXAMPLES / "own_method.py", EXAMPLES / "own_loss.py"


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_method_and_a_loss_of_a_file_are_made_with_settings() -> None:
    method = make_method(f"{METHOD}:BarzilaiBorwein", {"first": 0.5})
    assert (method.name, method.first) == ("barzilai-borwein", 0.5)
    loss = make_loss(f"{LOSS}:SquaredHinge:margin=2")
    assert (loss.name, loss.margin) == ("squared-hinge", 2.0)
    assert make_loss(loss) is loss


def test_a_file_is_loaded_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    path = written(tmp_path, "count = []")
    first = load_file(path)
    assert load_file(path) is first
    path.write_text("count = [1]")  # as long as before within one tick of the clock: no compiled copy may be taken
    assert load_file(path).count == [1] and first.count == []


def test_tasks_of_a_file_are_found_by_name() -> None:
    method = make_method(f"{METHOD}:BarzilaiBorwein", {})
    task = sys.modules[type(method).__module__].go_to
    assert find_task(task_name(task, method), None) is task


def test_a_reference_builds_the_same_object_and_refuses_another_file(tmp_path: Path) -> None:
    path = written(tmp_path, LOSS.read_text())
    loss = make_loss(f"{path}:SquaredHinge:margin=2")
    reference = Reference.of(loss)
    assert reference.kind == f"{path}:SquaredHinge"
    assert reference.build(Loss) == loss
    path.write_text(LOSS.read_text() + "\n")
    with pytest.raises(ConfigError, match=r"mine.py:SquaredHinge: the file differs between ranks"):
        reference.build(Loss)
    assert Reference.of(LOSSES["huber"](delta=2.0)).sha256 == ""


def test_classes_in_functions_do_not_travel() -> None:
    class Here(LOSSES["squared"]):  # type: ignore[misc]
        pass

    with pytest.raises(ConfigError, match="at the top level"):
        Reference.of(Here())


HEAD = "from dataclasses import dataclass\nimport mpinewton as mn\n"
BROKEN = {
    "no file": (None, "mine.py: there is no such file"),
    "no class": (
        HEAD + "@dataclass(frozen=True)\nclass Mein(mn.LinearLoss):\n    name='m'",
        r"no 'Mine' \(did you mean 'Mein'",
    ),
    "another base": ("class Mine: pass", "is not a subclass of mpinewton.Loss"),
    "abstract": (
        HEAD + "@dataclass(frozen=True)\nclass Mine(mn.LinearLoss):\n    name='m'",
        "does not define derivatives, values",
    ),
    "no name": (
        HEAD + "class Mine(type(mn.losses.LOSSES['squared']())):\n    name = None",
        "has no name: add a line as name = 'mine'",
    ),
    "no dataclass": (
        HEAD + "class Mine(mn.losses.LOSSES['squared']):\n    margin: float = 1.0",
        r"write @dataclass\(frozen=True\)",
    ),
    "syntax": ("class Mine(", r"mine.py cannot be imported: SyntaxError: .*mine.py:1\)"),
    "error": ("\n\nx = 1 / 0", r"mine.py cannot be imported: ZeroDivisionError: division by zero \(.*mine.py:3\)"),
    "exit": ("import sys\nsys.exit(3)", r"mine.py cannot be imported: SystemExit: 3 \(.*mine.py:2\)"),
    "import": ("import not_there_at_all", "No module named 'not_there_at_all' .*is its folder on PYTHONPATH"),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_with_a_file_is_said(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        written(tmp_path, text)
    with pytest.raises(ConfigError, match=words):
        load_class(f"{path}:Mine", Loss)


def test_modules_are_named_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"method not_there:Mine: module not_there cannot be imported.*PYTHONPATH"):
        find_method("not_there:Mine")
    with pytest.raises(ConfigError, match=r"no method is named 'newtn' \(did you mean 'newton'\?\).*FILE.py:Class"):
        find_method("newtn")
    with pytest.raises(ConfigError, match="settings of a method are given by --set"):
        find_method(f"{METHOD}:BarzilaiBorwein:first=2")
    assert find_method("mpinewton.methods.newton:Newton") is METHODS["newton"]
    assert find_method("gradient_descent") is METHODS["gradient-descent"]


def test_paths_in_texts_are_made_absolute_and_short() -> None:
    folder = Path("/data/runs")
    for text, absolute in {
        "mine.py:Loss:margin=2": "/data/runs/mine.py:Loss:margin=2",
        "../mine.py:Loss": "/data/mine.py:Loss",
        "torch:module=nets/mine.py:Net,loss=mse": "torch:module=/data/runs/nets/mine.py:Net,loss=mse",
        "huber:delta=1.5": "huber:delta=1.5",
        "package.module:Class": "package.module:Class",
    }.items():
        assert resolve_paths(text, folder) == absolute
    assert shown("torch:module=/data/mine.py:Net,loss=mse") == "torch:module=mine.py:Net,loss=mse"


def test_a_changed_file_is_not_run(tmp_path: Path) -> None:
    path = written(tmp_path, LOSS.read_text())
    text = f"{path}:SquaredHinge"
    digest = source_sha256(text, object)
    assert digest is not None
    verify(text, digest)
    path.write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    with pytest.raises(ConfigError, match=r"mine.py has changed: its sha256 is .*, expected"):
        make_loss(text, digest)
    assert not (tmp_path / "trace").exists()
    assert source_sha256("huber:delta=2", LOSSES["huber"]) is None


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        ("bb", "mpinewton.methods.lbfgs:Lbfgs"),
        ("twice", "a:B"),
        ("twice", "c:D"),
        ("dino", "e:F"),
        ("gone", "g:H"),
    ]
    made = tuple(EntryPoint(name, value, "mpinewton.methods") for name, value in entries)
    monkeypatch.setattr(extensions, "entry_points_of", lambda group: made if group == "methods" else ())


@pytest.mark.usefixtures("registered")
def test_installed_packages_register_names() -> None:
    assert find_method("bb") is METHODS["lbfgs"]
    for name, owners in {
        "twice": r"\(a:B\) and of an unknown package \(c:D\)",
        "dino": r"mpinewton and of .*\(e:F\)",
    }.items():
        with pytest.raises(ConfigError, match=f"method '{name}' is the name of several: of .*{owners}"):
            find_method(name)
    kinds, warnings = extensions.load_installed(Method, METHODS, "methods")
    assert kinds == {**METHODS, "bb": METHODS["lbfgs"]}
    assert len(warnings) == 4 and any(
        "gone of an unknown package is not listed: method g:H" in line for line in warnings
    )


def test_methods_are_listed_under_their_own_names() -> None:
    assert {name: kind.name for name, kind in METHODS.items()} == dict(zip(METHODS, METHODS))


def test_a_method_is_imported_when_it_is_asked_for() -> None:
    code = "import sys; from mpinewton.methods import METHODS; METHODS['newton']; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {f"mpinewton.methods.{name}" for name in ("newton", "dino")} & {*done.stdout.split()} == {
        "mpinewton.methods.newton"
    }


def test_names_of_losses_come_before_modules() -> None:
    with pytest.raises(ConfigError, match="delta"):  # a setting without its value, not a class `delta`
        find_class("huber:delta", Loss, LOSSES, "losses")[0]
        make_loss("huber:delta")


def test_numbers_of_numpy_are_settings() -> None:
    loss = LOSSES["huber"](delta=np.float32(2.0))
    assert type(loss.delta) is float
    with pytest.raises(ConfigError, match="delta"):
        LOSSES["huber"](delta=np.float32(-2.0))
