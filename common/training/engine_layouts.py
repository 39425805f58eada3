"""Where DeepSpeed keeps what an engine learns: one class for each of its ways.

A parameter that learns has float32 master weights, and states of its optimizer in their shape. ZeRO-0 has them whole
on every rank, ZeRO-1 and -2 lay a group of parameters end to end and cut that into equal parts, ZeRO-3 cuts each
parameter. Here they are addressed as parts of one parameter, whatever the cut. DeepSpeed's own
`safe_get_full_optimizer_state` is not used: in 0.19.8 it links the states of the first group only and knows no Muon,
and its setter refuses parameters that do not divide by the number of ranks at ZeRO-3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common import dist

WEIGHT = "weight"
ADAM, MUON = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)


class Piece(NamedTuple):
    """What this rank holds of a tensor: the elements of the flattened one from `start` on."""

    start: int
    values: Tensor

    def give(self, whole: Tensor) -> None:
        """Put it in its place in the flattened tensor."""
        whole[self.start : self.start + len(self.values)] = self.values

    def take(self, whole: Tensor) -> None:
        """Take its values from there."""
        self.values.copy_(whole[self.start : self.start + len(self.values)])


class Layout:
    """How an engine keeps what it learns.

    Attributes:
        replicated: every rank holds all of it.
    """

    replicated = False

    def __init__(self, engine: Any) -> None:
        self.zero = engine.optimizer
        self.optimizer: Any = getattr(self.zero, "optimizer", self.zero)
        self.owned: dict[int, Tensor] = {}
        """Parameter (by `id`) -> the tensor of the optimizer that holds its master weights."""
        self.groups: dict[int, dict[str, Any]] = {}
        """Parameter (by `id`) -> its group in the optimizer."""

    def learns(self, parameter: nn.Parameter) -> bool:
        """Whether the optimizer steps it."""
        return id(parameter) in self.owned

    def keys(self, parameter: nn.Parameter) -> tuple[str, ...]:
        """The states that its optimizer keeps for it, in the parameter's shape."""
        return MUON if self.groups[id(parameter)].get("use_muon") else ADAM

    def steps(self, parameter: nn.Parameter) -> float | None:
        """How often the optimizer has stepped it; None where it does not count (Muon)."""
        if self.keys(parameter) == MUON:
            return None
        return float(self._state(parameter).get("step", 0))

    def set_steps(self, parameter: nn.Parameter, steps: float) -> None:
        """One number stands for all parameters that share a tensor: the largest."""
        state, group = self._state(parameter), self.groups[id(parameter)]
        steps = max(steps, float(state.get("step", 0)))
        if isinstance(self.optimizer, torch.optim.AdamW):  # it wants a tensor; DeepSpeed's want an integer
            there = group.get("fused") or group.get("capturable")
            device = self.owned[id(parameter)].device if there else "cpu"
            state["step"] = torch.tensor(steps, device=device)
        else:
            state["step"] = int(steps)

    def read(self, parameter: nn.Parameter, key: str) -> Piece | None:
        """This rank's piece of `key` (`WEIGHT`, or one of `keys`); None where it has none, or others give it. All
        pieces of all ranks together are the whole without overlap."""
        raise NotImplementedError

    def write(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        """Take over what this rank holds of the whole, flattened `value`."""
        piece = self.read(parameter, key)
        if piece is not None:
            piece.take(value)

    def holds(self, parameter: nn.Parameter, key: str) -> bool:
        """Whether `write` takes anything on this rank."""
        return True

    def piece_of_frozen(self, tensor: Tensor) -> Piece | None:
        """As `read`, of a parameter that does not learn, or a buffer; None where every rank holds all of it."""
        return None

    def prepare(self) -> None:
        """Before anything is written: no states but those to come, none of them counted."""
        for tensor, group in {id(t): (t, self.groups[p]) for p, t in self.owned.items()}.values():
            state = self.optimizer.state[tensor]
            state.pop("step", None)
            if not group.get("use_muon"):
                for key in ADAM:
                    state.setdefault(key, torch.zeros_like(tensor))

    def settle(self) -> None:
        """After everything is written: what is computed with follows from the master weights."""

    def _step_with_nothing(self) -> None:
        """DeepSpeed's optimizer for states that rest in memory has the powers of its betas as running products, which
        are not quite powers; so it takes the steps again, and moves nothing."""
        if hasattr(self.optimizer, "ds_opt_adam"):
            steps = max((int(state.get("step", 0)) for state in self.optimizer.state.values()), default=0)
            group, nothing = self.optimizer.param_groups[0], [torch.zeros(1) for _ in range(4)]
            fixed = (0.0, *group["betas"], group["eps"], 0.0, group["bias_correction"])
            for step in range(1, steps + 1):
                self.optimizer.ds_opt_adam.adam_update(self.optimizer.opt_id, step, *fixed, *nothing)

    def _state(self, parameter: nn.Parameter) -> dict[str, Any]:
        return self.optimizer.state[self.owned[id(parameter)]]

    def _flat(self, parameter: nn.Parameter, key: str) -> Tensor | None:
        """The tensor that holds it, flattened; None before the first step."""
        owned = self.owned[id(parameter)]
        tensor = owned if key == WEIGHT else self.optimizer.state[owned].get(key)
        return None if tensor is None else tensor.detach().view(-1)


class Copies(Layout):
    """ZeRO-0. In bfloat16 (`FP16_UnfusedOptimizer`) the master weights are a copy, else the parameters themselves."""

    replicated = True

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        masters = [group["params"] for group in self.optimizer.param_groups]
        parameters = getattr(self.zero, "fp16_groups", masters)
        for group, mine, theirs in zip(self.optimizer.param_groups, masters, parameters, strict=True):
            for master, parameter in zip(mine, theirs, strict=True):
                self.owned[id(parameter)], self.groups[id(parameter)] = master, group
        self.copies = [] if parameters is masters else list(zip(masters, parameters, strict=True))

    def read(self, parameter: nn.Parameter, key: str) -> Piece | None:
        flat = self._flat(parameter, key)
        return None if flat is None else Piece(0, flat)

    def prepare(self) -> None:
        super().prepare()
        for parameter, master in self.owned.items():
            if self.groups[parameter].get("use_muon"):
                self.optimizer.state[master].setdefault(MUON[0], torch.zeros_like(master))

    def settle(self) -> None:
        for masters, parameters in self.copies:
            torch._foreach_copy_([p.data for p in parameters], [m.data for m in masters])


class Flat(Layout):
    """ZeRO-1 and -2 (`DeepSpeedZeroOptimizer`).

    Muon's momentum is laid out otherwise: a rank keeps those of all matrices that reach into its part, whole. It has
    the precision of the gradients; here it is float32, and DeepSpeed casts it back.
    """

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.momentum: dict[int, int] = {}
        """Matrix (by `id`) -> where this rank's momentum of it starts."""
        zero = self.zero
        for number, group in enumerate(self.optimizer.param_groups):
            for parameter in zero.bit16_groups[number]:
                self.owned[id(parameter)] = zero.single_partition_of_fp32_groups[number]
                self.groups[id(parameter)] = group
            start = 0
            for parameter in zero.params_in_partition[number] if group.get("use_muon") else ():
                self.momentum[id(parameter)] = start
                start += parameter.numel()

    def read(self, parameter: Any, key: str) -> Piece | None:
        flat, mapping = self._flat(parameter, key), parameter._hp_mapping
        if flat is None or mapping is None:
            return None
        here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
        if key == MUON[0]:
            # Of the ranks that share a matrix, whoever has its first element.
            if there.start:
                return None
            return Piece(0, flat.narrow(0, self.momentum[id(parameter)], parameter.numel()))
        return Piece(there.start, flat.narrow(0, here.start, here.numel))

    def write(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        if key != MUON[0]:
            super().write(parameter, key, value)
        elif id(parameter) in self.momentum:
            flat = self._flat(parameter, key)
            assert flat is not None  # `prepare` made it
            Piece(0, flat.narrow(0, self.momentum[id(parameter)], parameter.numel())).take(value)

    def holds(self, parameter: Any, key: str) -> bool:
        if key == MUON[0]:
            return id(parameter) in self.momentum
        return parameter._hp_mapping is not None

    def prepare(self) -> None:
        super().prepare()
        for number, group in enumerate(self.optimizer.param_groups):
            matrices = self.zero.params_in_partition[number] if group.get("use_muon") else ()
            if matrices:
                (flat,) = group["params"]
                size = sum(matrix.numel() for matrix in matrices)
                self.optimizer.state[flat][MUON[0]] = torch.zeros(size, device=flat.device)

    def settle(self) -> None:
        self._step_with_nothing()
        self.zero.update_lp_params()


class Partitioned(Layout):
    """ZeRO-3 (`DeepSpeedZeroOptimizer_Stage3`), each parameter padded until it divides; states may rest on a disk."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        for number, parameters in enumerate(self.zero.fp16_groups):
            for parameter in parameters:
                self.owned[id(parameter)] = self.zero.fp32_partitioned_groups_flat[number]
                group = self.zero.sub_group_to_group_id[number]
                self.groups[id(parameter)] = self.optimizer.param_groups[group]

    def read(self, parameter: Any, key: str) -> Piece | None:
        if key == WEIGHT:
            return self._piece(parameter, self.zero.get_local_fp32_param(parameter))
        if key not in self._state(parameter):
            return None
        return self._piece(parameter, self.zero.get_local_fp32_param(parameter, key))

    def write(self, parameter: Any, key: str, value: Tensor) -> None:
        size = parameter.ds_tensor.ds_numel
        piece = value[self._start(parameter) :][:size]
        padded = torch.nn.functional.pad(piece, (0, size - len(piece)))
        self.zero.set_local_hp_param(padded, parameter, None if key == WEIGHT else key)

    def holds(self, parameter: Any, key: str) -> bool:
        return self._start(parameter) < parameter.ds_numel

    def piece_of_frozen(self, tensor: Any) -> Piece | None:
        return self._piece(tensor, tensor.ds_tensor.detach()) if hasattr(tensor, "ds_id") else None

    def prepare(self) -> None:
        for number, flat in enumerate(self.zero.fp32_partitioned_groups_flat):
            swapped = self.zero._swappable_optimizer_subgroup(number)
            if swapped:
                self.zero._optimizer_states_and_gradient_swap_in(number)
            state = self.optimizer.state[flat]
            state.pop("step", None)
            for key in ADAM:
                state.setdefault(key, torch.zeros_like(flat))
            if swapped:
                self.zero._optimizer_states_and_gradient_swap_out(number)

    def settle(self) -> None:
        self._step_with_nothing()
        self.zero.checkpoint_event_prologue()
        for number in range(len(self.zero.fp16_groups)):
            swapped = self.zero._swappable_optimizer_subgroup(number)
            if swapped:
                self.zero._optimizer_states_and_gradient_swap_in(number)
            self.zero._reassign_or_swap_out_partitioned_parameters(number)
            if swapped:
                self.zero._optimizer_states_and_gradient_swap_out(number)
        self.zero.checkpoint_event_epilogue()

    def _start(self, parameter: Any) -> int:
        return dist.rank() * parameter.ds_tensor.ds_numel

    def _piece(self, parameter: Any, values: Tensor) -> Piece:
        """Without the padding."""
        start = self._start(parameter)
        return Piece(start, values.view(-1)[: max(0, parameter.ds_numel - start)])


def layout_of(engine: Any) -> Layout:
    """Raises `TypeError` for an optimizer of DeepSpeed's that no recipe of ours leads to."""
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    kinds: dict[type, type[Layout]] = {
        DeepSpeedZeroOptimizer: Flat,
        DeepSpeedZeroOptimizer_Stage3: Partitioned,
        FP16_UnfusedOptimizer: Copies,
        torch.optim.Optimizer: Copies,
    }
    for kind, layout in kinds.items():
        if isinstance(engine.optimizer, kind):
            return layout(engine)
    raise TypeError(f"{type(engine.optimizer).__name__}: no known layout of weights and states")
