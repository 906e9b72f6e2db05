"""Saving a bundle: nothing is replaced by accident or by halves, whoever saves, reads or is killed meanwhile."""

import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from tiny_bundles import HIDDEN, NUM_BLOCKS, save_tiny, tiny_lora

from layerroute.bundle import load_bundle
from layerroute.errors import BundleError
from layerroute.lora import LoraModule

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def test_saving_over_something_needs_permission_and_a_bundle(tmp_path):
    save_tiny(tmp_path / "bundle", seed=1)
    with pytest.raises(BundleError, match="overwrite=True"):
        save_tiny(tmp_path / "bundle", seed=2)
    assert load_bundle(tmp_path / "bundle").metadata.training == {"seed": 1}
    save_tiny(tmp_path / "bundle", seed=2, overwrite=True)
    assert load_bundle(tmp_path / "bundle").metadata.training == {"seed": 2}
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(BundleError, match="no bundle"):
        save_tiny(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "precious"


@pytest.mark.parametrize(
    "changes",
    [
        {"gates_bias_L": torch.zeros(NUM_BLOCKS + 1)},
        {"gates_weight_LD": torch.zeros(NUM_BLOCKS)},
        {"kind_weight_D": torch.full((HIDDEN,), float("nan"))},
        {"always_run": (-1,)},
        {"lora": {"model.embed_tokens": LoraModule(torch.zeros(2, 4), torch.zeros(4, 2), 1.0)}},
        {"lora": tiny_lora([0]) | tiny_lora([1], rank=2)},
    ],
)
def test_an_invalid_bundle_never_replaces_a_valid_one(tmp_path, changes):
    save_tiny(tmp_path / "bundle", seed=1)
    with pytest.raises(BundleError):
        save_tiny(tmp_path / "bundle", seed=2, overwrite=True, **changes)
    assert load_bundle(tmp_path / "bundle").metadata.training == {"seed": 1}


def save_killed_before_call(point, folder):
    """Save in a child process that kills itself before the `point`-th of the calls a save makes; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = itertools.count(1)

    def deadly(function):
        def wrapper(*args, **kwargs):
            if next(calls) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapper

    for owner, name in [(os, "fsync"), (Path, "mkdir"), (Path, "rename"), (shutil, "rmtree")]:
        setattr(owner, name, deadly(getattr(owner, name)))
    try:
        save_tiny(folder, seed=2, overwrite=True)
    except BaseException:
        os._exit(1)
    os._exit(0)


@needs_fork
def test_a_save_killed_at_any_point_leaves_a_whole_bundle(tmp_path):
    folder = tmp_path / "bundle"
    save_tiny(folder, seed=1)
    seen = []
    for point in itertools.count(1):
        status = save_killed_before_call(point, folder)
        seen.append(load_bundle(folder).metadata.training["seed"])
        if status == 0:
            break
        assert status == -signal.SIGKILL
        with pytest.raises(BundleError, match="overwrite=True"):  # the old one is known to be there
            save_tiny(folder, seed=3)
        save_tiny(folder, seed=1, overwrite=True)  # and the remains of the killed save are no obstacle
        assert load_bundle(folder).metadata.training == {"seed": 1}
        assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert seen == sorted(seen)
    assert seen.count(1) >= 6
    assert seen.count(2) >= 2


def in_child(work):
    """Run `work` in a forked process; its id."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


@needs_fork
def test_many_save_and_load_the_same_bundle_at_once(tmp_path):
    folder = tmp_path / "bundle"
    save_tiny(folder)

    def save(writer):
        for number in range(25):
            save_tiny(folder, seed=100 * writer + number, overwrite=True)

    def load():
        while not (tmp_path / "done").exists():
            bundle = load_bundle(folder)
            wanted = torch.randn(bundle.gates_weight_LD.shape, generator=seeded(bundle.metadata.training["seed"]))
            assert torch.equal(bundle.gates_weight_LD, wanted)

    def seeded(seed):
        return torch.Generator().manual_seed(seed)

    readers = [in_child(load) for _ in range(2)]
    writers = [in_child(lambda writer=writer: save(writer)) for writer in range(4)]
    ended = [os.waitpid(child, 0)[1] for child in writers]
    (tmp_path / "done").touch()
    ended += [os.waitpid(child, 0)[1] for child in readers]
    assert ended == [0] * 6
    assert load_bundle(folder).metadata.training["seed"] % 100 == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "done"]


def test_a_bundle_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "bundle", tmp_path / ("x" * 255)):
        with pytest.raises(BundleError, match=r"cannot write the bundle .*choose another folder"):
            save_tiny(folder)
