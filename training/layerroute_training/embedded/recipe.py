"""The embedded model's recipe: pre-train the backbone, fit the routers, evaluate, export.

    python -m layerroute_training.embedded.recipe --data DIR --out DIR [--minutes M] [--resume] [--pack DIR]

A call that runs out of `--minutes` saves and stops; the next one, with `--resume`, continues exactly. The output folder
holds `embedded/` (the Hugging Face folder) with `embedded/bundle/`, `fitted/` (the routers as plain tensors),
`evaluation.json`, `journal.jsonl` and the checkpoint `pretrain.pt`.
"""

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors.torch import load_file

from layerroute_training.embedded.batches import read_documents
from layerroute_training.embedded.evaluate import evaluate_routing, targets_met
from layerroute_training.embedded.export import export_backbone, load_backbone, save_routers, write_bundle
from layerroute_training.embedded.fit_routers import RouterConfig, RouterFit, Routers, describe
from layerroute_training.embedded.network import Network, NetworkShape
from layerroute_training.embedded.optim import Clock
from layerroute_training.embedded.pretrain import AnswerSkips, Depths, PretrainConfig, Pretraining
from layerroute_training.embedded.runtime import Journal, choose_runtime

PIECE_BYTES = 15_000_000
CLOSING_SECONDS = 25.0  # dev evaluation, export and checkpoint at the end of a call
SETUP_SECONDS = 60.0  # compilation and evaluation around the fit of the routers


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result.

    Attributes:
        pretrain_minutes, router_minutes: training time of the stages on a GPU; on a CPU their `steps` count.
        dev_turns: turns of each group and kind in the evaluation.
    """

    shape: NetworkShape = field(default_factory=NetworkShape)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    routers: RouterConfig = field(default_factory=RouterConfig)
    pretrain_minutes: float = 8.5
    router_minutes: float = 2.25
    dev_turns: int = 1_500


TINY_SKIPS = AnswerSkips((2, 1), tool_call=(Depths(0.5, 1, 2),), planning=(Depths(0.5, 1, 1),))
TINY = Recipe(
    shape=NetworkShape(hidden_size=32, num_blocks=4, num_heads=2, head_dim=16, intermediate_size=48),
    pretrain=PretrainConfig(
        rows=2, row_tokens=512, steps=6, warmup_steps=2, log_every=2, dev_batches=2, answer_skips=TINY_SKIPS
    ),
    routers=RouterConfig(steps=6, longest_prompt=384, longest_answer=128, rank=2, alpha=4, log_every=2),
    dev_turns=8,
)


class Run:
    """One call of the recipe."""

    def __init__(self, recipe: Recipe, data: Path, out: Path, deadline: float, timed: bool) -> None:
        """Prepare a call that ends before `monotonic()` reaches `deadline`; `timed` stages are planned in minutes."""
        self.recipe, self.data, self.out, self.deadline = recipe, data, out, deadline
        self.journal = Journal(out / "journal.jsonl")
        self.train = read_documents(data, "backbone")
        # The backbone is watched on the rows that routers are fitted to: it never sees them, and dev stays untouched.
        self.unseen = [group for group in read_documents(data, "fit") if len(group.turns.begin)]
        self.network = Network(recipe.shape)
        self.network.initialise(recipe.pretrain.seed)
        self.runtime = choose_runtime(self.network, recipe.pretrain.rows, recipe.pretrain.row_tokens, self.journal)
        self.timed = timed and self.runtime.device.type == "cuda"
        sizes = {group.name: {"tokens": len(group.tokens), "turns": len(group.turns.begin)} for group in self.train}
        self.journal.write("data", {"train": sizes, "parameters": sum(p.numel() for p in self.network.parameters())})

    @property
    def backbone_folder(self) -> Path:
        """The exported backbone."""
        return self.out / "embedded"

    def pretrain(self, resume: bool) -> bool:
        """Train and export the backbone, as far as time allows. True when the stage is complete."""
        seconds = self.recipe.pretrain_minutes * 60 if self.timed else None
        clock = Clock(self.recipe.pretrain.steps, seconds)
        parts = (
            self.recipe.pretrain,
            self.network,
            self.runtime,
            self.train,
            self.unseen,
            clock,
            self.out,
            self.journal,
        )
        training = Pretraining(*parts)
        if resume:
            resumed = training.resume()
            self.journal.write("resume", {"found": resumed, "step": clock.step, "trained_seconds": clock.trained})
        complete = training.run(self.deadline - CLOSING_SECONDS)
        kept = training.adopt_better_weights()
        export_backbone(self.network, self.data / "tokenizer", self.backbone_folder)
        summary = {"complete": complete, "step": clock.step, "trained_seconds": clock.trained, "kept": kept}
        self.journal.write("pretrained", summary)
        _write_json(self.out / "pretrained.json", summary)
        return complete

    def fit_routers(self) -> None:
        """Fit the routers to the exported backbone."""
        load_backbone(self.network, self.backbone_folder)
        seconds = self.recipe.router_minutes * 60 if self.timed else None
        clock = Clock(self.recipe.routers.steps, seconds)
        fit = RouterFit(self.recipe.routers, self.network, self.runtime, self.train, clock, self.journal)
        complete = fit.run(self.deadline - CLOSING_SECONDS)
        training = describe(self.recipe.routers, clock, fit.constraints) | {"complete": complete}
        save_routers(fit.routers, {"training": training, "evaluation": {}}, self.out / "fitted")
        self.journal.write("fitted", training)

    def evaluate(self) -> dict[str, Any]:
        """Evaluate the fitted routers and write the tables, beside them and into the bundle."""
        load_backbone(self.network, self.backbone_folder)
        routers = Routers(self.network, self.recipe.routers)
        routers.load_state_dict(load_file(self.out / "fitted" / "fitted.safetensors"))
        routers.to(self.runtime.device)
        dev = [group for group in read_documents(self.data, "dev") if len(group.turns.begin)]
        result = evaluate_routing(self.network, routers, self.runtime, dev, self.recipe.routers, self.recipe.dev_turns)
        result["targets"] = targets_met(result)
        notes = json.loads((self.out / "fitted" / "fitted.json").read_text(encoding="utf-8"))
        save_routers(routers, {"training": notes["training"], "evaluation": result}, self.out / "fitted")
        _write_json(self.out / "evaluation.json", result)
        self.journal.write("evaluation", result)
        try:
            write_bundle(self.out / "fitted", self.backbone_folder, self.backbone_folder / "bundle", "embedded")
        except ModuleNotFoundError as error:
            self.journal.write(
                "bundle", {"written": False, "reason": f"{error}: run --stage bundle where it is installed"}
            )
        return result

    def time_left(self) -> float:
        """Seconds until the call has to end."""
        return self.deadline - monotonic()


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
    """Run the recipe. Returns 0 when every stage asked for is complete, 3 when another call has to follow."""
    started = monotonic()
    options = _parser().parse_args(arguments)
    if options.stage == "bundle":
        write_bundle(options.out / "fitted", options.out / "embedded", options.out / "embedded" / "bundle", "embedded")
        return 0
    if options.stage in ("pretrain", "all") and (options.out / "pretrain.pt").exists() and not options.resume:
        sys.exit(f"{options.out} holds a checkpoint: pass --resume to continue it, or another --out")
    recipe = _chosen_recipe(options)
    deadline = started + options.minutes * 60
    run = Run(recipe, options.data, options.out, deadline, timed=not options.steps)
    run.journal.write("recipe", {"stage": options.stage, **asdict(recipe)})
    try:
        return _stages(run, options.stage, options.resume)
    finally:
        if options.pack is not None:
            pack(options.out, options.pack)


def _stages(run: Run, stage: str, resume: bool) -> int:
    if stage in ("pretrain", "all") and not run.pretrain(resume):
        run.journal.write("incomplete", {"next": "call again with --resume"})
        return 3
    if stage in ("routers", "all"):
        needed = run.recipe.router_minutes * 60 + SETUP_SECONDS + CLOSING_SECONDS if run.timed else 0.0
        if run.time_left() < needed:
            run.journal.write("incomplete", {"next": "call again with --stage routers"})
            return 3
        run.fit_routers()
    if stage in ("routers", "evaluate", "all"):
        run.evaluate()
    return 0


def _chosen_recipe(options: argparse.Namespace) -> Recipe:
    recipe = TINY if options.tiny else Recipe()
    if options.total_minutes is not None:
        recipe = replace(recipe, pretrain_minutes=options.total_minutes)
    if options.router_minutes is not None:
        recipe = replace(recipe, router_minutes=options.router_minutes)
    if options.tool_call_skip is not None:
        recipe = replace(recipe, routers=replace(recipe.routers, tool_call_skip=options.tool_call_skip))
    return recipe


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m layerroute_training.embedded.recipe", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, model and journal")
    parser.add_argument("--stage", choices=("pretrain", "routers", "evaluate", "bundle", "all"), default="all")
    parser.add_argument("--minutes", type=float, default=1e6, help="save and stop before this call has taken so long")
    parser.add_argument("--total-minutes", type=float, help="training time of the pre-training over all calls (GPU)")
    parser.add_argument("--router-minutes", type=float, help="training time of the routers (GPU)")
    parser.add_argument("--tool-call-skip", type=float, help="target share of skipped visits on tool-call steps")
    parser.add_argument("--steps", action="store_true", help="plan by steps on a GPU too")
    parser.add_argument("--resume", action="store_true", help="continue the checkpoint in --out")
    parser.add_argument("--tiny", action="store_true", help="a recipe for tests: the whole path in seconds")
    parser.add_argument("--pack", type=Path, help="also write the results there as tar pieces of at most 15 MB")
    return parser


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
