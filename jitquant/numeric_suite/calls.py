"""One call of a watched model: what is done with its values, and what becomes of errors on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from jitquant.errors import QuantizationError
from jitquant.watch import Watched, WatchedOp


def check_forward(ops: Iterable[WatchedOp], caller: str) -> None:
    """Raises QuantizationError where nothing of forward, which is what runs, was quantized."""
    if all(op.method != "forward" for op in ops):
        raise QuantizationError(
            f"{caller}: forward of the quantized model is not quantized; {caller} compares what forward "
            "computes, so name it in methods= of quantize_jit"
        )


def call(
    watched: Watched,
    inputs: tuple[Any, ...],
    caller: str,
    *,
    kwargs: Mapping[str, Any] | None = None,
    on_output: Callable[[int, Tensor], None] | None = None,
    on_inputs: Callable[[int, list[Tensor]], None] | None = None,
    substitute: Callable[[int, int, Tensor], Tensor | None] | None = None,
) -> Any:
    """Runs a model, as ``Watched.run`` does. What a callback raises is raised as it is.

    Raises:
        QuantizationError: where the model cannot be called with these inputs.
    """
    raised: list[Exception] = []

    def guarded(callback: Any) -> Any:
        def run(*arguments: Any) -> Any:
            if raised:
                return None
            try:
                return callback(*arguments)
            except Exception as error:  # libtorch would make a RuntimeError of it
                raised.append(error)
                return None

        return None if callback is None else run

    try:
        result = watched.run(
            inputs, guarded(on_output), guarded(on_inputs), guarded(substitute), kwargs=kwargs
        )
    except (RuntimeError, TypeError) as error:
        if raised:
            raise raised[0] from None
        raise QuantizationError(
            f"{caller}: the model cannot be called with this data ({_cause(error)}); pass what its forward "
            "takes, one argument after the other"
        ) from error
    if raised:
        raise raised[0]
    return result


def own(value: Tensor) -> Tensor:
    """A copy that no op of the model writes to."""
    return value.detach().clone()


def _cause(error: Exception) -> str:
    """The line that says it: of an error in a graph the last one, before it come the lines of the code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("RuntimeError: ")]
    return (
        told[-1].removeprefix("RuntimeError: ") if told else lines[0] if lines else "no reason given"
    ).rstrip(".")
