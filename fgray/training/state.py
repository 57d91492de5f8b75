"""Weights and optimizer state by name, whole and in fp32, whatever the ZeRO stage and the number of workers.

The names are open_clip's behind a prefix: ``weights/visual.proj``, ``exp_avg/visual.proj``, ``exp_avg_sq/visual.proj`` and, where there
is a moving average, ``average/visual.proj``; ``updates`` counts the optimizer's steps. Frozen weights are not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fgray.errors import RunError
from fgray.training.engine import Engine

WEIGHT, AVERAGE, UPDATES = "weights/", "average/", "updates"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def gather_state(engine: Engine) -> dict[str, Tensor]:
    """Return the state between two steps; every rank calls it.

    Returns:
        On rank 0 fp32 copies on the CPU (``updates``: int64 []), in open_clip's shapes; nothing on other ranks.
    """
    first = engine.rank == 0
    state: dict[str, Tensor] = {}
    flats = _flats(engine)
    moments = [key for key in _MOMENTS if flats and key in engine.inner.state.get(flats[0], {})]
    if moments:
        _link_moments(engine)
    for name, weight in _trainable(engine).items():
        values = {WEIGHT + name: _whole(engine, weight, engine.part(weight))}
        for key in moments:
            values[f"{key}/{name}"] = _moment(engine, weight, key)
        if engine.average is not None:
            values[AVERAGE + name] = _whole(engine, weight, engine.average.values[name])
        if first:  # one tensor at a time: only rank 0 ever holds all of them
            shape = engine.trainable.module.shapes[name]
            state.update({key: value.detach().to("cpu", torch.float32, copy=True).reshape(shape) for key, value in values.items()})
    if first:
        state[UPDATES] = torch.tensor(_updates(engine) if moments else 0)
    return state


def whole_average(engine: Engine, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, whole weight) of the moving average for names that begin with `prefix`; every rank iterates to the end."""
    assert engine.average is not None
    for name, weight in _trainable(engine).items():
        if name.startswith(prefix):
            yield name, _whole(engine, weight, engine.average.values[name])


def restore_state(engine: Engine, state: Mapping[str, Tensor]) -> None:
    """Take over a state of any ZeRO stage and number of workers; every rank calls it with the same state.

    Raises:
        RunError: the state is of another model, optimizer or set of frozen weights; nothing has changed.
    """
    weights = _trainable(engine)
    shapes = engine.trainable.module.shapes
    with_moments = f"{_MOMENTS[0]}/{next(iter(weights))}" in state
    prefixes = [WEIGHT, *(f"{key}/" for key in _MOMENTS if with_moments), *([AVERAGE] if engine.average is not None else [])]
    expected = {prefix + name: shapes[name] for name in weights for prefix in prefixes}
    found = {name: tensor.shape for name, tensor in state.items() if name != UPDATES}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong or UPDATES not in state or (with_moments and isinstance(engine.inner, torch.optim.SGD)):
        what = f"the checkpoint is of another model or optimizer (first difference: '{wrong[0] if wrong else 'moments'}')"
        raise RunError(what, where="resume", fix="choose another output, or restore model, optimizer and freeze as they were")
    if with_moments:
        _make_moments(engine, int(state[UPDATES]))
    for name, weight in weights.items():
        _set_weight(engine, weight, _like(state[WEIGHT + name], engine, name))
        if with_moments:
            for key in _MOMENTS:
                _set_moment(engine, weight, key, _like(state[f"{key}/{name}"], engine, name))
        if engine.average is not None:
            engine.average.values[name].copy_(_own_part(engine, weight, _like(state[AVERAGE + name], engine, name)))


def _trainable(engine: Engine) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in engine.weights.items() if weight.requires_grad}


def _like(value: Tensor, engine: Engine, name: str) -> Tensor:
    """Return a value on the device, scalars as the vectors of one element that the module has."""
    return value.to(engine.device, torch.float32).reshape(engine.trainable.module.shapes[name] or (1,))


def _whole(engine: Engine, weight: Any, part: Tensor) -> Tensor:
    """Return the whole of which every rank has a part (stage 3), or the part where that is the whole."""
    if engine.stage != 3:
        return part
    flat = part.new_empty(part.numel() * engine.world)
    dist.all_gather_into_tensor(flat, part.detach().contiguous())
    return flat[: weight.ds_numel].view(weight.ds_shape)


def _own_part(engine: Engine, weight: Any, whole: Tensor) -> Tensor:
    """Return this rank's part of a whole, as `Engine.part` has it."""
    if engine.stage != 3:
        return whole
    size = weight.ds_tensor.numel()
    flat = nn.functional.pad(whole.flatten(), (0, size * engine.world - whole.numel()))
    return flat[engine.rank * size : (engine.rank + 1) * size]


def _set_weight(engine: Engine, weight: Any, whole: Tensor) -> None:
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters
    from deepspeed.utils import safe_get_local_fp32_param, safe_set_full_fp32_param

    with torch.no_grad():
        if engine.stage == 3:
            with GatheredParameters([weight], modifier_rank=0):
                weight.data.copy_(whole)
            safe_get_local_fp32_param(weight).copy_(_own_part(engine, weight, whole))  # the copy that the optimizer moves
        else:
            weight.data.copy_(whole)
            if engine.stage:
                safe_set_full_fp32_param(weight, whole)


def _moment(engine: Engine, weight: Any, key: str) -> Tensor:
    from deepspeed.utils import safe_get_full_optimizer_state, safe_get_local_optimizer_state

    if engine.stage == 3:
        return _whole(engine, weight, safe_get_local_optimizer_state(weight, key))
    value: Tensor = safe_get_full_optimizer_state(weight, key) if engine.stage else engine.inner.state[weight][key]
    return value


def _set_moment(engine: Engine, weight: Any, key: str, whole: Tensor) -> None:
    from deepspeed.utils import safe_get_local_optimizer_state, safe_set_full_optimizer_state

    if engine.stage == 3:  # DeepSpeed's own setter of whole ones fails where the size is no multiple of the ranks
        safe_get_local_optimizer_state(weight, key).copy_(_own_part(engine, weight, whole))
    elif engine.stage:
        safe_set_full_optimizer_state(weight, whole, key)
    else:
        engine.inner.state[weight][key].copy_(whole)


def _flats(engine: Engine) -> list[Any]:
    """Return the tensors that PyTorch's optimizer moves: the weights, or this rank's flat parts of groups of them."""
    optimizer = engine.wrapped.optimizer
    if engine.stage == 0:
        return [weight for group in engine.inner.param_groups for weight in group["params"]]
    flats: list[Any] = optimizer.fp32_partitioned_groups_flat if engine.stage == 3 else optimizer.single_partition_of_fp32_groups
    return list(flats)


def _updates(engine: Engine) -> int:
    return int(engine.inner.state[_flats(engine)[0]]["step"])


def _make_moments(engine: Engine, updates: int) -> None:
    """Give AdamW the state that its first step would make, and set its count of steps."""
    for flat in _flats(engine):
        own = engine.inner.state[flat]
        if not own:
            own.update({"step": torch.tensor(0.0), **{key: torch.zeros_like(flat) for key in _MOMENTS}})
        own["step"].fill_(float(updates))
    _link_moments(engine)


def _link_moments(engine: Engine) -> None:
    """Tell DeepSpeed where the moments of each weight lie; it does so once, when only the first group of weights has any."""
    if engine.stage in (1, 2):
        engine.wrapped.optimizer._hp_optimizer_states_linked = False
        engine.wrapped.optimizer._lazy_init_hp_params_optimizer_state()
