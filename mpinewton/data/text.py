"""`text:FILE` and `python:topics`: text as rows; a row is a window of characters, its label the next character."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mpinewton.data.blocks import CLASSES, Block, ClassNames, Reading, Source, parse_query
from mpinewton.data.lines import UTF8_MARK, open_bytes, read_bytes
from mpinewton.errors import ConfigError, DataError

TEXTS = ("text:", "python:")
USUAL = {"context": 32, "from": 0, "to": 0}  # to: 0, the end
BLOCK_ROWS = 4096


def text_source(name: str, reading: Reading) -> Source:
    """The rows of `text:FILE?context=32&from=0&to=100000`, or of `python:topics?...`, the help text of Python.

    `context` is the number of characters of a row; `from` and `to` select characters of the text as a slice does, for
    example to train on some and to test on others.

    Raises
    ------
    ConfigError
        If a setting is unknown or not valid.
    DataError
        If there is no such text.
    """
    kind, _, rest = name.partition(":")
    what, _, query = rest.partition("?")
    chosen = USUAL | {key: _number(name, key, value) for key, value in parse_query(name, query, USUAL, "a text")}
    if chosen["context"] < 1:
        raise ConfigError(f"{name}: context = {chosen['context']}: expected at least 1")
    if kind == "python" and what != "topics":
        raise ConfigError(f"{name}: no such text; expected python:topics")
    if reading.features not in (None, chosen["context"]):
        raise ConfigError(f"{name}: a row has {chosen['context']} characters: set context=... instead of --features")
    text = _topics(name) if kind == "python" else _read(Path(what))
    source = Text(name, reading, text, chosen["context"], slice(chosen["from"], chosen["to"] or None))
    source.files = () if kind == "python" else (Path(what),)
    return source


class Text(Source):
    """Row i holds characters i c to (i + 1) c - 1 as numbers; its label is the number of the next character.

    The characters of the whole text are the class names, in the order of their code points. A text to test on uses the
    numbers of the training data.
    """

    def __init__(self, name: str, reading: Reading, text: str, context: int, chosen: slice) -> None:
        if reading.class_names == ():
            raise DataError(f"{name}: expected labels that are numbers, as in the training data; found characters")
        characters = reading.class_names or tuple(sorted(set(text)))
        if "\0" in characters:
            raise DataError(f"{name}: has the character NUL; expected text in UTF-8")
        if len(characters) > CLASSES:
            raise DataError(f"{name}: has {len(characters)} different characters, more than {CLASSES}")
        super().__init__(name, reading)
        self.class_names = ClassNames(characters)
        text = text[chosen]
        self.rows, self.context = (len(text) - 1) // context, context
        if self.rows < 1:
            raise DataError(f"{name}: has {len(text)} characters, fewer than the {context + 1} of a row and its label")
        unknown = sorted(set(text) - set(characters))
        if unknown:
            raise DataError(f"{name}: has the character {unknown[0]!r}, which the training data do not have")
        self.dtype = "uint8" if len(characters) <= 256 else "float64"
        self.numbers = self.class_names.encode(np.array(list(text)))

    def blocks(self) -> Iterator[Block]:
        c = self.context
        for first in range(0, self.rows, BLOCK_ROWS):
            n = min(BLOCK_ROWS, self.rows - first)
            begin, end = first * c, (first + n) * c
            yield Block(self.numbers[begin:end].reshape(n, c), self.numbers[begin + c : end + 1 : c])


def _number(name: str, key: str, value: str) -> int:
    if not value.isdecimal():
        raise ConfigError(f"{name}: {key} = {value!r}: expected a whole number, at least 0")
    return int(value)


def _read(path: Path) -> str:
    with open_bytes(path) as stream:
        raw = read_bytes(stream, -1, path)
    try:
        return raw.removeprefix(UTF8_MARK).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text in UTF-8 ({error}); convert it first") from None


def _topics(name: str) -> str:
    """The ASCII characters of Python's help topics, 465,000 or more, topic by topic."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ConfigError(f"{name}: this Python has no pydoc_data; use a text file, as text:FILE") from None
    return "\n".join(topics[topic] for topic in sorted(topics)).encode("ascii", "ignore").decode()
