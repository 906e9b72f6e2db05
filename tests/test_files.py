"""Files and folders appear whole or not at all, whoever writes them."""

import os
import signal
import threading

import pytest

from layerroute.files import read_folder, replace_text, replacing


def put(path, content):
    with replacing(path) as staging:
        staging.mkdir()
        (staging / "content").write_text(content)


def content(path):
    return (path / "content").read_text()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_a_folder_take_their_names_at_the_end(tmp_path):
    for old, new in [("none", "first"), ("first", "second")]:
        with replacing(tmp_path / "folder") as staging:
            staging.mkdir()
            (staging / "content").write_text(new)
            assert old == "none" or content(tmp_path / "folder") == old
        assert content(tmp_path / "folder") == new
        replace_text(tmp_path / "deep" / "file", new)
        assert (tmp_path / "deep" / "file").read_text() == new
    assert names(tmp_path) == ["deep", "folder"]
    assert names(tmp_path / "deep") == ["file"]


def test_a_block_that_fails_changes_nothing(tmp_path):
    put(tmp_path / "folder", "old")

    def fail():
        with replacing(tmp_path / "folder") as staging:
            staging.mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert content(tmp_path / "folder") == "old"
    assert names(tmp_path) == ["folder"]


def test_a_file_of_a_like_name_is_left_alone(tmp_path):
    for name in (".file.old", ".folder.txt.saving", ".files.saving", ".file.saving.txt"):
        (tmp_path / name).write_text("precious")
    before = names(tmp_path)
    replace_text(tmp_path / "file", "new")
    put(tmp_path / "folder", "new")
    assert names(tmp_path) == sorted([*before, "file", "folder"])


def test_threads_take_turns(tmp_path):
    def write(number):
        for _ in range(20):
            replace_text(tmp_path / "file", f"{number}" * 1000)
            put(tmp_path / "folder", f"{number}" * 1000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        text = read_folder(tmp_path / "folder", content, OSError) if (tmp_path / "folder").exists() else "0" * 1000
        assert text in {f"{number}" * 1000 for number in range(4)}
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_makes_is_not(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with replacing(tmp_path / "folder") as staging:
            staging.mkdir()
            os.write(writer, b".")
            signal.pause()
    os.read(reader, 1)
    waiting = threading.Thread(target=put, args=(tmp_path / "folder", "new"))
    waiting.start()
    assert len(names(tmp_path)) == 1  # of the living one, for which the other waits
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    waiting.join()
    assert names(tmp_path) == ["folder"]
    assert content(tmp_path / "folder") == "new"


def test_an_error_that_nobody_else_caused_is_raised(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_folder(tmp_path / "folder", content, OSError)


def test_reading_begins_again_if_the_folder_was_replaced_meanwhile(tmp_path):
    put(tmp_path / "folder", "old")
    seen = []

    def read(folder):
        seen.append(content(folder))
        if seen == ["old"]:
            put(tmp_path / "folder", "new")
            raise FileNotFoundError
        return seen[-1]

    assert read_folder(tmp_path / "folder", read, OSError) == "new"
