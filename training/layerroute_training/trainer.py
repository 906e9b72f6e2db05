"""The trainer: RoutedModel and an objective inside `transformers.Trainer`, resumable bit for bit.

Everything that is random in an update is a function of the seed and the number of the micro-batch, so a
checkpoint needs no state of a random generator and no position in a data set.

Shape suffixes: B steps of a micro-batch, L blocks.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from layerroute_training.batching import StepBatches, collate
from layerroute_training.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from layerroute_training.config import TrainConfig
from layerroute_training.objectives import Objective
from layerroute_training.optimizer import ClippedAdamW
from layerroute_training.routed_model import RoutedModel
from layerroute_training.run_log import Meter, RunLog
from layerroute_training.schedule import rate_factor
from layerroute_training.scoring import scored_tokens
from layerroute_training.steps import StepSet

CHECKPOINTS = "checkpoints"
"""Name of the folder of a run's checkpoints."""

Inputs = dict[str, Any]


class MicroBatches(Dataset[Inputs]):
    """The micro-batches of these numbers, collated, with the places of the scored tokens."""

    def __init__(self, steps: StepSet, batches: StepBatches, numbers: range, *, every_token: bool) -> None:
        self._steps, self._batches, self._numbers, self._every_token = steps, batches, numbers, every_token

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Inputs:
        number = self._numbers[index]
        indices = self._batches[number]
        batch = collate(self._steps, indices)
        batch["scored_at_A"] = scored_tokens(
            batch["prompt_lengths_B"],
            batch["lengths_B"],
            batch["tokens_BT"].shape[1],
            every_token=self._every_token,
        )
        return {"number": number, "tokens": int(self._steps.lengths[indices].sum()), "batch": batch}


