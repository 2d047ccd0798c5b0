"""Classes of users: methods and losses found by name in a file, a module or an installed package.

A name is `FILE.py:Class`, `package.module:Class`, or what an installed package registers in the entry-point groups
`mpinewton.methods` and `mpinewton.losses`. Whoever names a class on the command line or in a comparison runs its code.

Model files and run folders are data. What they name is loaded only if its file has the SHA-256 that they record, and
only a `Loss` (for a model) or a `Method` is made of it. A model can thus name code that is on this machine already; it
cannot bring any.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from importlib.abc import SourceLoader
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from mpinewton.errors import ConfigError, did_you_mean

T = TypeVar("T")
FILE = r"[^:=,]+?\.py"
FILES = re.compile(rf"(?:^|(?<=[:=,])){FILE}(?=:)")
REFERENCE = re.compile(rf"({FILE}|[A-Za-z_][\w.]*):([A-Za-z_][\w.]*)(?::(.*))?")
_paths: dict[str, Path] = {}  # the files that were loaded, by the name of their module


class Reference(msgspec.Struct, frozen=True):
    """An object of a user's class, or of ours, as it travels: every rank builds the same one.

    Attributes
    ----------
    kind : str
        `FILE.py:Class`, the path absolute, or `package.module:Class`.
    settings : dict
        Its fields.
    sha256 : str
        Digest of the file of the class; "" for classes of mpinewton.
    """

    kind: str
    settings: dict[str, Any]
    sha256: str = ""

    @classmethod
    def of(cls, made: object) -> Reference:
        """The reference to an object of a dataclass. Raises ConfigError where other ranks could not find its class."""
        kind = type(made)
        if "<locals>" in kind.__qualname__:
            raise ConfigError(
                f"{kind.__qualname__}: other ranks cannot find a class that is defined in a function: "
                "define it at the top level of its module"
            )
        place = _paths.get(kind.__module__, kind.__module__)
        return cls(f"{place}:{kind.__qualname__}", msgspec.to_builtins(made), _sha256_of_module(kind.__module__))

    def build(self, base: type[T]) -> T:
        """The object. Raises ConfigError where its file differs from the one that `of` saw."""
        kind: type[T] = load_object(self.kind, base)
        found = _sha256_of_module(kind.__module__)
        if found != self.sha256:
            raise ConfigError(
                f"{self.kind}: the file differs between ranks (sha256 {found[:12] or 'none'} here, "
                f"{self.sha256[:12] or 'none'} on the driver); install the same file on all hosts"
            )
        return msgspec.convert(self.settings, kind)


def find_class(text: str, base: type[T], known: Mapping[str, type[T]], group: str) -> tuple[type[T], str]:
    """The class that a text names, and the settings that follow it as text.

    Parameters
    ----------
    text : str
        `NAME`, `FILE.py:Class` or `package.module:Class`; settings may follow after a colon.
    base : type
        What the class must be derived from.
    known : dict of str to type
        The classes of mpinewton, by name.
    group : str
        What they are, in one word: "methods" or "losses"; the entry-point group is `mpinewton.` and this word.

    Raises
    ------
    ConfigError
        If there is no such class, or two have the name.
    """
    word, what = text.partition(":")[0], _public(base).lower()
    if word not in known and (found := REFERENCE.fullmatch(text)):
        return load_class(f"{found[1]}:{found[2]}", base), found[3] or ""
    name, _, settings = text.partition(":")
    name = name if name in known else name.replace("_", "-")
    registered = [entry for entry in entry_points_of(group) if entry.name == name]
    if len(registered) + (name in known) > 1:
        owners = ["mpinewton"] * (name in known) + [f"{owner(entry)} ({entry.value})" for entry in registered]
        raise ConfigError(
            f"{what} {name!r} is the name of several: of {' and of '.join(owners)}. Name the class itself, as "
            f"{registered[0].value}, or uninstall one"
        )
    if registered:
        return load_class(registered[0].value, base), settings
    if name not in known:
        names = [*known, *(entry.name for entry in entry_points_of(group))]
        raise ConfigError(f"no {what} is named {word!r}{did_you_mean(word, names)}; write your own as FILE.py:Class")
    return known[name], settings


@cache
def entry_points_of(group: str) -> tuple[EntryPoint, ...]:
    """What installed packages register in the group `mpinewton.methods` or `mpinewton.losses`, by name."""
    return tuple(sorted(entry_points(group=f"mpinewton.{group}"), key=lambda entry: entry.name))


def load_installed(base: type[T], known: Mapping[str, type[T]], group: str) -> tuple[dict[str, type[T]], list[str]]:
    """`known` with the classes that installed packages register, and a line for every one that cannot be used."""
    found, warnings = dict(known), []
    for entry in entry_points_of(group):
        try:
            kind, _ = find_class(entry.name, base, known, group)
            found[entry.name] = kind
        except ConfigError as error:
            warnings.append(f"warning: {entry.name} of {owner(entry)} is not listed: {error}")
    return found, warnings


def owner(entry: EntryPoint) -> str:
    """The package that registers an entry point, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


