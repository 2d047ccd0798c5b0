"""Draws docs/which-method.png from the tables of docs/papers/auto.md: python scripts/which_method.py"""

import hashlib
from pathlib import Path
from statistics import median

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURE = DOCS / "papers" / "auto.md", DOCS / "which-method.png"
GAP, HEADS = "1e-8", {"rounds": "rounds to reach gap", "bits": "kbit up to reach gap"}


def tables(quantity: str) -> list[dict[str, float]]:
    """For each problem of the page: per method what it needs to the gap; without methods that did not come to it."""
    problems = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        _, found, table = section.partition(f"| {HEADS[quantity]} ")
        if found:
            lines = (found + table).partition("\n\n")[0].splitlines()
            rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
            column = rows[0].index(GAP)
            problems.append({row[0]: float(row[column]) for row in rows[2:] if row[column] != "-"})
    return problems


def ratios(quantity: str) -> dict[str, list[float]]:
    """Per method its multiple of the best one, for the problems that it solved, in ascending order."""
    found: dict[str, list[float]] = {}
    for problem in tables(quantity):
        for method, value in problem.items():
            found.setdefault(method, []).append(value / min(problem.values()))
    return {method: sorted(values) for method, values in found.items()}


def digest() -> str:
    """What the figure was drawn from."""
    return hashlib.sha256(PAGE.read_bytes()).hexdigest()[:16]


def draw() -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    count = len(tables("rounds"))
    order = sorted(ratios("rounds").items(), key=lambda item: median(item[1]), reverse=True)
    figure = Figure(figsize=(8.5, 4.4), layout="constrained")
    for axes, quantity, title in zip(figure.subplots(1, 2, sharey=True), ("rounds", "bits"), ("rounds", "bits up")):
        values = ratios(quantity)
        for y, (method, _) in enumerate(order):
            found = values[method]
            axes.plot([found[0], found[-1]], [y, y], color="#9ecae1", linewidth=3, solid_capstyle="round")
            axes.plot(median(found), y, "o", color="#08519c", markersize=6)
        names = [f"{m} ({len(found)})" if len(found) < count else m for m, found in order]
        axes.set(xscale="log", xlabel=f"{title}, as a multiple of the best method", yticks=range(len(order)))
        axes.set_yticklabels(names)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.axvline(1.0, color="#777777", linewidth=0.8)
    figure.savefig(FIGURE, dpi=130, metadata={"Software": None, "Source": digest()})


if __name__ == "__main__":
    draw()