class LayerRouteTrainer(Trainer):  # type: ignore[misc]
    """Trains the gates and the LoRA of a RoutedModel.

    Attributes:
        done: updates that an earlier part of the run did.
    """

    def __init__(
        self,
        model: RoutedModel,
        objective: Objective,
        config: TrainConfig,
        steps: StepSet,
        out: Path,
        run: Mapping[str, Any],
        *,
        quiet: bool = False,
    ) -> None:
        """Set up a run, from its newest checkpoint if `out` holds one.

        Args:
            model: as `RoutedModel.from_config` makes it.
            objective: as `make_objective` makes it.
            config: of the run.
            steps: training steps.
            out: folder of the run.
            run: what decides the run's result (see `Checkpoint`).
            quiet: show no progress bar.

        Raises:
            CheckpointError: the checkpoint is of another run, or damaged.
        """
        self.config, self.objective, self.steps = config, objective, steps
        super().__init__(model=model, args=_arguments(config, out, quiet), callbacks=[_RunCallback(self)])
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        if not quiet:
            self.add_callback(_Progress())
        # The objective's means over a micro-batch are not the sum over tokens that Trainer would divide by itself.
        self.model_accepts_loss_kwargs = False
        self._folder, self._run = out / CHECKPOINTS, run
        self.objective.to(self.args.device)
        self._adamw = ClippedAdamW(model.trainable(), config.schedule)
        self.optimizer = self._adamw
        checkpoint = newest_checkpoint(self._folder, run)
        self.done = checkpoint.update if checkpoint else 0
        if checkpoint:
            self._restore(checkpoint.tensors)
        self._log = RunLog(out, self.done) if self.is_world_process_zero() else None
        self._meter = Meter()

    @property
    def routed(self) -> RoutedModel:
        """The model, whatever it is wrapped in while training."""
        model: RoutedModel = self.model
        return model

    @property
    def skipped_updates(self) -> int:
        """Updates left out because a gradient was not finite."""
        return int(self._adamw.skipped.item())

    # What transformers.Trainer asks for

    def get_train_dataloader(self) -> DataLoader[Inputs]:
        """The micro-batches that are left."""
        schedule, data = self.config.schedule, self.config.data
        batches = StepBatches(
            self.steps,
            schedule.batch,
            data.mixture,
            self.config.seed,
            rank=self.args.process_index,
            world_size=self.args.world_size,
        )
        first, last = (updates * schedule.accumulation for updates in (self.done, schedule.updates))
        on_gpu = self.args.device.type == "cuda"
        return DataLoader(
            MicroBatches(self.steps, batches, range(first, last), every_token=self.objective.every_token),
            batch_size=None,
            num_workers=2 if on_gpu else 0,
            pin_memory=on_gpu,
        )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The learning rates, per update."""
        schedule, done = self.config.schedule, self.done
        self.lr_scheduler = LambdaLR(self._adamw, lambda update: rate_factor(schedule, done + update))
        return self.lr_scheduler

    def compute_loss(
        self, model: nn.Module, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective on one micro-batch."""
        batch, number = inputs["batch"], inputs["number"]
        where = {name: batch[name] for name in ("tokens_BT", "prompt_lengths_B", "lengths_B", "scored_at_A")}
        device = batch["tokens_BT"].device
        random = torch.Generator(device).manual_seed(self._seed_of(number))
        torch.manual_seed(self._seed_of(number))  # the LoRA's drop-out knows only the global generator
        output = model(
            **where,
            run_BL=self.objective.programs(batch["index_B"]),
            noise_BL=self._noise(number, len(batch["tokens_BT"]), random),
        )
        full_nll_A = None
        if self.objective.needs_full_depth:
            with torch.no_grad():
                full_nll_A = self.routed(**where, run_BL=torch.ones_like(output.run_BL)).nll_A
        loss, metrics = self.objective.loss(output, batch["is_tool_call_B"], batch["group_B"], full_nll_A)
        self._meter.add({"loss": loss.detach(), **metrics}, inputs["tokens"])
        return (loss, output) if return_outputs else loss

    def _prepare_input(self, data: Any) -> Any:
        """Move tensors to the device without waiting for it: they are in pinned memory."""
        if isinstance(data, Tensor):
            return data.to(self.args.device, non_blocking=True)
        return {name: self._prepare_input(value) for name, value in data.items()} if isinstance(data, dict) else data

    # What a run draws, keeps and reports

    def after_update(self, update: int) -> None:
        """Finish an update: multipliers, metrics and checkpoint."""
        self.objective.end_update()
        self._meter.end_update(self.args.device)
        last = update == self.config.schedule.updates
        if last or update % self.config.log_every == 0:
            self._record(update)
        if self._log is not None and (last or update % self.config.checkpoint_every == 0):
            save_checkpoint(self._folder, Checkpoint(update, self._state(), self._run))
        if self._log is not None and last:
            self._log.close()

    def _record(self, update: int) -> None:
        names, values = self._meter.drain()
        totals = torch.stack([*values, self._adamw.gradient_norm, self._adamw.skipped])
        means = self.accelerator.reduce(totals, "mean").tolist()  # the only wait for the device
        metrics = dict(zip([*names, "gradient_norm", "skipped_updates"], means, strict=True))
        schedule = self.config.schedule
        factor = rate_factor(schedule, update - 1)
        metrics |= {"lora_rate": schedule.lora_rate * factor, "gate_rate": schedule.gate_rate * factor}
        if self._log is not None:
            self._log.write(update, metrics | self._meter.throughput(self.args.world_size))

    def _seed_of(self, number: int) -> int:
        seed: int = (self.config.seed * 1_000_003 + number) * 1_009 + self.args.process_index
        return seed

    def _noise(self, number: int, rows: int, random: torch.Generator) -> Tensor | None:
        """Logistic noise [B, L] on the gates' logits (the concrete relaxation, arXiv 1611.00712 section 2.2)."""
        routers, schedule = self.config.routers, self.config.schedule
        if not routers.noise or number >= routers.quiet_from * schedule.updates * schedule.accumulation:
            return None
        shape = (rows, len(self.routed.gates_bias_L))
        return torch.logit(torch.rand(shape, generator=random, device=random.device).clamp(1e-6, 1 - 1e-6))

    def _state(self) -> dict[str, Tensor]:
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.routed.trainable(),
            "optimizer": self._adamw.named_state(),
            "objective": self.objective.state_dict(),
        }
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        saved = _under("model.", tensors)
        with torch.no_grad():
            for name, parameter in self.routed.trainable().items():
                parameter.copy_(saved[name])
        self._adamw.load_named_state(_under("optimizer.", tensors))
        self.objective.load_state_dict(_under("objective.", tensors))


class _RunCallback(TrainerCallback):  # type: ignore[misc]
    """Ties a run to Trainer's loop: where it starts, and what follows an update."""

    def __init__(self, trainer: LayerRouteTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.global_step = self._trainer.done

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.after_update(state.global_step)


class _Progress(ProgressCallback):  # type: ignore[misc]
    """Trainer's progress bar without its lines of numbers: these are in `metrics.jsonl`."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        pass


def _arguments(config: TrainConfig, out: Path, quiet: bool) -> TrainingArguments:
    """Trainer's own arguments: its loop and its processes, none of its checkpoints, logs or number types."""
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=config.schedule.updates,
        per_device_train_batch_size=config.schedule.batch,
        gradient_accumulation_steps=config.schedule.accumulation,
        seed=config.seed,
        max_grad_norm=0.0,  # ClippedAdamW clips
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # would wait for the device at every micro-batch
        report_to="none",
        disable_tqdm=quiet,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),  # Trainer wants to be told, or the processes of torchrun stay apart
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )
    if os.environ.get("WORLD_SIZE", "1") == "1":
        arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are used by torchrun, never by DataParallel
    return arguments


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
