"""What the documentation generates from the code: pages of methods and losses, tables, the command-line reference.

Every function returns Markdown (MyST). Nothing here needs Sphinx, so that the tests run it anywhere; `conf.py` calls
`fill_in` for every page that Sphinx reads.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import click

import mpinewton
from mpinewton.cli import COMMANDS, main
from mpinewton.fleet import Problem
from mpinewton.losses import LOSSES
from mpinewton.methods import FAMILIES, METHODS
from mpinewton.settings import default_of, range_of, shown, type_in_words

HERE = Path(__file__).parent
ROOT = HERE.parent
MARK = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)
NEEDS = {
    "gradient": "gradients",
    "hvp": "products with the Hessian",
    "hessian": "the Hessian matrix",
    "hessian_diagonal": "the diagonal of the Hessian",
    "second_derivatives": "the second derivative in the logit of a row",
    "hessian_bound": "a bound on the second derivative",
    "hessian_lipschitz": "a bound on the third derivative",
    "majorant": "a quadratic majorant in the logit of a row",
    "rows": "a linear model with one logit per row",
}


def fill_in(docname: str, text: str) -> str:
    """The page `docname` with what is generated for it; `text` is what stands in its file."""
    folder, _, name = docname.rpartition("/")
    if folder in FOLDERS:
        text = FOLDERS[folder](name, text)
    return MARK.sub(lambda found: GENERATED[found[1]](), text)


# -- methods and losses ----------------------------------------------------------------------------------------------


def method_page(name: str, rule: str) -> str:
    """The page of a method: idea, update rule, cost, settings, needs, runs, source."""
    kind = METHODS[name]
    cost = kind.cost
    idea = inspect.getdoc(kind) or ""
    parts = [f"# {name}", markdown(idea.removesuffix(str(cost)) if cost else idea), "## Update rule", rule.strip()]
    parts.append("Symbols are explained in [notation](../notation.md).")
    if cost:
        rows = [("rounds", cost.rounds), ("floats to every worker", cost.down), ("floats from every worker", cost.up)]
        parts += ["## Cost of an iteration", table(("", "number"), [(a, escaped(b)) for a, b in rows])]
        parts.append(
            "d is the number of weights, m the number of rows of the busiest worker, k the number of inner steps."
            + (f" {escaped(sentence(cost.note))}" if cost.note else "")
            + (" Packed messages are counted in bits, not in floats." if cost.up == "0" != cost.rounds else "")
        )
    parts += ["## Settings", settings_table(kind), "## Needs", needs(kind), "## Measured", runs_of(name)]
    module = Path(inspect.getfile(kind)).relative_to(ROOT)
    source = f"```{{literalinclude}} ../../{module}\n:language: python\n:pyobject: {kind.__name__}\n```"
    parts += ["## Source", f"`{module}`:", source]
    return "\n\n".join(parts) + "\n"


def loss_page(name: str, formula: str) -> str:
    """The page of a loss: idea, formulas, settings, what it provides."""
    kind = LOSSES[name]
    able = [f"[{m.name}](../methods/{m.name}.md)" for m in METHODS.values() if usable(m, kind)]
    provides = [f"- `{what}`: {NEEDS[what]}" for what in NEEDS if what in kind.provides]
    parts = [
        f"# {name}", markdown(inspect.getdoc(kind) or ""), "## Formulas", formula.strip(), "## Settings",
        settings_table(kind), "## Provides", f"The loss is {'convex' if kind.convex else 'not convex'}. It provides:",
        "\n".join(provides), "## Methods", f"With their default settings, {len(able)} methods accept it:",
        ", ".join(able) + ".",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def usable(method: Any, loss: Any) -> bool:
    """Whether a method with its default settings accepts a small problem with a loss with its default settings."""
    made = loss()
    classes = tuple(range(3 if loss.name in ("softmax", "mlp") else 2)) if made.classifies else None
    problem = Problem(made, classes, rows=(20, 20), total_weights=(20.0, 20.0), features=3, l2=0.1, partition="iid")
    try:
        if loss.name == "torch":  # what else it accepts depends on the module
            method().validate_loss(made)
        else:
            method().validate(problem)
    except mpinewton.errors.ConfigError:
        return False
    return True


def settings_table(kind: type) -> str:
    """The settings of a method or loss; those of a part as `part.key`."""
    rows = list(setting_rows(kind))
    return table(("setting", "default", "meaning"), rows) if rows else "There are none."


def setting_rows(kind: type, prefix: str = "") -> list[tuple[str, ...]]:
    """One row for each setting: name, default, meaning with unit and values."""
    rows: list[tuple[str, ...]] = []
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        default, about = default_of(field), field.metadata
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            rows += setting_rows(type(default), f"{prefix}{field.name}.")
            continue
        values = ", ".join(filter(None, (type_in_words(hints[field.name]), range_of(field))))
        meaning = about.get("help", "")
        if needs := about.get("only_if"):
            meaning += "; only with " + " and ".join(f"{k}={' or '.join(map(shown, v))}" for k, v in needs.items())
        if about.get("aliases"):
            meaning += f"; also called {', '.join(about['aliases'])}"
        unit = f"; unit: {about['unit']}" if about.get("unit") else ""
        value = f"`{shown(default)}`" if shown(default) else "empty"
        rows.append((f"`{prefix}{field.name}`", value, f"{escaped(meaning + unit)}<br>*{escaped(values)}*"))
    return rows


def needs(kind: Any) -> str:
    """What a method needs from a loss and a problem, and the losses that have it."""
    lines = [f"- From the loss: {', '.join(f'{NEEDS[need]} (`{need}`)' for need in kind.needs)}."]
    if kind.convex_only:
        lines.append("- The loss must be convex.")
    if getattr(kind, "shards_alike", False):  # a rule has none of its own
        lines.append("- Shards should resemble one another; otherwise convergence is slow or incomplete.")
    if kind.rows_travel:
        lines.append("- Rows of the data leave their workers.")
    if getattr(kind, "matrices", 0):
        lines.append(f"- Memory: {kind.matrices:g} matrices of d x d floats on one process.")
    able = [f"[{loss.name}](../losses/{loss.name}.md)" for loss in LOSSES.values() if usable(kind, loss)]
    lines.append(f"- Losses, with the default settings: {', '.join(able)}.")
    return "\n".join(lines)


def runs_of(name: str) -> str:
    """Where a method was measured: the pages whose tables have it, with what docs/claims.md says."""
    lines = [
        f"- [{title}](../papers/{page}.md)" + (f": {said.replace('](', '](../')}" if said else "")
        for page, title, methods, said in measured()
        if name in methods
    ]
    for page in ("auto", "wide-area", "trust"):
        text = (HERE / f"{page}.md").read_text()
        rows = [line for line in text.splitlines() if line.startswith("|")]
        if name.replace("-", "") in {cell.strip().lower().replace("-", "") for row in rows for cell in row.split("|")}:
            lines.append(f"- [{text.partition(chr(10))[0].removeprefix('# ')}](../{page}.md)")
    return "\n".join(lines) if lines else "No page of measurements has this method."


@cache
def measured() -> list[tuple[str, str, set[str], str]]:
    """The pages of docs/papers: file, title, methods of the experiment, what docs/claims.md says in short."""
    short = {}
    for line in (HERE / "claims.md").read_text().splitlines():
        paper, _, said = line.strip("| ").partition(" | ")
        short |= dict.fromkeys(re.findall(r"\(papers/([\w-]+)\.md\)", paper), said)
    pages = []
    for path in sorted((HERE / "papers").glob("*.md")):
        text = path.read_text()
        job = re.search(r"`mpinewton compare (jobs/\w+\.toml)", text)
        assert job is not None, path
        methods = set(re.findall(r'^method = "([\w-]+)"', (ROOT / job[1]).read_text(), re.MULTILINE))
        pages.append((path.stem, text.splitlines()[0].removeprefix("# "), methods, short.get(path.stem, "")))
    return pages


def method_list() -> str:
    """The families and their methods, one table each, and the table of contents."""
    parts = []
    for family in FAMILIES:
        rows = [(f"[{m.name}](methods/{m.name}.md)", title(m), *costs(m)) for m in map(METHODS.get, family.places)]
        header = ("method", "", "rounds", "floats down", "floats up")
        parts += [f"## {family.name}", f"For {family.suits}.", table(header, rows)]
    return "\n\n".join([*parts, toctree([f"methods/{name}" for name in METHODS])])


def loss_list() -> str:
    """The losses, and the table of contents."""
    rows = [
        (f"[{name}](losses/{name}.md)", "classes" if kind().classifies else "numbers", "yes" if kind.convex else "no",
         escaped((inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")))
        for name, kind in LOSSES.items()
    ]  # fmt: skip
    header = ("loss", "labels", "convex", "formula, z = X w")
    return "\n\n".join([table(header, rows), toctree([f"losses/{name}" for name in LOSSES])])


def costs(kind: Any) -> tuple[str, str, str]:
    """Rounds and floats of an iteration, for a table."""
    cost = kind.cost
    return (cost.rounds, escaped(cost.down), escaped(cost.up)) if cost else ("", "", "")


def title(kind: type) -> str:
    """The first line of a docstring, up to a colon or its end."""
    return escaped((inspect.getdoc(kind) or "").partition("\n")[0].partition(":")[0].rstrip(".").replace("`", ""))


# -- the public names ------------------------------------------------------------------------------------------------


def api_page(name: str, text: str) -> str:
    """The page of a public name: what stands in its file, and the docstrings."""
    found = getattr(mpinewton, name)
    path = f"mpinewton.{name}"
    if name in ("methods", "losses"):
        directive = f".. py:function:: {path}()\n   :no-index:\n\n   {catalogue_doc(name)}"
    elif inspect.ismodule(found):
        members = getattr(found, "__all__", None) or [
            key for key, value in vars(found).items() if getattr(value, "__module__", "") == path and key[0] != "_"
            and (inspect.isclass(value) or inspect.isfunction(value))
        ]  # fmt: skip
        kinds = {key: "class" if inspect.isclass(getattr(found, key)) else "function" for key in members}
        kinds |= {key: "exception" for key in kinds if inspect.isclass(getattr(found, key))
                  and issubclass(getattr(found, key), BaseException)}  # fmt: skip
        inherited = name != "estimators"  # scikit-learn documents what its base classes bring
        directive = "\n\n".join(documented(kind, f"{path}.{key}", inherited) for key, kind in kinds.items())
    else:
        directive = documented("class" if inspect.isclass(found) else "function", path)
    return f"# mpinewton.{name}\n\n{text.strip()}\n\n## Reference\n\n```{{eval-rst}}\n{directive}\n```\n"


def documented(kind: str, path: str, inherited: bool = True) -> str:
    """The directive of autodoc for an object."""
    members = "\n   :members:" if kind == "class" else ""
    others = "\n   :inherited-members:" if inherited else "\n   :exclude-members: set_fit_request, set_score_request"
    return f".. auto{kind}:: {path}{members}{others if members else ''}"


def catalogue_doc(name: str) -> str:
    catalogue = importlib.import_module("mpinewton.catalogue")
    return (inspect.getdoc(getattr(catalogue, name)) or "").replace("\n", " ")


# -- the command line ------------------------------------------------------------------------------------------------


def command_line() -> str:
    """Every command: usage, what it does, options."""
    parts = []
    for name, summary in COMMANDS.items():
        command = main.get_command(click.Context(main), name)
        assert command is not None
        context = click.Context(command, info_name=f"mpinewton {name}", parent=None)
        usage = command.get_usage(context).removeprefix("Usage: ")
        parts += [f"## mpinewton {name}", escaped(summary), f"```text\n{usage}\n```", help_text(command.help or "")]
        rows = [record for p in command.params if isinstance(p, click.Option) if (record := p.get_help_record(context))]
        if rows:
            parts.append(table(("option", "meaning"), [(f"`{a}`", escaped(" ".join(b.split()))) for a, b in rows]))
    return "\n\n".join(parts)


def help_text(text: str) -> str:
    """The help of a command as Markdown; paragraphs after \\b keep their lines."""
    parts = []
    for block in inspect.cleandoc(text).split("\n\n"):
        if block.startswith("\b"):
            parts.append("```text\n" + block.removeprefix("\b").strip("\n") + "\n```")
        else:
            parts.append(markdown(block))
    return "\n\n".join(parts)


# -- other generated parts -------------------------------------------------------------------------------------------


def examples() -> str:
    """The scripts of examples/, each with its first sentence and its text."""
    parts = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        said = inspect.cleandoc(path.read_text().split('"""')[1]).partition("\n\n")[0].replace("\n", " ")
        parts += [
            f"## {path.name}", escaped(said),
            f"```{{literalinclude}} ../examples/{path.name}\n:language: python\n```",
        ]  # fmt: skip
    return "\n\n".join(parts)


