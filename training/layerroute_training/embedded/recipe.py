"""The embedded backbone's recipe: pre-train it in two stages and export it.

    python -m layerroute_training.embedded.recipe --data DIR --out FIRST [--minutes M] [--resume] [--pack DIR]
    python -m layerroute_training.embedded.recipe --data DIR --out SECOND --start FIRST/embedded [...]

The second stage starts from what the first exported, and prepares tool calls for a third of the blocks being skipped. A
call that runs out of `--minutes` saves and stops; the next one, with `--resume`, continues exactly. The output folder
holds `embedded/` (the Hugging Face folder), `journal.jsonl` and the checkpoint `pretrain.pt`. LoRA and routers are
trained on it by `layerroute train`.
"""

import argparse
import io
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic

import torch

from layerroute_training.embedded.batches import read_documents
from layerroute_training.embedded.export import export_backbone, load_backbone
from layerroute_training.embedded.network import Network, NetworkShape
from layerroute_training.embedded.optim import Clock
from layerroute_training.embedded.pretrain import AnswerSkips, Depths, PretrainConfig, Pretraining
from layerroute_training.embedded.runtime import Journal, choose_runtime

PIECE_BYTES = 15_000_000
CLOSING_SECONDS = 25.0  # dev evaluation, export and checkpoint at the end of a call


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result.

    Attributes:
        minutes: training time on a GPU, over all calls; on a CPU `pretrain.steps` count.
    """

    shape: NetworkShape = field(default_factory=NetworkShape)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    minutes: float = 8.5


TINY_SKIPS = AnswerSkips((2, 1), tool_call=(Depths(0.5, 1, 2),), planning=(Depths(0.5, 1, 1),))
TINY = Recipe(
    shape=NetworkShape(hidden_size=32, num_blocks=4, num_heads=2, head_dim=16, intermediate_size=48),
    pretrain=PretrainConfig(
        rows=2, row_tokens=512, steps=6, warmup_steps=2, log_every=2, dev_batches=2, answer_skips=TINY_SKIPS
    ),
)


SECOND_SKIPS = AnswerSkips(
    (11, 17, 14, 20, 22, 5, 8, 16, 13, 2, 7, 4),
    random_share=0.05,
    tool_call=(Depths(0.85, 7, 8), Depths(0.1, 1, 12)),
    planning=(Depths(0.4, 1, 2), Depths(0.1, 1, 8)),
)
"""Mostly the depth that is asked of tool calls, in the order in which gates of the first stage gave blocks up."""
SECOND = Recipe(
    pretrain=PretrainConfig(
        matrix_rate=2e-3,
        vector_rate=1e-3,
        decay_from=0.1,
        anneal_from=0.0,
        dropout_from=0.0,
        steps=1_800,
        answer_skips=SECOND_SKIPS,
        seed=1,
    ),
    minutes=2.5,
)
"""The second stage: half the rate, decaying at once."""


def run(
    recipe: Recipe,
    data: Path,
    out: Path,
    deadline: float,
    *,
    start: Path | None = None,
    timed: bool = True,
    resume: bool = False,
) -> bool:
    """Train and export the backbone, as far as time allows.

    Args:
        recipe: what to train, and how long.
        data: folder that `prepare` wrote.
        out: gets checkpoint, backbone and journal.
        deadline: value of `monotonic()` before which the call ends.
        start: folder of an exported backbone whose weights are trained on; None for random ones.
        timed: plan in minutes on a GPU; otherwise, and on a CPU, in steps.
        resume: continue the checkpoint in `out`, if there is one.

    Returns:
        Whether the training is complete.

    Raises:
        FileNotFoundError, ValueError: `start` has no weights, or those of another shape.
    """
    journal = Journal(out / "journal.jsonl")
    journal.write("recipe", asdict(recipe))
    train = read_documents(data, "backbone")
    # The backbone is watched on the rows that routers are fitted to: it never sees them, and dev stays untouched.
    unseen = [group for group in read_documents(data, "fit") if len(group.turns.begin)]
    network = Network(recipe.shape)
    network.initialise(recipe.pretrain.seed)
    sizes = {group.name: {"tokens": len(group.tokens), "turns": len(group.turns.begin)} for group in train}
    journal.write("data", {"train": sizes, "parameters": sum(p.numel() for p in network.parameters())})
    runtime = choose_runtime(network, recipe.pretrain.rows, recipe.pretrain.row_tokens, journal)
    if start is not None:  # after the choice, whose tolerance is for fresh weights
        load_backbone(network, start)
    clock = Clock(recipe.pretrain.steps, recipe.minutes * 60 if timed and runtime.device.type == "cuda" else None)
    training = Pretraining(recipe.pretrain, network, runtime, train, unseen, clock, out, journal)
    if resume:
        found = training.resume()
        journal.write("resume", {"found": found, "step": clock.step, "trained_seconds": clock.trained})
    complete = training.run(deadline - CLOSING_SECONDS)
    kept = training.adopt_better_weights()
    export_backbone(network, data / "tokenizer", out / "embedded")
    done = {"complete": complete, "step": clock.step, "trained_seconds": clock.trained, "kept": kept}
    journal.write("pretrained", done)
    return complete


def pack(out: Path, destination: Path) -> list[Path]:
    """Write everything but the checkpoint as pieces of one tar file: `cat embedded.tar.* | tar x` unpacks them."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in sorted(out.rglob("*")):
            if path.is_file() and path.stem != "pretrain" and destination not in path.parents:
                tar.add(path, arcname=str(path.relative_to(out)))
    data = archive.getvalue()
    destination.mkdir(parents=True, exist_ok=True)
    pieces = []
    for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
        piece = destination / f"embedded.tar.{number:02d}"
        piece.write_bytes(data[start : start + PIECE_BYTES])
        pieces.append(piece)
    return pieces


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe. Returns 0 when the training is complete, 3 when another call has to follow."""
    started = monotonic()
    options = _parser().parse_args(arguments)
    if (options.out / "pretrain.pt").exists() and not options.resume:
        sys.exit(f"{options.out} holds a checkpoint: pass --resume to continue it, or another --out")
    recipe = TINY if options.tiny else Recipe() if options.start is None else SECOND
    if options.total_minutes is not None:
        recipe = replace(recipe, minutes=options.total_minutes)
    deadline = started + options.minutes * 60
    try:
        complete = run(
            recipe,
            options.data,
            options.out,
            deadline,
            start=options.start,
            timed=not options.steps,
            resume=options.resume,
        )
    finally:
        if options.pack is not None:
            pack(options.out, options.pack)
    return 0 if complete else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m layerroute_training.embedded.recipe", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, model and journal")
    parser.add_argument("--start", type=Path, help="exported folder of the first stage: run the second one from it")
    parser.add_argument("--minutes", type=float, default=1e6, help="save and stop before this call has taken so long")
    parser.add_argument("--total-minutes", type=float, help="training time over all calls (GPU)")
    parser.add_argument("--steps", action="store_true", help="plan by steps on a GPU too")
    parser.add_argument("--resume", action="store_true", help="continue the checkpoint in --out")
    parser.add_argument("--tiny", action="store_true", help="a recipe for tests: the whole path in seconds")
    parser.add_argument("--pack", type=Path, help="also write the results there as tar pieces of at most 15 MB")
    return parser


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
