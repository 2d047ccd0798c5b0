"""What a check reports: the steps that passed, with what they measured; the first that failed, as an exception."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class CheckFailed(AssertionError):
    """A method or loss that breaks a rule of the package.

    Attributes
    ----------
    what : str
        The rule, in a sentence.
    where : str
        Problem, workers, iteration, setting: where it is broken.
    expected, found : str
    cause : str
        The likely cause, and what to change.
    """

    def __init__(
        self, what: str, *, where: str = "", expected: object = "", found: object = "", cause: str = ""
    ) -> None:
        self.what, self.where, self.expected, self.found, self.cause = what, where, str(expected), str(found), cause
        parts = {"where": where, "expected": self.expected, "found": self.found, "likely cause": cause}
        super().__init__("\n".join([what, *(f"  {name}: {text}" for name, text in parts.items() if text)]))


class Passed(NamedTuple):
    """A check that passed, where it was made, and what it measured, in words."""

    check: str
    where: str
    measured: str


@dataclass
class Report:
    """The checks that a method or loss has passed; `print(report)` shows a table.

    Attributes
    ----------
    subject : str
        What was checked.
    passed : list of Passed
        The checks in the order in which they were made.
    skipped : list of Passed
        Checks that do not apply; `measured` says why.
    """

    subject: str
    passed: list[Passed] = field(default_factory=list)
    skipped: list[Passed] = field(default_factory=list)

    def run(
        self, check: Callable[..., str | None], *arguments: Any, where: str = "", name: str = "", **options: Any
    ) -> None:
        """Make one check and record what it returns. Its name is that of the function, unless one is given.

        Raises
        ------
        CheckFailed
            If the check fails, or raises an error: the subject and the name of the check are added to the message.
        """
        name = name or check.__name__.removeprefix("check_").replace("_", " ")
        try:
            measured = check(*arguments, **options)
        except CheckFailed as error:
            message = f"{self.subject}: {name}: {error.what}"
            place = "; ".join(filter(None, (where, error.where)))
            raise CheckFailed(
                message, where=place, expected=error.expected, found=error.found, cause=error.cause
            ) from None
        except Exception as error:
            raise CheckFailed(
                f"{self.subject}: {name}: {type(error).__name__}: {error}", where=where, cause="see the traceback above"
            ) from error
        self.passed.append(Passed(name, where, measured or ""))

    def skip(self, check: str, why: str, where: str = "") -> None:
        """Record a check that does not apply."""
        self.skipped.append(Passed(check, where, why))

    def __str__(self) -> str:
        rows = [("passed", *row) for row in self.passed] + [("skipped", *row) for row in self.skipped]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip() for row in rows]
        return "\n".join([f"{self.subject}: {len(self.passed)} checks passed", *lines])
