"""Plots of a report and of a sweep, as PNG and SVG, in colours that colour-blind readers tell apart (Okabe and Ito)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layerroute.report import StepKind
from layerroute_training.evaluation.report import (
    EvaluationReport,
    Interval,
    KindOutcome,
    KindReport,
    MatchedDifferential,
    Outcome,
    SeedResult,
    SeedsSummary,
)

_KIND_COLOURS = {StepKind.TOOL_CALL: "#0072B2", StepKind.PLANNING: "#E69F00"}
_KIND_NAMES = {StepKind.TOOL_CALL: "tool-call", StepKind.PLANNING: "planning"}
_WAY_STYLES = {"routed": ("#009E73", "o"), "static": ("#D55E00", "s"), "random": ("#999999", "^")}
_SWEEP_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("D", "v", "P", "X", "*", "<", ">", "h", "p", "d")
_RISE_TICKS = (0.0, 0.5, *(first * 10.0**zeros for zeros in range(5) for first in (1, 2, 5)))  # per cent
_LARGE_RISE = 10.0  # per cent: beside one, small rises are told apart on a logarithmic scale only
_LINEAR_RISE = 0.01  # nats per token up to which the frontier's axis is linear: a rise may be negative


def check_available() -> None:
    """Refuse before anything is measured what could not be drawn afterwards.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "layerroute[train]"') from error
    del matplotlib


def plot_report(report: EvaluationReport, folder: Path) -> list[Path]:
    """Draw what a report holds into `folder` and return the files.

    Raises:
        ImportError: matplotlib is missing.
    """
    figures = {"skip_by_block": _skip_by_block(report)}
    if report.frontier:
        figures["frontier"] = _frontier(report)
    control = report.all.length_control
    if control is not None and control.by_prompt is not None:
        figures["skip_by_prompt_length"] = _skip_by_length(control.by_prompt, "prompt")
    if control is not None and control.by_answer is not None:
        figures["skip_by_answer_length"] = _skip_by_length(control.by_answer, "answer")
    return _save(figures, folder)


def plot_sweep(sweeps: Mapping[str, SeedsSummary], folder: Path) -> list[Path]:
    """Draw one or more sweeps over seeds, by name of the recipe, into `folder` and return the files.

    Raises:
        ImportError: matplotlib is missing.
    """
    return _save({"differential_by_seed": _differential_by_seed(sweeps), "rise_by_seed": _rise_by_seed(sweeps)}, folder)


def _skip_by_block(report: EvaluationReport) -> Any:
    kinds: list[tuple[str, KindReport]] = [
        (f"{group} {_KIND_NAMES[kind]}" if len(report.groups) > 2 else _KIND_NAMES[kind], found)
        for group, entry in (report.groups.items() if len(report.groups) > 2 else [("all", report.all)])
        for kind in StepKind
        if (found := entry.kind(kind)) is not None
    ]
    skip_KL = 100 * (1 - np.array([found.run_rate_per_block for _, found in kinds]))
    most = max(10.0, 10 * np.ceil(skip_KL.max() / 10))
    figure, axes = _figure(width=9.0, height=1.5 + 0.45 * len(kinds))
    image = axes.imshow(skip_KL, aspect="auto", cmap="cividis", vmin=0, vmax=most)
    axes.set_yticks(range(len(kinds)), [name for name, _ in kinds])
    axes.set_xticks(range(skip_KL.shape[1]))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("block")
    axes.set_title("Generated tokens that skip a block")
    figure.colorbar(image, ax=axes, label="skipped (%)", pad=0.02)
    return figure


