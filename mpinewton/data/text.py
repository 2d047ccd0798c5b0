"""`text:FILE` and `python:topics`: text as rows, windows of characters with the character after each as its label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mpinewton.data.blocks import CLASSES, Block, Reading, Source, Words, asked_of
from mpinewton.data.lines import open_bytes, read_bytes
from mpinewton.errors import ConfigError, DataError

TEXTS = ("text:", "python:")
USUAL = {"context": 32, "from": 0, "to": 0}  # to: 0, the end
BLOCK_ROWS = 4096


def text_source(name: str, reading: Reading) -> Source:
    """The rows of `text:FILE?context=32&from=0&to=100000`, or of `python:topics?...`, which every Python brings along.

    `context` is the number of characters of a row, `from` and `to` say which characters of the text are meant, as a
    slice does: to train on some and to test on others.

    Raises
    ------
    ConfigError
        If a setting is unknown or odd.
    DataError
        If there is no such text.
    """
    kind, _, rest = name.partition(":")
    what, _, query = rest.partition("?")
    chosen = USUAL | {key: _number(name, key, value) for key, value in asked_of(name, query, USUAL, "a text")}
    if chosen["context"] < 1:
        raise ConfigError(f"{name}: context = {chosen['context']} must be 1 or more")
    if kind == "python" and what != "topics":
        raise ConfigError(f"{name}: no text of Python is called that; there is python:topics")
    if reading.features not in (None, chosen["context"]):
        raise ConfigError(
            f"{name}: a row has {chosen['context']} characters: write context=..., and leave --features out"
        )
    text = _topics(name) if kind == "python" else _read(Path(what))
    return Text(name, reading, text, chosen["context"], slice(chosen["from"], chosen["to"] or None))


class Text(Source):
    """Row i holds characters i c to (i + 1) c - 1 as numbers, its label is the number of the next: n rows of c.

    Characters are numbered by the order of their code points, those of the whole text, and are the class names. A text
    to test on takes its numbers from the training data.
    """

    def __init__(self, name: str, reading: Reading, text: str, context: int, chosen: slice) -> None:
        if reading.class_names == ():
            raise DataError(f"{name}: the labels are characters, but those of the training data are numbers")
        characters = reading.class_names or tuple(sorted(set(text)))
        if "\0" in characters:
            raise DataError(f"{name}: has the character NUL, as no text has; is it text in UTF-8?")
        if len(characters) > CLASSES:
            raise DataError(f"{name}: has {len(characters)} different characters, more than {CLASSES}")
        super().__init__(name, reading)
        self.words = Words(characters)
        text = text[chosen]
        self.rows, self.context = (len(text) - 1) // context, context
        if self.rows < 1:
            raise DataError(f"{name}: has {len(text)} characters, and a row with its label takes {context + 1}")
        unknown = sorted(set(text) - set(characters))
        if unknown:
            raise DataError(f"{name}: has the character {unknown[0]!r}, which the training data have not")
        self.dtype = "uint8" if len(characters) <= 256 else "float64"
        self.numbers = self.words.encode(np.array(list(text)))

    def blocks(self) -> Iterator[Block]:
        c = self.context
        for first in range(0, self.rows, BLOCK_ROWS):
            n = min(BLOCK_ROWS, self.rows - first)
            begin, end = first * c, (first + n) * c
            yield Block(self.numbers[begin:end].reshape(n, c), self.numbers[begin + c : end + 1 : c])


def _number(name: str, key: str, value: str) -> int:
    if not value.isdecimal():
        raise ConfigError(f"{name}: {key} wants a whole number, 0 or more, not {value!r}")
    return int(value)


def _read(path: Path) -> str:
    with open_bytes(path) as stream:
        raw = read_bytes(stream, -1, path)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text in UTF-8 ({error}); convert it first") from None


def _topics(name: str) -> str:
    """What Python's help() says of the language, 465,000 characters and more: the ASCII ones, topic by topic."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ConfigError(f"{name}: this Python comes without pydoc_data; name a text file, as text:FILE") from None
    return "\n".join(topics[topic] for topic in sorted(topics)).encode("ascii", "ignore").decode()
