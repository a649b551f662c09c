"""A call of plain arrays like one before: the same arguments, but for addresses.

`forward.launch` makes four boxes, a counter and thirty numbers of a call, which takes longer than a short kernel. Of arrays that lie as
some did before only the addresses are new.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._C._dynamo.guards import _empty_strided_cuda as empty
from triton.runtime import driver

from strobe.backends.hopper import arguments
from strobe.backends.hopper.starting import Kept, start_again
from strobe.layouts import Dense
from strobe.plan import Plan
from strobe.problem import Call, Problem
from strobe.state import State

placed = arguments.placed
AT_ONCE = 256  # counters that are made together


Run = Callable[[Tensor, Tensor, Tensor], State | None]


class Counters:
    """Numbers at 0, each of one launch: programs of two launches never take tiles from each other."""

    def __init__(self) -> None:
        """None yet."""
        self._left: dict[tuple[int, int], deque[Tensor]] = {}

    def taken(self, device: int, stream: int) -> Tensor:
        """One that nobody had. They are made on the current stream for launches on it; what a graph records makes its own, since it
        runs again."""
        if torch.cuda.is_current_stream_capturing():
            return torch.zeros(1, dtype=torch.int32, device=device)
        left = self._left.get((device, stream))
        if left is None:
            left = self._left[device, stream] = deque()
        try:
            return left.popleft()
        except IndexError:
            first, *others = torch.zeros(AT_ONCE, dtype=torch.int32, device=device).split(1)
            left.extend(others)
            return first


class Begun(NamedTuple):
    """A start, to be made again."""

    made: Any  # machine code
    grid: tuple[int, int, int]
    boxes: tuple[dict[str, Any], ...]  # queries, keys, values and results, as the copy engine was told of them
    sides: tuple[Any, Any] | None  # steps of keys and values, where the kernel reads them itself
    rest: tuple[Any, ...]  # arguments behind the counter


def kept_run(plan: Plan, launch: Callable[[Plan, Call], State], code: Callable[..., Kept]) -> Run | None:
    """`launch` of a plan for plain arrays, in a fraction of the time; None for plans of anything else.

    Args:
        plan: of this room's forward pass.
        launch: what a first call goes through.
        code: gives what is kept of such a start: `code(plan, device, steps of keys, steps of values)`.

    Returns:
        A function of queries, keys and values, which is None where the copy engine cannot read them as they lie.
    """
    problem, known = plan.problem, arguments.fixed(plan)
    assert isinstance(problem, Problem)
    call = problem.call
    if known.form.narrow or type(call.keys) is not Dense or call.first is not None or call.sink is not None or not call.mask.plain:
        return None
    B, T, H = problem.B, problem.T, problem.H
    if known.form.packed or known.form.divided or known.form.shared or not B * T * H * problem.V:
        return None
    shape, rows, dtype = (B, T, H, problem.V), (B, T, H), getattr(torch, problem.dtype)
    steps, row_steps = (T * H * problem.V, H * problem.V, problem.V, 1), (T * H, H, 1)
    begun: dict[Any, Begun] = {}
    counters = Counters()

    def first(q: Tensor, k: Tensor, v: Tensor, lies: Any) -> State:
        state = launch(plan, call._replace(q=q, keys=Dense(k, v)))
        arrays = q, k, v, state.out
        steps = [arguments.steps(x) for x in arrays]
        made = code(plan, lies[0], steps[1], steps[2])
        if made.made is not None and all(arguments.readable(x, s) for x, s in zip(arrays, steps, strict=True)):
            shapes = known.q, known.k, known.v, known.out
            boxes = (arguments.boxed(*one) for one in zip(arrays, steps, shapes, strict=True))
            told = tuple({name: value for name, value in vars(box).items() if name != "base"} for box in boxes)
            sides = (steps[1], steps[2]) if known.form.unseen else None
            rest = *arguments.told(plan, arguments.NOWHERE), *made.constants
            begun[lies] = Begun(made.made, (_programs(plan), 1, 1), told, sides, rest)
        return state

    def run(q: Tensor, k: Tensor, v: Tensor) -> State | None:
        at_k, at_v = k.data_ptr(), v.data_ptr()
        # whoever watches torch's operators is to see arrays made, which `empty` does not show
        if (q.data_ptr() | at_k | at_v) % 16 or _len_torch_dispatch_stack():
            return None
        device = q.get_device()
        lies = device, q.stride(), k.stride(), v.stride()
        found = begun.get(lies)
        if found is None:
            return first(q, k, v, lies)
        if device != driver.active.get_current_device():
            with torch.cuda.device(device):
                return run(q, k, v)
        made, grid, (of_q, of_k, of_v, of_out), sides, rest = found
        out, lse = empty(shape, steps, dtype), empty(rows, row_steps, torch.float32)
        addresses = (None,) * 4 if sides is None else (at_k, sides[0], at_v, sides[1])
        stream = driver.active.get_current_stream(device)
        boxes = placed(q, of_q), placed(k, of_k), placed(v, of_v), placed(out, of_out)
        start_again(made, grid, stream, (*boxes, None, lse, None, None, *addresses, counters.taken(device, stream), *rest))
        return State(out, lse)

    return run


def _programs(plan: Plan) -> int:
    """As many as there are tiles, or multiprocessors."""
    problem, known = plan.problem, arguments.fixed(plan)
    assert isinstance(problem, Problem)
    return min(-(-problem.T // known.form.all_tokens) * known.units, plan.machine.units)