def _frontier(report: EvaluationReport) -> Any:
    figure, panels = _figure(width=10.0, height=5.0, columns=2)
    for axes, kind in zip(panels, StepKind, strict=True):
        for way, (colour, marker) in _WAY_STYLES.items():
            found = [_of_kind(getattr(point, way), kind) for point in report.frontier]
            skip = [100 * one.skip for one in found]
            axes.plot(skip, [one.rise.value for one in found], color=colour, marker=marker, label=f"{way}, frontier")
            low, high = [one.rise.low for one in found], [one.rise.high for one in found]
            axes.fill_between(skip, low, high, color=colour, alpha=0.15, linewidth=0)
        for outcome, marker in zip(report.baselines, _MARKERS * len(report.baselines), strict=False):
            point, is_routed = _of_kind(outcome, kind), outcome.name == "routed"
            style = {"color": "black", "s": 90} if is_routed else {"facecolor": "none", "edgecolor": "black", "s": 45}
            label = "routed, as trained" if is_routed else outcome.name
            axes.scatter(100 * point.skip, point.rise.value, marker=marker, label=label, zorder=3, **style)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_yscale("symlog", linthresh=_LINEAR_RISE)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("skip of generated-token visits (%)")
        axes.set_title(f"{_KIND_NAMES[kind]} steps")
    panels[0].set_ylabel("rise of NLL over full depth (nats per token)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _skip_by_length(matched: MatchedDifferential, of: str) -> Any:
    figure, axes = _figure(width=8.0, height=4.2)
    octiles = matched.octiles
    places = np.arange(len(octiles))
    for offset, kind, skips in (
        (-0.2, StepKind.TOOL_CALL, [octile.skip_tool_call for octile in octiles]),
        (0.2, StepKind.PLANNING, [octile.skip_planning for octile in octiles]),
    ):
        heights = [100 * skip if skip is not None else 0.0 for skip in skips]
        axes.bar(places + offset, heights, width=0.4, color=_KIND_COLOURS[kind], label=_KIND_NAMES[kind])
        for place, skip in zip(places, skips, strict=True):
            if skip is None:
                axes.text(place + offset, 0.5, "none", rotation=90, ha="center", va="bottom", fontsize=7, color="grey")
    axes.set_xticks(places, [f"{octile.low:.0f} to\n{octile.high:.0f}" for octile in octiles], fontsize=8)
    axes.set_xlabel(f"octile of {of} length (tokens)")
    axes.set_ylabel("skip of generated-token visits (%)")
    between = matched.differential
    axes.set_title(
        f"Skip by {of} length: length-matched differential {100 * between.value:+.1f} points "
        f"[{100 * between.low:+.1f}, {100 * between.high:+.1f}]",
        fontsize=11,
    )
    axes.legend(frameon=False, loc="upper right", ncols=2)
    axes.margins(y=0.15)
    return figure


def _differential_by_seed(sweeps: Mapping[str, SeedsSummary]) -> Any:
    def draw(axes: Any, places: Any, seeds: Sequence[SeedResult], colour: str, label: str) -> None:
        _points(axes, places - 0.12, [seed.differential for seed in seeds], colour, "o", label)
        matched = [(place, seed.matched) for place, seed in zip(places, seeds, strict=True) if seed.matched is not None]
        if matched:
            at, intervals = np.array([place for place, _ in matched]), [interval for _, interval in matched]
            _points(axes, at + 0.12, intervals, colour, "D", f"{label}, length-matched", hollow=True)

    figure = _by_seed(sweeps, draw, "skip differential (points)")
    figure.axes[0].set_title("Tool-call skip minus planning skip, by training seed (95 % intervals)", fontsize=11)
    return figure


def _rise_by_seed(sweeps: Mapping[str, SeedsSummary]) -> Any:
    def draw(axes: Any, places: Any, seeds: Sequence[SeedResult], colour: str, label: str) -> None:
        rises_2S = 100 * np.array([_rises(seed) for seed in seeds]).T
        looks = ((-0.12, "o", colour), (0.12, "s", "white"))
        for rise_S, (offset, marker, fill), kind in zip(rises_2S, looks, _KIND_NAMES.values(), strict=True):
            name, style = f"{label}, {kind}", {"linestyle": "none", "marker": marker, "markerfacecolor": fill}
            axes.plot(places + offset, rise_S, color=colour, label=name, **style)

    figure = _by_seed(sweeps, draw, "rise of NLL over full depth (%)")
    axes = figure.axes[0]
    rises = [100 * rise for sweep in sweeps.values() for seed in sweep.seeds for rise in _rises(seed)]
    if max(rises) > _LARGE_RISE:
        axes.set_yscale("symlog", linthresh=1.0)
        low, high = 2 * min(rises) if min(rises) < 0 else -0.25, 2 * max(rises)
        axes.set_yticks([tick for size in _RISE_TICKS for tick in {size, -size} if low <= tick <= high])
        axes.set_ylim(low, high)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title("Relative rise of answer NLL, by training seed", fontsize=11)
    return figure


def _rises(seed: SeedResult) -> tuple[float, float]:
    return seed.rise_tool_call, seed.rise_planning


def _by_seed(sweeps: Mapping[str, SeedsSummary], draw: Callable[..., None], ylabel: str) -> Any:
    """One place per seed on the horizontal axis; the seeds of a sweep are sorted, sweeps stand side by side."""
    count = sum(len(sweep.seeds) for sweep in sweeps.values()) + len(sweeps)
    figure, axes = _figure(width=max(6.0, 2.0 + 0.42 * count), height=4.6)
    first, ticks = 0, []
    for (name, sweep), colour in zip(sweeps.items(), _SWEEP_COLOURS * len(sweeps), strict=False):
        places = first + np.arange(len(sweep.seeds), dtype=np.float64)
        draw(axes, places, sweep.seeds, colour, name)
        ticks += [(place, str(seed.seed)) for place, seed in zip(places, sweep.seeds, strict=True)]
        first += len(sweep.seeds) + 1
    axes.axhline(0, color="black", linewidth=0.8)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=8)
    axes.set_xlabel("seed")
    axes.set_ylabel(ylabel)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _points(
    axes: Any, places: Any, intervals: Sequence[Interval], colour: str, marker: str, label: str, hollow: bool = False
) -> None:
    values = 100 * np.array([interval.value for interval in intervals])
    ends = 100 * np.array([[interval.low, interval.high] for interval in intervals]).T
    axes.errorbar(
        places,
        values,
        yerr=np.abs(ends - values),
        fmt=marker,
        color=colour,
        markerfacecolor="white" if hollow else colour,
        capsize=2,
        label=label,
    )


def _of_kind(outcome: Outcome, kind: StepKind) -> KindOutcome:
    return outcome.tool_call if kind is StepKind.TOOL_CALL else outcome.planning


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure without a window behind it, and its axes."""
    check_available()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, sharey=columns > 1)
    for one in np.ravel(axes):
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figures: Mapping[str, Any], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            paths.append(folder / f"{name}.{ending}")
            figure.savefig(paths[-1], dpi=150)
    return paths
