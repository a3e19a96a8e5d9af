"""The table as a picture: speed-up and acceptance length per task and mode, SVG or PNG. Needs the extra ``lab``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.cli.tabulating import ALL, TableRow, label
from paceline.core.errors import InvalidRequest, Unsupported

if TYPE_CHECKING:
    from paceline.lab.links import Point  # at run time it would bring all services into every command

SUFFIXES = (".svg", ".png")


def check_plot(path: Path) -> None:
    """To be called first. Raises ``InvalidRequest`` for another kind of file, ``Unsupported`` without the extra."""
    if path.suffix not in SUFFIXES:
        raise InvalidRequest(f"plot: {path.name} ends with neither {' nor '.join(SUFFIXES)}; choose one of them.")
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise Unsupported(f"plot: needs {error.name}; install it with: pip install 'paceline[lab]'.") from error


def plot(rows: Sequence[TableRow], caption: str, path: Path) -> None:
    """Bars per task, the last ones over all; whiskers are the quartiles of the paired ratios."""
    import matplotlib
    from matplotlib.figure import Figure

    tasks = [*(task for task in dict.fromkeys(row.task for row in rows) if task != ALL), ALL]
    with matplotlib.rc_context({"svg.hashsalt": "paceline", "svg.fonttype": "none"}):
        figure = Figure(figsize=(max(7.0, 1.5 * len(tasks)), 6.5), layout="constrained")
        speed, length = figure.subplots(2, 1, sharex=True)
        _bars(speed, tasks, rows, "speedup")
        speed.axhline(1.0, color="black", linewidth=0.8)
        speed.set_ylabel("speed-up over plain")
        _bars(length, tasks, rows, "tau")
        length.set_ylabel("τ, tokens per step with drafts")
        figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize="small")
        figure.suptitle(caption, fontsize="small")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})


def plot_links(points: Sequence[Point], caption: str, path: Path) -> None:
    """Time per token by the round trip to the drafters: measured as lines, on paper as dots."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "paceline", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.0, 5.0), layout="constrained")
        axes = figure.subplots()
        for number, mode in enumerate(dict.fromkeys(point.mode for point in points)):
            own = [point for point in points if point.mode == mode]
            rtts, color = [point.rtt for point in own], f"C{number}"
            axes.plot(rtts, [1e3 * point.token_s for point in own], color=color, label=mode)
            axes.plot(rtts, [1e3 * point.paper_s for point in own], color=color, linestyle=":")
        axes.set_xlabel("round trip to the drafters, in steps of plain decoding")
        axes.set_ylabel("ms per token (dotted: formula)")
        axes.set_ylim(bottom=0.0)
        axes.legend()
        figure.suptitle(caption, fontsize="small")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})


def _bars(axes: Any, tasks: Sequence[str], rows: Sequence[TableRow], field: str) -> None:  # noqa: ANN401
    modes = list(dict.fromkeys(row.mode for row in rows))
    width = 0.8 / len(modes)
    for number, mode in enumerate(modes):
        own = {row.task: row for row in rows if row.mode == mode}
        places = [index + (number - (len(modes) - 1) / 2) * width for index in range(len(tasks))]
        heights = [getattr(own[task], field) or 0.0 for task in tasks]
        whiskers = None
        if field == "speedup":
            whiskers = [[own[t].speedup - own[t].low for t in tasks], [own[t].high - own[t].speedup for t in tasks]]
        axes.bar(places, heights, width, label=label(mode), yerr=whiskers, capsize=2)
    axes.set_xticks(range(len(tasks)), tasks)