def experiments() -> str:
    """The experiments of jobs/, with their titles and the pages that they have written."""
    pages = {}
    for path in (HERE / "papers").glob("*.md"):
        if job := re.search(r"`mpinewton compare jobs/(\w+)\.toml", path.read_text()):
            pages[job[1]] = path.stem
    rows = []
    for path in sorted((ROOT / "jobs").glob("*.toml")):
        text = path.read_text()
        heading = re.search(r'^title = "(.*)"', text, re.MULTILINE)
        data = "download" if "$MPINEWTON_DATA" in text else "included"
        title = escaped(heading[1] if heading else "")
        link = f"[{title}](papers/{pages[path.stem]}.md)" if path.stem in pages else title
        rows.append((link, f"`{path.name}`", data))
    return table(("experiment, with its results", "file", "data"), rows)


def papers() -> str:
    """The table of contents of docs/papers."""
    return toctree([f"papers/{page}" for page, *_ in measured()])


def toctree(names: list[str], options: str = ":hidden:\n") -> str:
    return f"```{{toctree}}\n{options}\n" + "\n".join(names) + "\n```"


# -- Markdown --------------------------------------------------------------------------------------------------------


def table(header: tuple[str, ...], rows: list[Any]) -> str:
    """A table in Markdown. Cells are Markdown already."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def markdown(text: str) -> str:
    """A docstring as Markdown: code in backticks stays, all other signs stand for themselves."""
    blocks = []
    for block in inspect.cleandoc(text).split("\n\n"):
        if block.startswith("    "):
            blocks.append(f"```text\n{inspect.cleandoc(block)}\n```")
        else:
            blocks.append("\n".join(escaped(line) for line in block.splitlines()))
    return "\n\n".join(blocks)


def escaped(text: str) -> str:
    """Plain text with code in backticks as Markdown."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([\\*_<>\[\]#~$])", r"\\\1", part) for part in parts[::2]]
    return re.sub(r"^(\s*)([+-])(?=\S)", r"\1\\\2", "".join(parts))


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


FOLDERS: dict[str, Callable[[str, str], str]] = {"methods": method_page, "losses": loss_page, "api": api_page}
GENERATED: dict[str, Callable[[], str]] = {
    "methods": method_list, "losses": loss_list, "command-line": command_line, "examples": examples,
    "experiments": experiments, "papers": papers,
}  # fmt: skip
