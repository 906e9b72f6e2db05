"""The card's tables are the report's, and the bundle can be given another report."""

import shutil

import pytest
from made_steps import BLOCKS, made_model, made_steps

from layerroute.backbone.config import embedded_folder
from layerroute.bundle import load_bundle
from layerroute_training.embedded.card import BEGIN, END, block_table, main, report_of, with_tables
from layerroute_training.errors import ConfigError
from layerroute_training.evaluation.evaluate import evaluate
from layerroute_training.evaluation.tables import report_tables, to_markdown

CARD = f"# A model\n\nWords.\n\n{BEGIN}\nold\n{END}\n\nMore words.\n"


@pytest.fixture(scope="module")
def report():
    return evaluate(made_model(), made_steps(20), bundle="made", backbone="random")


@pytest.fixture
def folder(tmp_path):
    """A card and the shipped bundle, without a report."""
    shutil.copytree(embedded_folder() / "bundle", tmp_path / "bundle")
    (tmp_path / "README.md").write_text(CARD)
    return tmp_path


def test_tables_stand_between_the_marks_and_nothing_else_changes(report):
    card = with_tables(CARD, report)
    assert all(to_markdown(table) in card for table in report_tables(report))
    assert card.startswith("# A model\n\nWords.\n\n")
    assert card.endswith(f"{END}\n\nMore words.\n")
    assert "old" not in card
    assert with_tables(card, report) == card


def test_blocks_are_listed_with_their_rates(report):
    table = block_table(report)
    assert len(table.rows) == BLOCKS
    assert table.columns[-2:] == ("all, tool-call", "all, planning")
    rate = report.all.planning.run_rate_per_block[3]
    assert table.rows[3][0] == "3"
    assert table.rows[3][-1] == f"{100 * rate:.1f} %"


@pytest.mark.parametrize("card", ["no marks", f"only one {BEGIN}", f"{END} before {BEGIN}"])
def test_a_card_without_a_place_for_tables_is_refused(report, card):
    with pytest.raises(ConfigError, match="put the lines"):
        with_tables(card, report)


def test_a_report_goes_into_bundle_and_card(report, folder, tmp_path):
    before = load_bundle(folder / "bundle")
    (tmp_path / "report.json").write_text(report.model_dump_json())
    assert main([str(folder), "--report", str(tmp_path / "report.json")]) == 0
    assert report_of(folder) == report
    after = load_bundle(folder / "bundle")
    assert after.metadata == before.metadata.model_copy(update={"evaluation": after.metadata.evaluation})
    assert (folder / "README.md").read_text(encoding="utf-8") == with_tables(CARD, report)


def test_a_bundle_without_a_report_is_named(folder):
    routing = folder / "bundle" / "routing.json"
    metadata = load_bundle(folder / "bundle").metadata.model_copy(update={"evaluation": {}})
    routing.write_text(metadata.model_dump_json())
    with pytest.raises(ConfigError, match="--report"):
        main([str(folder)])
