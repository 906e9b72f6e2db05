"""LayerProgram: text form and counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerroute.errors import ProgramError
from layerroute.program import LayerProgram

NUM_BLOCKS = 12
programs = st.lists(st.integers(0, NUM_BLOCKS - 1), max_size=30).map(
    lambda blocks: LayerProgram(tuple(blocks), NUM_BLOCKS)
)


@given(program=programs)
def test_the_text_form_reads_back(program):
    assert LayerProgram.parse(str(program), NUM_BLOCKS) == program


@given(program=programs)
def test_counts_agree(program):
    visits = program.visits_per_block
    assert sum(visits) == program.num_visits == len(program.blocks)
    assert len(visits) == NUM_BLOCKS
    assert program.skipped == tuple(block for block in range(NUM_BLOCKS) if block not in program.blocks)
    assert program.num_visits == NUM_BLOCKS - len(program.skipped) + program.num_looped
    assert program.is_identity == (str(program) == f"0-{NUM_BLOCKS - 1}")
    assert program.is_subsequence == (list(program.blocks) == sorted(set(program.blocks)))


@given(skipped=st.sets(st.integers(0, NUM_BLOCKS - 1)))
def test_skipping_only_skips(skipped):
    program = LayerProgram.skipping(skipped, NUM_BLOCKS)
    assert program.is_subsequence
    assert set(program.skipped) == skipped
    assert program.num_looped == 0
    assert program.is_identity == (not skipped)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("all", tuple(range(12))),
        ("none", ()),
        ("3", (3,)),
        ("0-2,5", (0, 1, 2, 5)),
        (" 0 - 2".replace(" - ", "-"), (0, 1, 2)),
        ("0-1, 1-2", (0, 1, 1, 2)),
        ("2-2,11", (2, 11)),
        ("5,3", (5, 3)),
    ],
)
def test_texts(text, blocks):
    assert LayerProgram.parse(text, NUM_BLOCKS).blocks == blocks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read ''"),
        ("a", "cannot read 'a'"),
        ("1,,2", "cannot read ''"),
        ("1-", "cannot read '1-'"),
        ("-1", "cannot read '-1'"),
        ("0 - 2", "cannot read '0 - 2'"),
        ("1.5", "write blocks and ranges"),
        ("4-2", "runs backwards"),
        ("12", "blocks 0 to 11"),
        ("0-99999999999", "blocks 0 to 11"),
        ("9" * 5000, "write blocks and ranges"),
        ("0-" + "9" * 5000, "write blocks and ranges"),
        ("٣", "write blocks and ranges"),
        ("0-11," * 9 + "0", "more than 96 visits"),
    ],
)
def test_texts_that_are_no_program(text, message):
    with pytest.raises(ProgramError, match=message) as caught:
        LayerProgram.parse(text, NUM_BLOCKS)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(("blocks", "num_blocks"), [((12,), 12), ((-1,), 12), ((), 0)])
def test_blocks_that_do_not_exist(blocks, num_blocks):
    with pytest.raises(ProgramError):
        LayerProgram(blocks, num_blocks)
