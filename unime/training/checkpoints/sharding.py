"""Whole tensors out of what ZeRO and FSDP2 have sharded, and back.

Checkpoints and adapters are the same files whatever the engine: every tensor whole, by the name of
its parameter. Adapters are small, so gathering them costs little.

Every function here has to be called by every rank: they exchange.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from unime.errors import DataError
from unime.runtime.distributed import whole

STATES = ("state1", "state2")  # of bitsandbytes' AdamW, beside "step"
SCALES = ("absmax1", "absmax2", "qmap1", "qmap2")  # of those that are in 8 bits; small ones are not
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, beside "step"


def optimizer_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """``{"<parameter name>/<entry>": tensor}`` of AdamW's state; empty before its first step.

    Args:
        parameters: the trained ones of the prepared model by name.
        optimizer: the prepared one.
    """
    zero = _zero(optimizer)
    if zero is None:
        return {
            # 8-bit moments share their quantiles, which a file of tensors may not
            f"{name}/{entry}": whole(torch.as_tensor(value)).contiguous().clone()
            for name, parameter in parameters.items()
            for entry, value in optimizer.state.get(parameter, {}).items()
        }
    from deepspeed.utils import safe_get_full_optimizer_state

    steps = [state["step"] for state in zero.optimizer.state.values() if "step" in state]
    if not steps:
        return {}
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for entry in MOMENTS:
            tensors[f"{name}/{entry}"] = safe_get_full_optimizer_state(parameter, entry)
        tensors[f"{name}/step"] = steps[0].detach()
    return {key: value.contiguous().clone() for key, value in tensors.items()}


def load_optimizer_tensors(
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put back what :func:`optimizer_tensors` gave, on this engine or another.

    Raises:
        DataError: these are not the parameters' own.
    """
    zero = _zero(optimizer)
    if not tensors:
        return
    is_8bit = _is_8bit(optimizer)
    if is_8bit:
        _check_8bit(tensors, parameters)
    else:
        _check(tensors, parameters)
    if zero is not None:
        _load_zero(tensors, parameters, zero)
        return
    index = {name: position for position, name in enumerate(parameters)}
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        name, entry = key.rsplit("/", 1)
        parameter = parameters[name]
        if isinstance(parameter, DTensor) and entry != "step":
            placed = value.to(parameter.device)
            value = distribute_tensor(placed, parameter.device_mesh, parameter.placements)
        counted = is_8bit and entry == "step"
        state.setdefault(index[name], {})[entry] = int(value) if counted else value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _check(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    entries = (*MOMENTS, "step")
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in parameters or entry not in entries:
            raise DataError(f"'{key}' of the optimizer belongs to no parameter that is trained")
        shape = () if entry == "step" else _whole_shape(parameters[name])
        if tuple(value.shape) != shape or value.dtype != torch.float32:
            got = f"{value.dtype} of shape {tuple(value.shape)}"
            raise DataError(f"'{key}' of the optimizer: got {got}, expected float32 of {shape}")
        if missing := [other for other in entries if f"{name}/{other}" not in tensors]:
            raise DataError(f"the optimizer lacks '{name}/{missing[0]}'")


def _is_8bit(optimizer: torch.optim.Optimizer) -> bool:
    inner = getattr(optimizer, "optimizer", optimizer)  # in accelerate's wrapper
    return type(inner).__module__.startswith("bitsandbytes.")


def _check_8bit(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    for name in {key.rpartition("/")[0] for key in tensors}:
        own = {
            key.rpartition("/")[2]: t for key, t in tensors.items() if key.startswith(f"{name}/")
        }
        if name not in parameters:
            raise DataError(f"'{name}' of the optimizer belongs to no parameter that is trained")
        is_small = own.get("state1", next(iter(own.values()))).dtype == torch.float32
        expected = {*STATES, "step"} | (set() if is_small else set(SCALES))
        if own.keys() != expected:
            found, wanted = sorted(own), sorted(expected)
            raise DataError(f"'{name}' of the optimizer: got {found}, expected {wanted}")
        for entry in STATES:
            kind = torch.float32 if is_small else torch.uint8
            if own[entry].shape != parameters[name].shape or own[entry].dtype != kind:
                got = f"{own[entry].dtype} of shape {tuple(own[entry].shape)}"
                shape = tuple(parameters[name].shape)
                raise DataError(f"'{name}/{entry}' of the optimizer: got {got}, expected {shape}")


def _whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Also where an engine has split it: ZeRO-3 leaves nothing of it, and says what it was."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _load_zero(
    tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], zero: Any
) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state

    step = next(value for key, value in tensors.items() if key.endswith("/step"))
    for flat in _flat_partitions(zero):
        zero.optimizer.state[flat] = {
            "step": step.to(flat.device, copy=True),
            **{entry: torch.zeros_like(flat) for entry in MOMENTS},
        }
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):  # ZeRO-1 and 2 look them up there
        zero._lazy_init_hp_params_optimizer_state()
    for name, parameter in parameters.items():
        for entry in MOMENTS:
            value = tensors.get(f"{name}/{entry}")
            if value is not None:  # else never used: zero
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), entry)


def _zero(optimizer: torch.optim.Optimizer) -> Any:
    """DeepSpeed's optimizer inside accelerate's wrapper; None on other engines."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner if hasattr(inner, "loss_scale") and hasattr(inner, "optimizer") else None


def _flat_partitions(zero: Any) -> Iterator[Tensor]:
    """This rank's fp32 pieces that AdamW steps on."""
    yield from getattr(zero, "fp32_partitioned_groups_flat", None) or (
        zero.single_partition_of_fp32_groups
    )
