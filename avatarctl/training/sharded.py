"""Read and write what of a run's state is spread over processes: weights and optimizer of FSDP2, optimizer of DeepSpeed ZeRO-2.

FSDP2: every process writes its share (torch's distributed checkpoints), and any number of processes reads them, one alone
too. ZeRO-2: states are gathered and written as one process writes them. So a run may be resumed in another kind of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SHARES = "sharded"  # folder of a checkpoint


# -- FSDP2 ------------------------------------------------------------------------------------------------------------


def save_shares(folder: Path, trained: Mapping[str, nn.Parameter], states: Mapping[str, Tensor]) -> None:
    """Write every process's share of the weights that train and of the optimizer's states (STATE:PARAMETER)."""
    from torch.distributed.checkpoint.state_dict_saver import save

    tensors = {f"trained/{name}": parameter.detach() for name, parameter in trained.items()}
    save({**tensors, **{f"optimizer/{name}": tensor for name, tensor in states.items()}}, checkpoint_id=folder)


def load_shares(folder: Path, kind: str, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return tensors that were saved as shares; ``kind``: trained or optimizer.

    ``like`` None: whole, in this process alone. Else each as its parameter is shared, read by all processes together.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    about = FileSystemReader(folder).read_metadata().state_dict_metadata
    found: dict[str, Any] = {}
    for key, entry in about.items():
        if not key.startswith(f"{kind}/") or not isinstance(entry, TensorStorageMetadata):
            continue
        name = key.removeprefix(f"{kind}/")
        parameter = None if like is None else like.get(name.partition(":")[2] if kind == "optimizer" else name)
        size, dtype = entry.size, entry.properties.dtype
        if parameter is not None and tuple(parameter.shape) == tuple(size):
            found[key] = torch.zeros_like(parameter.detach(), dtype=dtype)
        else:
            found[key] = torch.zeros(size, dtype=dtype)
    load(found, checkpoint_id=folder, no_dist=like is None)
    return {key.removeprefix(f"{kind}/"): tensor for key, tensor in found.items()}


def as_shared(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor as a parameter is shared over the processes; one of another shape (a count) as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    # Every process has read the file: it cuts its share by itself.
    return distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def gathered(trained: Mapping[str, nn.Parameter], leads: bool) -> dict[str, Tensor]:
    """Return the whole weights that train, on the CPU of the first process ({} elsewhere); all processes take part."""
    found = {}
    for name, parameter in trained.items():
        whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        if leads:
            found[name] = whole.detach().cpu()
    return found


# -- DeepSpeed ZeRO-2 ---------------------------------------------------------------------------------------------------


def zero_states(
    optimizer: Any, parameters: Sequence[nn.Parameter]
) -> tuple[dict[int, dict[str, Tensor]], dict[str, Any]]:
    """Return the optimizer's states by the place of their parameter, whole in every process, and what isn't a tensor."""
    from deepspeed.utils import safe_get_full_optimizer_state

    inner = optimizer.optimizer.state
    flat = [inner[part] for part in optimizer.single_partition_of_fp32_groups if part in inner]
    if not flat:
        return {}, {}
    counts = {name: value for name, value in flat[0].items() if not isinstance(value, Tensor) or not value.ndim}
    spread = [name for name in flat[0] if name not in counts]
    _link(optimizer)
    found: dict[int, dict[str, Tensor]] = {}
    for place, parameter in enumerate(parameters):
        found[place] = {name: safe_get_full_optimizer_state(parameter, name).detach().cpu() for name in spread}
        # Copies: the parameters share one count, which a file can't hold.
        found[place] |= {n: value.detach().cpu().clone() for n, value in counts.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in counts.items() if not isinstance(value, Tensor)}
    return found, plain


def restore_zero(optimizer: Any, parameters: Sequence[nn.Parameter], states: Mapping[int, Mapping[str, Any]]) -> None:
    """Put whole states back into the shares of this process."""
    from deepspeed.utils import safe_set_full_optimizer_state

    if not states:
        return
    first = next(iter(states.values()))
    shape = parameters[next(iter(states))].shape
    spread = [name for name, value in first.items() if isinstance(value, Tensor) and value.shape == shape]
    inner = optimizer.optimizer.state
    for part in optimizer.single_partition_of_fp32_groups:
        counts = {n: v.clone() if isinstance(v, Tensor) else v for n, v in first.items() if n not in spread}
        inner[part] = {**counts, **{name: torch.zeros_like(part) for name in spread}}
    _link(optimizer)
    for place, parameter in enumerate(parameters):
        for name in spread:
            safe_set_full_optimizer_state(parameter, states[place][name].to(parameter.device), name)


def _link(optimizer: Any) -> None:
    """Tell every parameter where its states lie; DeepSpeed does so after the first group's step alone."""
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()
