"""StepSet: selected, joined, saved and read again."""

import lzma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_conversations import EMBEDDED, TOOLS, answer, answer_of, call, prompt_of, row, user

from layerroute_training.cutting import build_steps
from layerroute_training.errors import CorpusError
from layerroute_training.steps import StepSet


@pytest.fixture(scope="module")
def some_steps():
    tools = row([user("Where?"), answer("", call("tool_1", "Oslo"))], TOOLS[:2], source="tools é")
    plain = row([user("hello"), answer("hi"), user("again"), answer("hi again")], source="plain")
    return build_steps({"corpora": [tools, plain], "generated": [plain, tools]}, EMBEDDED, window=10_000)[0]


def contents(steps, index):
    place = int(steps.tools[index])
    return (
        prompt_of(steps, index),
        answer_of(steps, index),
        bool(steps.is_tool_call[index]),
        steps.groups[steps.group[index]],
        steps.sources[steps.source[index]],
        steps.tool_lists[place] if place >= 0 else None,
    )


def test_saved_steps_come_back(some_steps, tmp_path):
    some_steps.save(tmp_path / "steps")
    loaded = StepSet.load(tmp_path / "steps")
    assert loaded.digest() == some_steps.digest()
    assert [contents(loaded, index) for index in range(len(loaded))] == [
        contents(some_steps, index) for index in range(len(some_steps))
    ]
    assert loaded.tokens.dtype == np.int32
    some_steps.select([0]).save(tmp_path / "steps")  # saving again replaces the old ones
    assert len(StepSet.load(tmp_path / "steps")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["steps"]


def test_token_ids_beyond_16_bits_come_back(some_steps, tmp_path):
    large = StepSet(**{**vars(some_steps), "tokens": some_steps.tokens + 140_000})
    large.save(tmp_path / "steps")
    assert np.array_equal(StepSet.load(tmp_path / "steps").tokens, large.tokens)


@pytest.mark.parametrize("file", ["tokens.xz", "answer.xz", "tool_lists.xz", "index.json"])
@pytest.mark.parametrize("damage", ["cut", "edit", "remove"])
def test_a_damaged_folder_is_refused(some_steps, tmp_path, file, damage):
    some_steps.save(tmp_path / "steps")
    path = tmp_path / "steps" / file
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif file == "index.json":
        path.write_bytes(data.replace(b"generated", b"corporate"))
    else:
        path.write_bytes(lzma.compress(lzma.decompress(data)[::-1]))
    with pytest.raises(CorpusError, match="steps"):
        StepSet.load(tmp_path / "steps")


def test_saving_does_not_replace_a_folder_of_something_else(some_steps, tmp_path):
    (tmp_path / "notes.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(CorpusError, match="another folder"):
        some_steps.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "keep me"


def test_an_interrupted_save_leaves_nothing_behind(some_steps, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        some_steps.save(tmp_path / "steps")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_selected_and_joined_steps_keep_their_contents(some_steps, data):
    places = st.lists(st.integers(0, len(some_steps) - 1), max_size=8)
    first, second = data.draw(places), data.draw(places)
    joined = StepSet.concat([some_steps.select(first), some_steps.select(second)])
    assert [contents(joined, index) for index in range(len(joined))] == [
        contents(some_steps, index) for index in first + second
    ]
    parts = joined.conversation[: len(first)], joined.conversation[len(first) :]
    assert not set(parts[0].tolist()) & set(parts[1].tolist())
    assert len(some_steps.select(first).tokens) <= len(some_steps.tokens)


def test_the_digest_tells_contents_apart(some_steps):
    renamed = StepSet(**{**vars(some_steps), "groups": ("corpora", "others")})
    flipped = StepSet(**{**vars(some_steps), "is_tool_call": ~some_steps.is_tool_call})
    assert len({some_steps.digest(), renamed.digest(), flipped.digest()}) == 3
