"""The documentation: a page for everything, no broken link, and every block of code runs."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import numpy as np
import pytest
from launch import JOB_ENVIRONMENT, launch_serial
from reference import SHARED, needs_shared

import mpinewton as mn
from mpinewton import launcher
from mpinewton.cli import COMMANDS, run_command_line
from mpinewton.experiments import compare as comparison
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.losses import LOSSES
from mpinewton.methods import METHODS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!`)\[(?:[^\[\]]|\\\]|\\\[)*\]\(([^)\s]+)\)")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"documentation_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


PAGES = load(DOCS / "pages.py")


def complete(path: Path) -> str:
    """A page with what is generated for it."""
    text: str = PAGES.fill_in(str(path.relative_to(DOCS).with_suffix("")), path.read_text())
    return text


def names_in(folder: str) -> set[str]:
    return {path.stem for path in (DOCS / folder).glob("*.md")}


# -- a page for everything -------------------------------------------------------------------------------------------


def test_every_method_every_loss_and_every_public_name_has_a_page() -> None:
    assert names_in("methods") == set(METHODS)
    assert names_in("losses") == set(LOSSES)
    assert names_in("api") == set(mn.__all__) - {"__version__"}
    listed = re.findall(r"\[`mpinewton\.(\w+)`\]\(api/(\w+)\.md\)", (DOCS / "api.md").read_text())
    assert {a for a, b in listed if a == b} == names_in("api")


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_a_method_has_its_rule_cost_settings_and_needs(name: str) -> None:
    kind, page = METHODS[name], complete(DOCS / "methods" / f"{name}.md")
    assert page.startswith(f"# {name}\n") and "$$" in page and f":pyobject: {kind.__name__}\n" in page
    for field in fields(kind):
        assert f"| `{field.name}" in page
    assert kind.cost is None or f"| rounds | {PAGES.escaped(kind.cost.rounds)} |" in page
    assert all(f"`{need}`" in page for need in kind.needs)
    measured = {"aide", "dingo", "dino", "disco", "giant", "inexact-dane", "lbfgs", "sgd"}
    assert ("dino-softmax.md): on 360" in page) == (name in measured)


def test_settings_of_a_part_have_their_ranges() -> None:
    page = complete(DOCS / "methods" / "dino.md")
    assert "must achieve<br>*a number, greater than 0 and less than 1* |" in page
    assert "| `theta` | `0.0001` | least descent of every worker's direction; only with adaptive=false" in page
    assert "; unit: 1/\\|H\\|<br>*a number, greater than 0* |" in page


def test_the_page_of_a_loss_lists_the_methods_that_accept_it() -> None:
    page = complete(DOCS / "losses" / "mlp.md")
    assert "(../methods/sgdm.md)" in page and "(../methods/newton.md)" not in page
    page = complete(DOCS / "losses" / "huber.md")
    assert "(../methods/newton.md)" in page and "(../methods/nsisa.md)" not in page
    assert "| `delta` | `1.0` | largest residual with a quadratic loss; unit: that of the labels<br>" in page


def test_the_command_line_page_has_every_command_and_option() -> None:
    page = complete(DOCS / "command-line.md")
    assert all(f"\n## mpinewton {name}\n" in page for name in COMMANDS)
    assert "| `--l2 FLOAT` | Regularisation: coefficient of |w|^2/2." in page.replace("\\", "")


def test_what_is_plain_in_a_docstring_is_plain_on_the_page() -> None:
    assert PAGES.escaped("a * b_i <y> `x_i`") == r"a \* b\_i \<y\> `x_i`"
    assert PAGES.markdown("One\ntwo.\n\n    a  b\n") == "One\ntwo.\n\n```text\na  b\n```"


def test_the_figure_of_methods_is_drawn_from_the_page_as_it_is_now() -> None:
    figure = load(ROOT / "scripts" / "which_method.py")
    assert figure.digest().encode() in (DOCS / "which-method.png").read_bytes(), "run python scripts/which_method.py"
    rounds = figure.ratios("rounds")
    assert len(figure.tables("rounds")) == 12 and rounds["Newton"] == [1.0] * 12
    page = (DOCS / "papers" / "auto.md").read_text().split("## pendigits/softmax")[1].split("\n## ")[0]
    assert re.search(r"\| quantised BFGS +\|.*\| +167 \|", page) and figure.tables("rounds")[0]["quantised BFGS"] == 167


# -- links -----------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(FENCE, "", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]), ids=lambda p: str(p.relative_to(ROOT))
)
def test_no_link_is_broken(path: Path) -> None:
    text = complete(path) if path.is_relative_to(DOCS) else path.read_text()
    for link in LINK.findall(re.sub(FENCE, "", text)):
        file, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor:
            shown = complete(target) if target.is_relative_to(DOCS) else target.read_text()
            assert anchor in anchors(shown), link


def test_every_page_is_in_a_table_of_contents() -> None:
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    for path in DOCS.rglob("*.md"):
        for kind, body in FENCE.findall(complete(path)):
            if kind == "{toctree}":
                entries = [re.sub(r".*<(.*)>", r"\1", line) for line in body.splitlines() if line and line[0] != ":"]
                pages -= {name for name in pages for entry in entries if Path(name).match(entry) or name == entry}
    assert pages == {"index"}


# What a user wants to do, and the page and heading that explain it: at most two clicks from the front page, on links in
# the text alone, without the navigation.
TASKS = {
    "train from a raw CSV file": ("from-csv-to-model", "Train"),
    "predict new rows": ("from-csv-to-model", "Predict"),
    "run on a cluster with SLURM": ("on-a-cluster", "4. Write the job script"),
    "resume a run that was killed": ("clusters", "Resume a run"),
    "choose a method": ("which-method", "By problem"),
    "write a method": ("extending", "A method"),
    "write a loss": ("extending", "A loss"),
    "understand an error message": ("errors", "The data cannot be read"),
    "compare methods in a figure": ("report", "Compare methods in a figure"),
    "estimate the cost of a run on a network": ("planning", "Compare methods on your network"),
    "look up a setting of a method": ("methods/dino", "Settings"),
    "look up an argument of minimize": ("api/minimize", "Reference"),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_explained_within_two_clicks_of_the_front_page(task: str) -> None:
    page, heading = TASKS[task]
    reached = {DOCS / "index.md"}
    for _ in range(2):
        links = ((path, link) for path in reached for link in LINK.findall(re.sub(FENCE, "", complete(path))))
        reached |= {(path.parent / link.partition("#")[0]).resolve() for path, link in links if ".md" in link}
    assert DOCS / f"{page}.md" in reached
    assert f"\n## {heading}\n" in complete(DOCS / f"{page}.md")


# -- blocks of code ------------------------------------------------------------------------------------------------


def blocks(path: Path) -> list[tuple[str, str]]:
    return FENCE.findall(path.read_text())


def libsvm(rows: int, seed: int, features: int = 20) -> str:
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(rows):
        found = np.sort(rng.choice(features, 6, replace=False)) + 1
        label = 1 if (found % 3 == 0).sum() + rng.normal() > 2 else -1
        lines.append(f"{label:+d} {' '.join(f'{j}:1' for j in found)}\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name: small, made up."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "jobs").mkdir()
    for job in (ROOT / "jobs").iterdir():  # of the whole of what is made up here
        (folder / "jobs" / job.name).write_text(
            re.sub(r"^(rows|features) = .*\n", "", job.read_text(), flags=re.MULTILINE)
        )
    for k, name in enumerate(("a9a.xz", "w8a.xz", "new.svm", "test.svm", "train.svm")):
        (folder / name).write_text(libsvm(320, k))
    (folder / "train.svm").write_bytes((folder / "a9a.xz").read_bytes())
    text = [
        f"{20 + k % 50}, {['State', 'Private', '?'][k % 3]}, {k % 7}, {['<=50K', '>50K'][k * k % 3 % 2]}\n"
        for k in range(90)
    ]
    (folder / "adult.data").write_text("".join(text))
    (folder / "new.data").write_text("".join(text[:5]))
    (folder / "words.csv").write_text("age,job,income\n39,clerk,low\n50,sales,high\n38,?,low\n")
    method, loss = (
        (ROOT / "examples" / f"own_{name}.py").read_text().split("\n\n\nif __name__")[0] for name in ("method", "loss")
    )
    (folder / "mine.py").write_text(f"{method}\n\n\n{loss}\n")
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("MPINEWTON_DATA", str(place))
    monkeypatch.syspath_prepend(str(place))
    return place


def mpinewton(arguments: list[str]) -> tuple[int, str]:
    """Exit code of a command in this process, and all that it printed."""
    log, said = logging.getLogger("mpinewton"), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    log.handlers = []
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run_command_line(LocalSession(), arguments)
    said.flush()
    return code, said.buffer.getvalue().decode()  # type: ignore[attr-defined]


def run_line(line: str) -> tuple[int, str]:
    """One command of a page. Ranks are left out: the bits are the same; what this machine has not is only checked."""
    words = shlex.split(line, comments=True)
    if "&&" in words:
        place = words.index("&&")
        code, _ = run_line(shlex.join(words[:place]))
        return run_line(shlex.join(words[place + 1 :])) if code == 0 else (code, "")
    out = None
    if len(words) > 2 and words[-2] == ">":
        *words, _, out = words
    head = Path(words[0]).name
    if "mpinewton" in words and head in ("srun", "mpiexec"):
        words = words[words.index("mpinewton") :]
        head = "mpinewton"
    if head == "mpinewton":
        shorter = ["--only", "*/newton*"] if words[1] == "compare" else []
        arguments = [a for k, a in enumerate(words) if k and "--nproc" not in words[k - 1 : k + 1]]
        code, said = mpinewton([*arguments, *shorter])
        if out is not None:
            Path(out).write_text(said)
        return code, said
    if head == "pip":
        extras = re.findall(r"\[(.*)\]", words[-1])
        known = re.search(r"\[options.extras_require\](.*?)\n\[", (ROOT / "setup.cfg").read_text(), re.DOTALL)
        assert known is not None
        assert all(re.search(rf"^{extra} =", known[1], re.MULTILINE) for extra in ",".join(extras).split(",") if extra)
    elif head == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif head == "sbatch":
        subprocess.run(["bash", "-n", words[1]], check=True)
    else:
        assert head in ("module", "python3", "eval"), f"{line}: the tests do not know this command"
    return 0, ""


SHELL = [ROOT / "README.md", *sorted(set(DOCS.glob("*.md")) - {DOCS / "errors.md", DOCS / "from-csv-to-model.md"})]
SHELL = [path for path in SHELL if any(kind == "" and "mpinewton" in body for kind, body in blocks(path))]


@pytest.mark.slow
@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_shell_commands_run(path: Path, inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in inside.iterdir():
        (tmp_path / name.name).symlink_to(name)
    monkeypatch.chdir(tmp_path)
    if path.stem != "README":  # whose figures are enough: they take longer than the runs
        monkeypatch.setattr(comparison, "_draw_figures", lambda *_: {})
    if path.stem == "which-method":
        assert mpinewton(["pack", "a9a.xz", "-o", "a9a", "--workers", "4"])[0] == 0
    for kind, body in blocks(path):
        if kind == "":
            for line in filter(None, body.splitlines()):
                code, said = run_line(line.split("  [")[0])
                if line == "sbatch dino.sbatch":  # what the job does
                    command = re.search(
                        r"^srun --mpi=pmix --wait=60 (mpinewton .*)$", Path("dino.sbatch").read_text(), re.MULTILINE
                    )
                    assert command is not None
                    code, said = run_line(command[1])
                assert code == 0, f"{line}\n{said}"


def sessions(path: Path) -> Iterator[tuple[str, str]]:
    """The commands of console blocks, each with the output that the page shows."""
    for kind, body in blocks(path):
        if kind == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield command, output


def agrees(shown: str, said: str) -> bool:
    """Whether output is what a page shows; three dots stand for any text, alone for any lines."""
    lines = (re.escape(line).replace(r"\.\.\.", ".*") + "\n" for line in rounded(shown).splitlines())
    pattern = "".join(r"(?:.*\n)*?" if line == ".*\n" else line for line in lines)
    return re.fullmatch(pattern, rounded(said)) is not None


def rounded(text: str) -> str:
    """The text with numbers of many digits rounded to 6: the processor decides the last ones."""
    return re.sub(r"\d+\.\d{9,}", lambda number: f"{float(number[0]):.6g}", text)


def test_error_messages_are_those_of_the_commands(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.csv").symlink_to(inside / "words.csv")
    monkeypatch.chdir(tmp_path)
    for line in next(body for kind, body in blocks(DOCS / "errors.md") if kind == "").splitlines():
        assert run_line(line)[0] == 0
    (tmp_path / "ages.csv").write_text("age\n39\n")
    shutil.copytree(tmp_path / "cancer", tmp_path / "damaged")
    shard = bytearray((tmp_path / "damaged" / "shard-0001.h5").read_bytes())
    shard[len(shard) // 2] ^= 255
    (tmp_path / "damaged" / "shard-0001.h5").write_bytes(shard)
    for command, shown in sessions(DOCS / "errors.md"):
        if command.startswith("srun"):  # what a process says that a launcher of another library has started
            monkeypatch.setattr(launcher, "beside_python", lambda name: f".../bin/{name}")
            with pytest.raises(mn.errors.ConfigError) as refused:
                launcher.refuse_singletons(4, 1)
            assert shown == f"mpinewton: {refused.value}\n"
            continue
        code, said = run_line(command)
        assert agrees(shown, said.replace(f"{tmp_path}/", "")), f"{command}\n{said}"
        assert code == (0 if "no finite minimiser" in shown else 1 if "stopped after" in shown else 2)


@pytest.mark.slow
@pytest.mark.parametrize("page", [pytest.param("from-csv-to-model", marks=needs_shared)])
def test_sessions_show_what_the_shell_shows(page: str, tmp_path: Path) -> None:
    import lzma

    for name in ("adult.data", "adult.test"):
        (tmp_path / name).write_bytes(lzma.decompress((SHARED / f"{name}.xz").read_bytes()))
    found = list(sessions(DOCS / f"{page}.md"))
    new = next(shown for command, shown in found if command == "cat new.csv")
    (tmp_path / "new.csv").write_text(new)
    (tmp_path / "short.csv").write_text("".join(line.partition(",")[2] + "\n" for line in new.splitlines()))
    (tmp_path / "odd.csv").write_text(new.replace("Private", "Astronaut", 1))
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "mpinewton").write_text(f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m mpinewton "$@"\n')
    (folder / "mpinewton").chmod(0o755)
    mark = "---- end of output ----"
    script = "".join(f"{{ {command}\n}} 2>&1; echo '{mark}'\n" for command, _ in found)
    environment = os.environ | JOB_ENVIRONMENT | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    for (command, shown), said in zip(found, finished.stdout.split(f"{mark}\n"), strict=False):
        assert agrees(shown, said), f"{command}\n{said}"


PYTHON = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PYTHON = [path for path in PYTHON if any(kind == "python" for kind, _ in blocks(path))]
GIVEN = """
import numpy as np
import mpinewton
rng = np.random.default_rng(0)
X = rng.standard_normal((60, 4))
y, z = (X[:, 0] + rng.standard_normal(60) > 0).astype(float), X @ np.ones(4)
w, g = np.zeros(4), np.ones(4)
"""


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.stem)
def test_python_blocks_run(path: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in order. X, y and what a page supposes are given."""
    monkeypatch.chdir(tmp_path)
    if path.stem == "read_run":
        mn.pack("sklearn:iris", Path("iris"), 2)
        assert mpinewton(["run", "lbfgs", "iris", "--max-iterations", "2", "-o", "runs/dino-a9a"])[0] == 0
    script = tmp_path / f"page_{path.stem}.py"
    script.write_text("\n\n".join([GIVEN, *(body for kind, body in blocks(path) if kind == "python")]))
    if "mpi4py" in script.read_text():  # not in this process
        finished = launch_serial([script])
        assert finished.returncode == 0, str(finished)
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            load(script)


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda path: path.stem)
def test_blocks_of_toml_are_valid_and_every_block_is_of_a_kind_that_is_tested(path: Path) -> None:
    for kind, body in blocks(path):
        if kind == "toml":
            tomllib.loads(body)
        assert kind in ("", "console", "python", "toml", "text", "{toctree}"), kind


