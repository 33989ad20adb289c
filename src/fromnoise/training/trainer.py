"""The one training loop, a generator of reports: whoever iterates draws the bar, logs, saves, previews, stops."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from fromnoise.data import Batch, BatchStream, Data, shuffled_indices, to_float
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.diffusion.losses import LossTerms, loss_by_time, self_condition_mask
from fromnoise.model import Model
from fromnoise.networks import kernels
from fromnoise.training import fit_pseudo_labels
from fromnoise.training.distributed import agree
from fromnoise.training.ema import EMA
from fromnoise.training.optim import Budget, OptimizerStep, learning_rate, optimizer_from_config
from fromnoise.training.progress import StepReport, TrainingProgress, peak_memory
from fromnoise.utils.device import ComputeConfig
from fromnoise.utils.errors import UserError

_PATIENCE = 5  # steps dropped in a row before going back
_ROLLBACKS = 10  # without a good step between them, before giving up


class Trainer:
    """Trains a model's denoiser on a stream of images.

    Every step is a function of the state before it and of its position in the stream.
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        compute: ComputeConfig,
        accelerator: Accelerator,
        last_good: Callable[[int], tuple[dict[str, Tensor], dict[str, Any]] | None] = lambda skip: None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Join model, data and processes.

        Args:
            model: its weights are trained in place.
            data: training and held-out images.
            compute: where and how precisely.
            accelerator: of the processes.
            last_good: gives the state to go back to after repeated non-finite steps; its argument is how many newer
                ones were tried in vain.
            log: takes lines for people.

        Raises:
            UserError: the batch cannot be shared evenly.
        """
        recipe = model.recipe.train
        self.model, self.data, self.compute, self.accelerator = model, data, compute, accelerator
        self.recipe, self._last_good, self._log = recipe, last_good, log
        parts = accelerator.num_processes * recipe.accumulate
        if recipe.batch % parts:
            raise UserError(
                f"train.batch {recipe.batch} cannot be shared by {parts} (processes x accumulate): "
                f"take a multiple of {parts}"
            )
        self.budget = Budget.from_config(recipe, len(data.train))
        self.progress = TrainingProgress()
        self.stopping = self._asked = False
        self._parts = recipe.accumulate
        kernels.enable()
        compute.to_device(model.denoiser)
        self.ema = EMA(model.recipe.ema, model.denoiser, Fraction(len(data.train), recipe.batch))
        self.averaged = copy.deepcopy(model.denoiser).eval().requires_grad_(False)
        self.optimizer_step = OptimizerStep(optimizer_from_config(recipe), model.denoiser, recipe.lr, compute.dtype)
        self._dropout = any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.denoiser.modules())
        objective = model.diffusion_loss()
        self.time_sampler = objective.time_sampler
        self.objective = accelerator.prepare(objective)
        self._held_out = model.diffusion_loss()
        self.stream = BatchStream(data.train, recipe.seed, model.recipe.data.flip, workers=model.recipe.data.workers)

    def find_clusters(self) -> None:
        """Fit the pseudo-labels, if the model uses them."""
        if self.model.denoiser.pseudo_labels is not None:
            found = fit_pseudo_labels.fit_synchronized(
                self.model.denoiser.pseudo_labels, self.stream, self.recipe.seed, self.accelerator
            )
            self._log(f"{found} clusters of the training images as pseudo-labels (data.pseudo_labels)")

    # ---- the loop

    def run(self) -> Iterator[StepReport]:
        """Train until the budget is used or ``stop`` was called; one report a step."""
        begun, before = time.monotonic(), self.progress.seconds
        first = self.progress.step
        processes = self.accelerator.num_processes
        batches = self.stream.iterate(
            first * self.recipe.batch, self.recipe.batch // processes, self.accelerator.process_index, processes
        )
        try:
            while self.fraction < 1 and not self.stopping:
                share = self.fraction
                loss, gradient, lr = self._step(next(batches))
                clock = before + time.monotonic() - begun
                self.progress.seconds, self.stopping = agree(self.accelerator, self.compute.device, clock, self._asked)
                yield self._report(loss, gradient, lr, share, begun, first)
        finally:
            batches.close()

    @property
    def fraction(self) -> float:
        """Share of the budget used."""
        return self.budget.used(self.progress.step, self.progress.seconds)

    def stop(self) -> None:
        """End the loop after this step, in every process."""
        self._asked = True

    def _step(self, batch: Batch) -> tuple[float, float, float]:
        """One optimiser step; loss over all processes, norm of the gradient, learning rate."""
        p = self.progress
        lr = learning_rate(self.recipe, p.step, self.fraction) * p.lr_scale
        if self._dropout:  # nothing else draws from torch's own generator
            torch.manual_seed(_mix(self.recipe.seed, p.step, self.accelerator.process_index))
        if not self.model.denoiser.training:  # of every module, which takes longer than to ask
            self.model.denoiser.train()
        loss = self._within_memory(batch)
        norm = self.optimizer_step.clip(self.recipe.clip)
        p.step += 1
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer_step.step(lr)
            self.ema.update(p.step, loss)
            p.loss_sum, p.loss_count = p.loss_sum + loss, p.loss_count + 1
            p.dropped_in_row = p.rollbacks_in_row = 0
        else:
            self._drop()
        self.optimizer_step.zero_grad()
        return loss, norm, lr

    def _within_memory(self, batch: Batch) -> float:
        """``_gradients`` in as many parts as the GPU's memory asks for; found out at the first step that is too large.

        Raises:
            UserError: not even one image at a time fits, or several processes would have to agree.
        """
        while True:
            try:
                return self._gradients(batch, self._parts)
            except torch.OutOfMemoryError:
                size = len(batch.positions) // self._parts
                if size % 2 or self.accelerator.num_processes > 1:
                    raise UserError(
                        f"{size} images at a time do not fit in memory: raise train.accumulate (now {self._parts}), "
                        "take a smaller network, or set network.recompute true"
                    ) from None
            self.optimizer_step.zero_grad()
            torch.cuda.empty_cache()
            self._parts *= 2
            self._log(f"{size} images at a time do not fit in memory: going on with {size // 2}")

    def _gradients(self, batch: Batch, parts: int) -> float:
        """Accumulate the gradient of the mean loss over equal parts; the mean itself, over all processes."""
        seen: list[LossTerms] = []
        guess = self_condition_mask(self.recipe.seed, self.progress.step)
        size = len(batch.positions) // parts
        for part in range(parts):
            cut = slice(part * size, (part + 1) * size)
            x0, cond = self._images(batch.pixels[cut], batch.labels[cut] if batch.labels is not None else None)
            sync = self.accelerator.no_sync(self.objective) if part < parts - 1 else contextlib.nullcontext()
            with sync:
                with self.compute.autocast():
                    losses: LossTerms = self.objective(x0, batch.positions[cut], cond, self_condition=guess)
                (losses.weighted.mean() / parts).backward()
            seen.append(losses)
        return self._observe(seen)

    def _observe(self, seen: list[LossTerms]) -> float:
        """Tell the drawing of times the losses of all processes; their mean."""
        mine = torch.stack(
            [torch.cat([part.weighted.detach() for part in seen]), torch.cat([p.unweighted for p in seen])], 1
        )
        losses = cast(Tensor, self.accelerator.gather(mine)).cpu()
        if self.time_sampler.state_dict() and bool(losses.isfinite().all()):
            u = torch.cat([part.u for part in seen]).to(self.compute.device)
            self.time_sampler.update(cast(Tensor, self.accelerator.gather(u)).cpu(), losses[:, 1])
        return float(losses[:, 0].mean())

    def _images(self, pixels: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Images in [-1, 1] where the network is, and what the model is told of them."""
        x0 = to_float(pixels.to(self.compute.device, non_blocking=True)).contiguous(
            memory_format=self.compute.memory_format
        )
        if self.model.denoiser.pseudo_labels is not None:
            return x0, self.model.denoiser.pseudo_labels.assign(x0)
        if not self.model.dataset_info.is_conditional or labels is None:
            return x0, None
        return x0, labels.to(self.compute.device, non_blocking=True)

    def _drop(self) -> None:
        """Count a non-finite step; after several go back to the last good state with half the learning rate."""
        p = self.progress
        p.dropped, p.dropped_in_row = p.dropped + 1, p.dropped_in_row + 1
        self._log(f"step {p.step}: loss or gradient is not finite; the step is dropped ({p.dropped} so far)")
        if p.dropped_in_row < _PATIENCE:
            return
        if p.rollbacks_in_row >= _ROLLBACKS:
            raise UserError(
                f"the loss is not finite, even at {p.lr_scale:.2g} of the learning rate: "
                "look at the data with fromnoise show data, or lower --train.lr"
            )
        state = self._last_good(p.rollbacks_in_row)
        if state is not None:
            self._load_tensors(state[0])
        p.lr_scale, p.dropped_in_row = p.lr_scale / 2, 0
        p.rollbacks, p.rollbacks_in_row = p.rollbacks + 1, p.rollbacks_in_row + 1
        back = f"back to the weights of step {state[1]['progress']['step']}" if state is not None else "going on"
        self._log(
            f"step {p.step}: {_PATIENCE} dropped in a row; {back} with the learning rate halved (now x{p.lr_scale:.3g})"
        )

    # ---- reports

    def _report(self, loss: float, gradient: float, lr: float, share: float, begun: float, first: int) -> StepReport:
        p = self.progress
        measure = int(share * self.recipe.evaluations) != int(self.fraction * self.recipe.evaluations) or p.step == 1
        kept = measure or p.step % self.recipe.report_every == 0
        mean = p.loss_sum / p.loss_count if p.loss_count else loss
        losses = self.evaluate() if measure else {}
        if kept:
            p.loss_sum, p.loss_count = 0.0, 0
        spent = time.monotonic() - begun
        left = spent / max(1e-9, self.fraction - self.budget.used(first, p.seconds - spent)) * (1 - self.fraction)
        clock = {
            "seconds": round(p.seconds, 2),
            "images_per_second": round((p.step - first) * self.recipe.batch / max(1e-9, spent), 2),
            "left_seconds": round(left, 1),
            "memory_mb": round(peak_memory(self.compute.device)),
        }
        return StepReport(
            p.step,
            p.step * self.recipe.batch,
            mean,
            lr,
            self.fraction,
            p.dropped,
            p.rollbacks,
            gradient,
            kept,
            clock=clock,
            **losses,
        )

    @torch.inference_mode()
    def evaluate(self) -> dict[str, Any]:
        """Loss on held-out images, each with a time and noise of its own that never change, so that curves compare.

        Returns:
            ``held_out`` and ``loss_by_t`` with the averaged weights, ``held_out_raw`` with the raw ones.
        """
        live = self.model.denoiser.eval()
        raw, times = self._measure(live)
        averaged = raw
        if self.ema.active:
            self.refresh()
            averaged, times = self._measure(self.averaged)
        bins = loss_by_time(averaged, times).tolist()
        return {
            "held_out": float(averaged.mean()),
            "held_out_raw": float(raw.mean()),
            "loss_by_t": [round(v, 8) if math.isfinite(v) else None for v in bins],
        }

    def _measure(self, denoiser: Denoiser) -> tuple[Tensor, Tensor]:
        """Loss of each held-out image, float64, and its time."""
        self._held_out.denoiser = denoiser
        held_out, losses, times = self.data.held_out, [], []
        count = min(self.recipe.held_out, len(held_out))
        chosen = torch.as_tensor(
            shuffled_indices(len(held_out), self.recipe.seed, range(count))
        )  # sets often lie class by class
        for places in torch.arange(count).split(max(1, self.recipe.batch // self.recipe.accumulate)):
            ids = chosen[places]
            x0, cond = self._images(held_out.get(ids), held_out.labels[ids] if held_out.labels is not None else None)
            with self.compute.autocast():
                each: LossTerms = self._held_out(x0, places, cond, training=False)
            losses.append(each.unweighted.cpu().double())
            times.append(each.t)
        return torch.cat(losses), torch.cat(times)

    def refresh(self) -> None:
        """Put the weights that draw (the raw ones if no others are kept) into ``averaged``."""
        with torch.no_grad():
            for name, p in self.averaged.named_parameters():
                p.copy_(self.ema.parameters()[name])
            for here, there in zip(self.averaged.buffers(), self.model.denoiser.buffers(), strict=True):
                here.copy_(there)

    # ---- state

    def weights(self) -> dict[str, Tensor]:
        """What ``model.safetensors`` holds: the averaged denoiser, float32."""
        self.refresh()
        return self.averaged.state_dict()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and header from which training goes on bit for bit."""
        tensors = {f"model.{k}": v for k, v in self.model.denoiser.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in self.optimizer_step.state_dict().items()}
        tensors |= {f"times.{k}": v for k, v in self.time_sampler.state_dict().items()}
        return tensors, {"kind": "state", "progress": dict(self.progress.__dict__)}

    def resume(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Go on from a state."""
        self._load_tensors(tensors)
        self.progress = TrainingProgress(**header["progress"])

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for name, t in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = t
        self.model.denoiser.load_state_dict(parts["model"])
        self.ema.load_state_dict(parts.get("ema", {}))
        if "times" in parts:
            self.time_sampler.load_state_dict(parts["times"])
        self.optimizer_step.load_state_dict(parts.get("optimizer", {}))


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    out = 0
    for n in numbers:
        out = (out * 6364136223846793005 + n + 1442695040888963407) & (2**63 - 1)
    return out
