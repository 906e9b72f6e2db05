"""The tables of the embedded model's card, written from the evaluation report that its bundle holds.

    python -m layerroute_training.embedded.card FOLDER [--report REPORT]

`FOLDER` holds `README.md`, with the two marks between which the tables stand, and `bundle/`. `REPORT`, a file that
`layerroute evaluate --json` printed, replaces the report in the bundle first.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from layerroute.bundle import ROUTING, load_bundle
from layerroute.files import replace_text
from layerroute.report import StepKind
from layerroute_training.errors import ConfigError
from layerroute_training.evaluation.report import KINDS, EvaluationReport
from layerroute_training.evaluation.tables import Table, report_tables, share, to_markdown

BEGIN = "<!-- From bundle/routing.json, by layerroute_training.embedded.card: -->"
END = "<!-- End of the tables. -->"

_SHOWN = {StepKind.TOOL_CALL: "tool-call", StepKind.PLANNING: "planning"}


def with_tables(card: str, report: EvaluationReport) -> str:
    """The card with the report's tables between its two marks.

    Raises:
        ConfigError: the card lacks the marks.
    """
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the card has no place for tables: put the lines {BEGIN!r} and {END!r} where they belong")
    tables = "\n".join(to_markdown(table) for table in (*report_tables(report), block_table(report)))
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def block_table(report: EvaluationReport) -> Table:
    """The share of generated tokens that visit each block, by group and kind of step."""
    rates = {
        f"{name}, {_SHOWN[kind]}": found.run_rate_per_block
        for name, group in report.groups.items()
        for kind in KINDS
        if (found := group.kind(kind)) is not None
    }
    rows = (
        (str(block), *(share(rate) for rate in of_block))
        for block, of_block in enumerate(zip(*rates.values(), strict=True))
    )
    return Table("Blocks that run", ("block", *rates), tuple(rows), "Share of generated tokens that visit each block.")


def keep_report(report: EvaluationReport, folder: Path) -> None:
    """Make `report` the one in the bundle of a model's folder.

    Raises:
        BundleError: no bundle there.
    """
    bundle = load_bundle(folder / "bundle")
    metadata = bundle.metadata.model_copy(update={"evaluation": report.model_dump(mode="json")})
    replace_text(bundle.path / ROUTING, metadata.model_dump_json(indent=2) + "\n")


def report_of(folder: Path) -> EvaluationReport:
    """The evaluation report in the bundle of a model's folder.

    Raises:
        BundleError: no bundle there.
        ConfigError: its bundle holds no evaluation report.
    """
    try:
        return EvaluationReport.model_validate(load_bundle(folder / "bundle").metadata.evaluation)
    except ValidationError as error:
        raise ConfigError(f"the bundle in {folder} holds no evaluation report: add one by --report") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Bring bundle and card up to date."""
    parser = argparse.ArgumentParser(prog="python -m layerroute_training.embedded.card", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds README.md and bundle/")
    parser.add_argument("--report", type=Path, help="a report of `layerroute evaluate --json` for the bundle to keep")
    options = parser.parse_args(arguments)
    if options.report is not None:
        report = EvaluationReport.model_validate_json(options.report.read_bytes())
        keep_report(report, options.folder)
    card = options.folder / "README.md"
    card.write_text(with_tables(card.read_text(encoding="utf-8"), report_of(options.folder)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