# -- the site --------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The documentation as HTML and as a man page: as built already in $MPINEWTON_SITE, or built here."""
    if "MPINEWTON_SITE" in os.environ:
        return Path(os.environ["MPINEWTON_SITE"])
    for package in ("sphinx", "myst_parser", "numpydoc", "furo"):
        pytest.importorskip(package, reason="needs pip install 'mpinewton[docs]'")
    for builder in ("html", "man"):
        command = [sys.executable, "-m", "sphinx", "-b", builder, "-q", "-W", "--keep-going", "-d", tmp_path / "trees"]
        finished = subprocess.run(
            [*command, DOCS, tmp_path / builder],
            env=os.environ | JOB_ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stderr
    return tmp_path


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(site: Path) -> None:
    assert ".SH" in (site / "man" / "mpinewton.1").read_text()
    for name in METHODS:
        page = (site / "html" / "methods" / f"{name}.html").read_text()
        assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in page and "<h2>Settings" in page
    for page in (site / "html").rglob("*.html"):
        for picture in re.findall(r'<img [^>]*src="([^":]+)"', page.read_text()):
            assert (page.parent / unquote(picture)).exists(), (page, picture)
    everything = "".join(page.read_text() for page in (site / "html").rglob("*.html"))
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', everything)  # all is local
