"""Text that training rows share with evaluation rows: refused, or dropped on request.

A training row overlaps when
- it opens like an evaluation row: equal first user messages, compared by their words. Openings of up to five words
  ("hi there") say nothing; then all user messages have to be equal; or
- a user message has ten consecutive words in common with a user message of an evaluation row. Ten words that more than
  ten of the remaining training rows contain are a template (the rules of a puzzle) and do not count.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from layerroute_training.errors import OverlapError
from layerroute_training.rows import Row, words_of

GRAM = 10
SHORT_OPENING = 5
TEMPLATE_ROWS = 10
_EXAMPLES = 3
_EXAMPLE_LENGTH = 100


@dataclass(frozen=True)
class Overlap:
    """Which training rows overlap.

    Attributes:
        exact: positions of the rows that open like an evaluation row.
        grams: positions of the others that share ten words with one.
        examples: up to three, as text for people.
    """

    exact: tuple[int, ...]
    grams: tuple[int, ...]
    examples: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.exact) + len(self.grams)

    def __str__(self) -> str:
        counts = f"{len(self.exact):,} training rows open like an evaluation row, {len(self.grams):,} others share "
        return f"{counts}{GRAM} consecutive words with one" + "".join(f"\n  {example}" for example in self.examples)


@dataclass(frozen=True, eq=False)
class _Candidate:
    position: int
    id: str
    opening: str
    grams: tuple[str, ...]


def find_overlap(train: Iterable[Row], evaluation: Iterable[Row]) -> Overlap:
    """The training rows that share text with an evaluation row; each set of rows is read once."""
    openings: dict[str, str] = {}
    grams: dict[str, str] = {}
    for row in evaluation:
        openings.setdefault(_opening(row), row.id)
        for gram in _grams(row):
            grams.setdefault(gram, row.id)
    candidates: list[_Candidate] = []
    for position, row in enumerate(train):
        opening = _opening(row)
        shared = tuple(gram for gram in dict.fromkeys(_grams(row)) if gram in grams)
        if shared or opening in openings:
            candidates.append(_Candidate(position, row.id, opening, shared))
    exact = {each: each.opening for each in candidates if each.opening in openings}
    rare = _with_rare_grams([each for each in candidates if each not in exact])
    examples = [_example(each.id, text, openings[text]) for each, text in exact.items()]
    examples += [_example(each.id, text, grams[text]) for each, text in rare.items()]
    return Overlap(_positions(exact), _positions(rare), tuple(examples[:_EXAMPLES]))


def _with_rare_grams(candidates: Sequence[_Candidate]) -> dict[_Candidate, str]:
    """The candidates with ten shared words that are no template, and these words.

    Without them a template may be rare among the rest, so the rest is looked at again until nothing is found: what
    `without_overlap` keeps has no overlap.
    """
    frequency = Counter(gram for each in candidates for gram in each.grams)
    found: dict[_Candidate, str] = {}
    while True:
        rare = {}
        for each in candidates:
            gram = next((gram for gram in each.grams if frequency[gram] <= TEMPLATE_ROWS), None)
            if gram is not None:
                rare[each] = gram
        if not rare:
            return found
        found |= rare
        frequency.subtract(gram for each in rare for gram in each.grams)
        candidates = [each for each in candidates if each not in rare]


def _positions(candidates: Iterable[_Candidate]) -> tuple[int, ...]:
    return tuple(sorted(each.position for each in candidates))


def check_overlap(train: Iterable[Row], evaluation: Iterable[Row]) -> None:
    """Refuse training rows that share text with evaluation rows.

    Raises:
        OverlapError: some do, with their numbers and up to three of them.
    """
    overlap = find_overlap(train, evaluation)
    if overlap:
        raise OverlapError(f"{overlap}\nDrop these rows (--set data.drop_overlap=true) or evaluate on other ones")


def without_overlap(train: Iterable[Row], evaluation: Iterable[Row]) -> tuple[list[Row], Overlap]:
    """The training rows that share no text with evaluation rows, and what was dropped (`len`: how many rows)."""
    rows = list(train)
    overlap = find_overlap(rows, evaluation)
    dropped = {*overlap.exact, *overlap.grams}
    return [row for position, row in enumerate(rows) if position not in dropped], overlap


def _user_turns(row: Row) -> list[list[str]]:
    return [words_of(message["content"]) for message in row.messages if message["role"] == "user"]


def _opening(row: Row) -> str:
    """What has to be equal; a row whose user says no word is equal to none."""
    turns = [" ".join(words) for words in _user_turns(row)]
    if turns and turns[0].count(" ") >= SHORT_OPENING:
        return turns[0]
    return "\n".join(turns).strip() or row.id


def _grams(row: Row) -> Iterator[str]:
    for words in _user_turns(row):
        for start in range(len(words) - GRAM + 1):
            yield " ".join(words[start : start + GRAM])


def _example(train_id: str, text: str, evaluation_id: str) -> str:
    shown = text.replace("\n", " / ")
    shown = shown if len(shown) <= _EXAMPLE_LENGTH else f"{shown[:_EXAMPLE_LENGTH]}..."
    return f"training row {train_id} and evaluation row {evaluation_id}: {shown!r}"
