"""DeepSpeed around the model: ZeRO 0-3 over the processes of a torch.distributed group, or in one process without any.

DeepSpeed sees an fp32 model. The towers themselves compute in 16 bits where that is asked for (autocast in the model's forward pass), so
weights, gradients, moments and their sums over ranks are fp32 at every stage, and a stage changes memory, never the result.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fgray.config.train import OptimizerConfig, TrainCompute
from fgray.errors import ConfigError, RunError
from fgray.training.model import Trainable
from fgray.training.optimizer import MovingAverage, learning_rate, make_optimizer

_BUCKET = 50_000_000  # elements of a communication buffer; DeepSpeed's own default of 5e8 takes 2 GB in fp32
_FIRST_LOSS_SCALE, _LARGEST_LOSS_SCALE = 2.0**16, 2.0**24
_GROWTH_STEPS = 2000  # the loss scale doubles so often


@dataclass(frozen=True)
class Update:
    """What one update of the weights was.

    Attributes:
        gradient_norm: 2-norm of the whole gradient before clipping; infinite where the update was skipped.
        learning_rate: of this step.
        skipped: fp16 overflowed, the weights stay and the loss scale is halved.
    """

    gradient_norm: float
    learning_rate: float
    skipped: bool


class Engine:
    """A model, its optimizer and how their memory is spread over ranks.

    Uses the default torch.distributed group; where there is none, makes one of this process alone.

    Args:
        trainable: the model; it is moved to the device and, at stage 3, cut into parts.
        optimizer: how weights move.
        compute: ZeRO stage and precision.
        device: "cpu", "cuda" or "cuda:N".
        steps: length of the training, for the schedule.

    Attributes:
        trainable: as given.
        device: as a torch.device.
        rank: of this process.
        world: number of processes.
        stage: ZeRO stage.
        wrapped: DeepSpeed's engine.
        average: moving average of the trainable weights; None: not wanted.
        loss_scale: factor of an fp16 loss; None in other precisions.

    Raises:
        ConfigError: fp16 on a CPU.
    """

    def __init__(
        self,
        trainable: Trainable,
        optimizer: OptimizerConfig,
        compute: TrainCompute,
        device: str,
        steps: int,
    ) -> None:
        self.trainable, self.device, self.stage = trainable, torch.device(device), compute.zero
        if compute.precision == "fp16" and self.device.type == "cpu":
            raise ConfigError("fp16 is not computed on CPUs", where="compute.precision", fix="use bf16 or fp32")
        self._config, self._steps = optimizer, steps
        if not dist.is_initialized():
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        trainable.module.to(self.device)
        self._weights = trainable.module.named_weights()
        inner = make_optimizer(self._weights, optimizer)
        self.wrapped: Any = _initialise(trainable.module, inner, self._settings(), self.device)
        if self.world == 1 and not self.stage:
            self.wrapped.enable_backward_allreduce = False  # it would copy every gradient twice to add up a single one
        self.loss_scale = _FIRST_LOSS_SCALE if compute.precision == "fp16" else None
        self.average = MovingAverage(optimizer.ema, self.trainable_parts()) if optimizer.ema is not None else None

    def _settings(self) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": 1,  # of no meaning here; DeepSpeed wants a number
            "gradient_accumulation_steps": 1,  # `backward` says what the last part of a step is; nothing is divided
            "gradient_clipping": (self._config.clip_grad_norm or 0.0) if self.stage else 0.0,
            "steps_per_print": None,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": self.stage, "reduce_bucket_size": _BUCKET, "allgather_bucket_size": _BUCKET},
        }

    @property
    def inner(self) -> torch.optim.Optimizer:
        """PyTorch's optimizer, over flat parts of the weights at stages 1 to 3."""
        optimizer: torch.optim.Optimizer = self.wrapped.optimizer.optimizer if self.stage else self.wrapped.optimizer
        return optimizer

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """All parameters under open_clip's names; at stage 3 they are empty outside the forward pass."""
        return dict(self._weights)

    def trainable_parts(self) -> dict[str, Tensor]:
        """Return this rank's fp32 view of the trainable weights by name: whole ones, at stage 3 its flat part of each."""
        return {name: self.part(weight) for name, weight in self._weights.items() if weight.requires_grad}

    def part(self, weight: Any) -> Tensor:
        """Return this rank's view of one weight: the whole, at stage 3 its flat part, padded to the same size on all ranks."""
        part: Tensor = weight.ds_tensor if self.stage == 3 else weight.data
        return part

    def forward(self, *inputs: Any) -> dict[str, Tensor]:
        """Run the model's forward pass through DeepSpeed; see `ContrastiveModel.forward`."""
        output: dict[str, Tensor] = self.wrapped(*inputs)
        return output

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add the gradient of a loss to the step's.

        The step's gradient is the sum over these calls and the mean over ranks; nothing is divided by the number of calls.

        Args:
            loss: scalar [] that depends on an output of `forward`.
            last: whether the step has no further part; all ranks must agree.
        """
        if self.loss_scale is not None:
            if self.stage:
                self.wrapped.optimizer.override_loss_scale(self.loss_scale)  # DeepSpeed multiplies, and divides the gradient
            else:
                loss = loss * self.loss_scale
        self.wrapped.set_gradient_accumulation_boundary(last)
        self.wrapped.backward(loss, scale_wrt_gas=False)

    def update(self, step: int) -> Update:
        """Clip the gradient, move the weights and their average, and forget the gradient.

        Args:
            step: number of the step, from 0; it decides the learning rate.

        Raises:
            RunError: the gradient is not finite; the weights have not moved. With fp16 the update is skipped instead.
        """
        rate = learning_rate(step, self._steps, self._config)
        for group in self.inner.param_groups:
            group["lr"] = rate
        norm = self._step_sharded() if self.stage else self._step_whole()
        finite = norm is not None
        if not finite and self.loss_scale is None:
            raise RunError(
                "the gradient is not finite", where=f"step {step}", fix="lower optimizer.lr, or set optimizer.clip_grad_norm; weights stay"
            )
        self._adapt_loss_scale(step, finite)
        if finite and self.average is not None:
            self.average.update(self.trainable_parts())
        return Update(norm if norm is not None else float("inf"), rate, skipped=not finite)

    def _step_whole(self) -> float | None:
        """Step at stage 0, where DeepSpeed would neither report the norm nor keep a broken gradient from the weights."""
        weights = [weight for weight in self._weights.values() if weight.requires_grad]
        for weight in weights:
            if weight.grad is None:  # no loss reads it: DeepSpeed's other stages, and its sums over ranks, take that as zero, and decay it
                weight.grad = torch.zeros_like(weight)
        if self.loss_scale is not None:
            torch._foreach_mul_([weight.grad for weight in weights if weight.grad is not None], 1 / self.loss_scale)
        norm = float(nn.utils.clip_grad_norm_(weights, self._config.clip_grad_norm or float("inf")))
        if norm == norm and norm != float("inf"):
            self.wrapped.step()
            return norm
        self.forget_gradient()
        return None

    def _step_sharded(self) -> float | None:
        """Step at stages 1 to 3: DeepSpeed takes the norm over all parts and skips the step where it is not finite."""
        self.wrapped.step()
        return None if self.wrapped.optimizer.overflow else float(self.wrapped.get_global_grad_norm())

    def forget_gradient(self) -> None:
        """Drop the gradients of an unfinished step."""
        self.wrapped.optimizer.zero_grad(set_to_none=True)

    def _adapt_loss_scale(self, step: int, finite: bool) -> None:
        """Halve the scale after an overflow, else double it every so many steps; a function of scale and step, for resumed runs."""
        if self.loss_scale is None:
            return
        if not finite:
            self.loss_scale = max(1.0, self.loss_scale / 2)
        elif (step + 1) % _GROWTH_STEPS == 0:
            self.loss_scale = min(_LARGEST_LOSS_SCALE, self.loss_scale * 2)

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model."""
        self.wrapped.destroy()


def _initialise(module: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any], device: torch.device) -> Any:
    """Return DeepSpeed's engine; none of its compiled operations is built or used."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # read when DeepSpeed is imported
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    import deepspeed
    from deepspeed.ops import __compatible_ops__
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)  # it warns of every optimizer but its own, which would be compiled first
    __compatible_ops__["deepspeed_shm_comm"] = False  # a compiler run of half a minute, for what gloo does as well
    engine, _, _, _ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine
