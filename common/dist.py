"""The process group: one code path for a world of one and for many nodes."""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist

from common.errors import UserError
from common.operator_locks import watch_locks

Value = TypeVar("Value")


def start_process(requested: str) -> torch.device:
    """For what only reads models, without DeepSpeed: joins the process group that `torchrun` announces in the
    environment, if any. Returns this process's device.

    Args:
        requested: `auto`, or a device's name, such as `cpu` or `cuda:1`.

    Raises:
        UserError: there is no such device.
    """
    name = requested if requested != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            local = int(os.environ.get("LOCAL_RANK", "0"))
            device = torch.device("cuda", local if device.index is None else device.index)
            torch.cuda.set_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise UserError(f"--device {requested}: {str(error).splitlines()[0]}") from error
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch_dist.is_initialized():
        atexit.register(_leave)
        torch_dist.init_process_group(_backend(device))
    return device


def start() -> torch.device:
    """For trainers: joins the launcher's process group, or makes a world of one. Returns this process's device.

    `deepspeed` and `torchrun` set the environment; plain `python` gets a world of one on a free port.

    Raises:
        UserError: there are more processes than GPUs.
    """
    import deepspeed

    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        if local_rank >= torch.cuda.device_count():
            there = torch.cuda.device_count()
            raise UserError(
                f"local rank {local_rank}: this machine has {there} GPUs; launch at most as many processes"
            )
        torch.cuda.set_device(device)
    if not torch_dist.is_initialized():
        # Left at the end of the process and not of a run: DeepSpeed keeps the group it has met.
        atexit.register(_leave)
        if local_rank == 0:
            watch_locks()
        deepspeed.init_distributed(_backend(device), auto_mpi_discovery=False, verbose=False)
    return device


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def _leave() -> None:
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()


def rank() -> int:
    return torch_dist.get_rank() if torch_dist.is_initialized() else 0


def world() -> int:
    return torch_dist.get_world_size() if torch_dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if world() > 1:
        torch_dist.barrier()


def sum_(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, in place; the tensor itself in a world of one."""
    if world() > 1:
        torch_dist.all_reduce(tensor)
    return tensor


def reduce_(tensor: torch.Tensor, target: int) -> torch.Tensor:
    """Sum over ranks on rank `target`, in place; elsewhere the tensor is spent."""
    if world() > 1:
        torch_dist.reduce(tensor, target)
    return tensor


def broadcast_(tensor: torch.Tensor, source: int = 0) -> torch.Tensor:
    """The tensor of rank `source` on all ranks, in place."""
    if world() > 1:
        torch_dist.broadcast(tensor, source)
    return tensor


def gather_objects(value: Any) -> list[Any]:
    """`value` of every rank, in rank order, on every rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    torch_dist.all_gather_object(values, value)
    return values


def from_main(compute: Callable[[], Value]) -> Value:
    """What rank 0 computes, on every rank; a `UserError` that it raises is raised on every rank."""
    value, said = None, None
    if is_main():
        try:
            value = compute()
        except UserError as error:
            said = str(error)
    value, said = gather_objects((value, said))[0]
    if said is not None:
        raise UserError(said)
    return value  # type: ignore[return-value]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
