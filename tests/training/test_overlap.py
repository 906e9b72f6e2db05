"""Overlap of training and evaluation rows: equal openings and ten common words are found, templates are not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerroute_training.errors import OverlapError
from layerroute_training.overlap import GRAM, TEMPLATE_ROWS, check_overlap, find_overlap, without_overlap
from layerroute_training.rows import Row

WORDS = "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november"
ALPHABET = WORDS.split(" ")
TEN = " ".join(ALPHABET[:GRAM])


def row(name: str, *turns: str, system: str = "Be brief.") -> Row:
    messages = [{"role": "system", "content": system}]
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": f"{TEN} {TEN}"}]
    return Row(name, "test", "train", [], messages)


def test_equal_openings_are_found_whatever_their_typography() -> None:
    train = [row("t0", "Something else entirely?"), row("t1", "How many APPLES\u2014are  left,\nthen?", "And pears?")]
    evaluation = [row("e0", "how many apples are left then", "Quite another turn")]
    assert find_overlap(train, evaluation).exact == (1,)
    with pytest.raises(
        OverlapError, match=r"1 training rows open .* 0 others (?s:.*)t1 .*e0.*how many apples"
    ) as raised:
        check_overlap(train, evaluation)
    assert "data.drop_overlap=true" in str(raised.value)


def test_short_openings_count_only_if_the_whole_user_side_is_equal() -> None:
    evaluation = [row("e0", "Play some jazz"), row("e1", "Hi there!", "Book a table for two")]
    same = [row("t0", "play some jazz."), row("t1", "Hi there", "book a table for two")]
    different = [row("t2", "Play some jazz", "Louder"), row("t3", "Hi there", "Cancel it"), row("t4", "Hi there")]
    assert find_overlap(same + different, evaluation).exact == (0, 1)
    check_overlap(different, evaluation)


@pytest.mark.parametrize("turn", [0, 1])
def test_ten_common_words_in_any_user_turn_are_found(turn: int) -> None:
    turns = ["Good morning to you all today", "Fine"]
    turns[turn] = f"So: {TEN.title()}!"
    train, evaluation = [row("t0", *turns)], [row("e0", "Please", f"{TEN} please")]
    overlap = find_overlap(train, evaluation)
    assert (overlap.exact, overlap.grams) == ((), (0,))
    assert TEN in overlap.examples[0]
    with pytest.raises(OverlapError, match="1 others share 10 consecutive words"):
        check_overlap(train, evaluation)


def test_nine_common_words_or_common_answers_and_system_texts_are_no_overlap() -> None:
    nine = " ".join(ALPHABET[:9])
    train = [row("t0", f"{nine} one", system=TEN), row("t1", f"{' '.join(ALPHABET[:5])} and", ALPHABET[5])]
    check_overlap(train, [row("e0", f"{nine} two", system=TEN)])
    check_overlap([row("t0", TEN)], [])
    check_overlap([], [row("e0", TEN)])
    check_overlap([row("t0", "?!")], [row("e0", "...")])  # no words: equal to nothing


def test_a_template_of_many_training_rows_is_no_overlap() -> None:
    evaluation = [row("e0", f"{TEN} is the question")]
    train = [row(f"t{number}", f"{TEN} number {number}") for number in range(TEMPLATE_ROWS + 1)]
    check_overlap(train, evaluation)
    assert find_overlap(train[1:], evaluation).grams == tuple(range(TEMPLATE_ROWS))
    copied = row("copied", f"{TEN} is the question")
    assert find_overlap([*train, copied], evaluation).exact == (len(train),)  # a copy is one even so


def test_dropping_leaves_no_overlap_although_templates_become_rare() -> None:
    other = " ".join(ALPHABET[4:])
    evaluation = [row("e0", TEN), row("e1", "Well", other)]
    both = row("both", f"{TEN} and", f"{other} and")
    train = [both, *(row(f"t{number}", f"{TEN} number {number}") for number in range(TEMPLATE_ROWS)), row("t", "Safe?")]
    kept, dropped = without_overlap(train, evaluation)
    assert [each.id for each in kept] == ["t"]
    assert len(dropped) == len(train) - 1
    assert len(dropped.examples) == 3
    check_overlap(kept, evaluation)


words = st.lists(st.sampled_from(ALPHABET[:3]), min_size=1, max_size=13).map(" ".join)
some_rows = st.lists(st.lists(words, min_size=1, max_size=3).map(lambda turns: row("r", *turns)), max_size=30)


@settings(deadline=None)
@given(some_rows, some_rows)
def test_what_is_kept_has_no_overlap(train: list[Row], evaluation: list[Row]) -> None:
    kept, dropped = without_overlap(train, evaluation)
    assert len(kept) + len(dropped) == len(train)
    check_overlap(kept, evaluation)
