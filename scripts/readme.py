"""Writes the table of methods into README.md, between its two markers: python scripts/readme.py"""

from pathlib import Path

from mpinewton.methods import FAMILIES

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- methods: written by `make readme` -->\n", "<!-- end of methods -->"


def table() -> str:
    """The families, their methods and what they suit, in Markdown."""
    rows = [(f.name, " ".join(f"`{name}`" for name in f.places), f.suits) for f in FAMILIES]
    lines = [("family", "methods", "for"), ("---",) * 3, *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def renew(text: str) -> str:
    """The text of README.md with the table as it is now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(renew(README.read_text()))
