"""The process group: one code path for a world of one and for many nodes."""

from __future__ import annotations

import atexit
import os
import re
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as torch_dist

from common import errors
from common.errors import UserError
from common.host_memory import own_segments
from common.operator_locks import watch_locks
from common.peers import Peers, ProcessConfig

LOST = re.compile(
    r"gloo|NCCL|Connection (closed|reset) by peer|Connection refused|Broken pipe|Socket Timeout|Timed out waiting",
    re.IGNORECASE,
)
"""What torch says in a process that has lost another one."""

_peers: Peers | None = None
_host_group: Any = None
_failed = False

Value = TypeVar("Value")


def start_process(requested: str) -> torch.device:
    """For what only reads models, without DeepSpeed: joins the process group that `torchrun` announces in the
    environment, if any. Returns this process's device.

    Args:
        requested: `auto`, or a device's name, such as `cpu` or `cuda:1`.

    Raises:
        UserError: there is no such device.
    """
    device = own_device(requested)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch_dist.is_initialized():
        atexit.register(_leave)
        limits = ProcessConfig()
        _join(device, limits)
    return device


def own_device(requested: str = "auto") -> torch.device:
    """This process's device, for what joins no process group.

    Args:
        requested: as above.

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
    return device


def start(limits: ProcessConfig | None = None) -> torch.device:
    """For trainers: joins the launcher's process group, or makes a world of one. Returns this process's device.

    `deepspeed` and `torchrun` set the environment; plain `python` gets a world of one on a free port.

    Args:
        limits: after how long the run counts as broken; those of the first call hold for the process group.

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
        limits = limits or ProcessConfig()
        _join(device, limits)
        with own_segments(gather_objects(uuid4().hex[:12])[0]):
            deepspeed.init_distributed(_backend(device), auto_mpi_discovery=False, verbose=False)
            barrier()
    elif _peers is not None and limits is not None:
        _peers.limits = limits
    return device


def _timeout(limits: ProcessConfig) -> timedelta:
    return timedelta(seconds=limits.collective_timeout)


def _join(device: torch.device, limits: ProcessConfig) -> None:
    """The process group that the environment announces, and what stands beside it."""
    store, place, size = next(torch_dist.rendezvous("env://", timeout=_timeout(limits)))
    # With `--master-port` torchrun keeps one store over all restarts, and with it the addresses of those that are gone.
    store = torch_dist.PrefixStore(f"restart_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    torch_dist.init_process_group(
        _backend(device), store=store, rank=place, world_size=size, timeout=_timeout(limits)
    )
    _meet(device, limits)


def _meet(device: torch.device, limits: ProcessConfig) -> None:
    """Joins what stands beside the process group: the watch over the others, and a group for numbers on the host."""
    global _peers, _host_group
    if world() == 1:
        return
    if _backend(device) != "gloo":
        _host_group = torch_dist.new_group(backend="gloo", timeout=_timeout(limits))
    speaks = rank() == 1 or int(os.environ.get("LOCAL_RANK", "0")) == 0
    try:
        _peers = Peers(rank(), world(), limits, gather_objects, speaks)
    except ConnectionError as error:
        if is_main():
            lost = f"a process that hangs is found after {limits.collective_timeout:.0f} s only"
            print(f"warning: the processes cannot watch each other ({error}); {lost}", file=sys.stderr)
    errors.tell_peers, errors.lost_peer = _tell_peers, _lost_peer


def _tell_peers(error: BaseException) -> bool:
    """Whether this process is the one to tell that `error` ended it."""
    global _failed
    _failed = True
    return _peers is None or _peers.failed(errors.one_line(error), _lost_peer(error))


def _lost_peer(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and LOST.search(str(error)) is not None


def end_all(message: str) -> None:
    """This process ends before training has begun, since it was asked to; so do the others, whose exit code is 0."""
    global _failed
    _failed = True
    if _peers is not None:
        _peers.stopped(message)


def at_step(step: int | None) -> None:
    """Tells the watch that training is at a step, from where on standing still is a fault; None: no longer."""
    if _peers is not None:
        _peers.step = step


def agreed_maximum(value: int) -> int:
    """The largest `value` of all ranks. The hosts wait for each other; their devices go on with what they have."""
    if world() == 1:
        return value
    told = torch.tensor(value)
    torch_dist.all_reduce(told, torch_dist.ReduceOp.MAX, group=_host_group)
    return int(told)


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def _leave() -> None:
    if _peers is not None:
        _peers.close()
    # After a failure the others are not here to take part, and it would wait for them.
    if torch_dist.is_initialized() and not _failed:
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