def load_class(text: str, base: type[T]) -> type[T]:
    """The class `FILE.py:Class` or `package.module:Class`, a subclass of `base`.

    Raises
    ------
    ConfigError
        If there is no such file, module or class, it cannot be imported, or it is no usable subclass of `base`.
    """
    found: type[T] = load_object(text, base)
    _check_class(found, base, text)
    return found


def load_object(text: str, base: type = object) -> Any:
    """What `FILE.py:Name` or `package.module:Name` names; `base` is for messages. Raises ConfigError."""
    place, _, name = text.rpartition(":")
    what = "" if base is object else f"{_public(base).lower()} "
    module = load_file(Path(place)) if place.endswith(".py") else _imported(place, f"{what}{text}")
    try:
        return attrgetter(name)(module)
    except AttributeError:
        kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, base)]
        own = [kind.__name__ for kind in kinds if kind.__module__ == module.__name__]
        raise ConfigError(f"{place} has no {name!r}{did_you_mean(name, own)}") from None


def _check_class(found: Any, base: type, where: str) -> None:
    """Refuse what is no complete dataclass derived from `base`."""
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{where} is not a subclass of mpinewton.{_public(base)}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise ConfigError(f"{where} does not define {missing}, which every {_public(base)} must have")
    if not isinstance(getattr(found, "name", None), str):
        raise ConfigError(f"{where} has no name: add a line as name = {found.__name__.lower()!r} to the class")
    if "__dataclass_params__" not in vars(found) and inspect.get_annotations(found):
        raise ConfigError(f"{where} has settings, but is no dataclass: write @dataclass(frozen=True) above the class")


def _public(base: type) -> str:
    """The name of the class that users derive from."""
    return "Method" if base.__name__ == "Algorithm" else base.__name__


class _OwnFile(SourceLoader):
    """Runs a file as it was read: no compiled copy of an older version is taken for it."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.content


def load_file(path: Path) -> ModuleType:
    """The module that a file is, once in a process for its path and content. Raises ConfigError."""
    path = path.resolve()
    content = _read(path)
    digest = hashlib.sha256(bytes(path) + b"\0" + content).hexdigest()
    name = f"mpinewton_file_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, _OwnFile(path, content))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name], _paths[name] = module, path  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name], _paths[name]
        raise ConfigError(f"{path} cannot be imported: {_last_line(error)}{_hint(error)}") from error
    return module


def _imported(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where}: module {name} cannot be imported: {_last_line(error)}{_hint(error)}") from error


def _hint(error: BaseException) -> str:
    return "; is its folder on PYTHONPATH?" if isinstance(error, ImportError) else ""


def _last_line(error: BaseException) -> str:
    """What went wrong in someone else's file, and where: `NameError: name 'x' is not defined (mine.py:12)`."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    if isinstance(error, SyntaxError):
        return f"{text} ({error.filename}:{error.lineno})"
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    places = [place for place in places if place[0] != __file__ and "importlib" not in place[0]]
    return f"{text} ({places[-1][0]}:{places[-1][1]})" if places else text


def resolve_paths(text: str, folder: Path) -> str:
    """The text, the paths of its files absolute; relative ones are relative to `folder`."""
    return FILES.sub(lambda found: str((folder / Path(found[0]).expanduser()).resolve()), text)


def shown(text: str) -> str:
    """The text, its files without their folders: for titles and labels."""
    return FILES.sub(lambda found: Path(found[0]).name, text)


def source_sha256(text: str, kind: type) -> str | None:
    """Digest of the files that a text names, else of the module of `kind`; None for a class of mpinewton."""
    digests = [hashlib.sha256(_read(Path(path))).hexdigest() for path in FILES.findall(text)]
    digests = digests or list(filter(None, [_sha256_of_module(kind.__module__)]))
    if len(digests) < 2:
        return digests[0] if digests else None
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def verify(text: str, sha256: str | None) -> None:
    """Refuse a text whose files have changed, before any of them is run. Raises ConfigError."""
    paths = FILES.findall(text)
    if sha256 and paths and (found := source_sha256(text, object)) != sha256:
        raise ConfigError(
            f"{', '.join(paths)} has changed: its sha256 is {found}, expected {sha256}. Restore the file, or start anew"
        )


def _sha256_of_module(name: str) -> str:
    """Digest of the source file of a module; "" where it has none or is mpinewton's own."""
    if name.partition(".")[0] == "mpinewton":
        return ""
    if name in _paths:
        return hashlib.sha256(sys.modules[name].__loader__.content).hexdigest()  # type: ignore[union-attr]
    file = getattr(sys.modules.get(name), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).exists() else ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
