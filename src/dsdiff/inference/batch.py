"""Many cases, their steps overlapped: while one is computed, the one before is written and then the next one read."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dsdiff.inference import outputs as case_io
from dsdiff.inference import parallel
from dsdiff.inference.model import Model
from dsdiff.inference.options import Sampling
from dsdiff.inference.pipeline import complete
from dsdiff.inference.style_reference import Reference
from dsdiff.io.cases import Case
from dsdiff.system import device as devices

Outcome = tuple[Case, Any | Exception]  # what has become of a case so far, or the error that stopped it


def synthesize_cases(
    todo: Sequence[Case],
    out: Path,
    model: Model,
    sampling: Sampling | None = None,
    *,
    style: Reference | None = None,
    memory: float | None = None,
    progress: Callable[[Case, float], None] = lambda case, share: None,
) -> Iterator[tuple[Case, tuple[str, ...] | Exception]]:
    """Each case, in order, with the doubts about it once its result is written, or with the error that stopped it.

    At most two cases are held at one time; one where `memory`, a ceiling in GB, is given.
    """

    def compute(case: Case, prepared: Any) -> Any:
        return complete(prepared, model, sampling, style=style, memory=memory, progress=partial(progress, case))

    def read(case: Case, _: None) -> Any:
        return case_io.read(case, out, model)

    def write(case: Case, result: Any) -> tuple[str, ...]:
        return case_io.write(result, case, out, model).warnings

    if memory is not None:
        yield from (_tried(write, _tried(compute, _tried(read, (case, None)))) for case in todo)
        return
    with parallel.pool(1) as aside:
        given, writing = iter(todo), None
        coming = _next(aside, read, given)
        try:
            while coming is not None:
                made = coming.result()
                coming = _next(aside, read, given)
                made = _tried(compute, made)
                before, writing = writing, aside.submit(_tried, write, made)
                del made  # so that it is held by its writing alone
                if before is not None:
                    yield before.result()
            if writing is not None:
                yield writing.result()
        finally:
            if coming is not None:
                coming.cancel()  # nobody wants the next case any more


def _next(
    aside: ThreadPoolExecutor, read: Callable[[Case, None], Any], given: Iterator[Case]
) -> Future[Outcome] | None:
    """The reading of the next case, begun aside; None after the last."""
    case = next(given, None)
    return None if case is None else aside.submit(_tried, read, (case, None))


def _tried(step: Callable[[Case, Any], Any], outcome: Outcome) -> Outcome:
    """A step for a case that has not failed before; memory that it leaves unused is given back."""
    case, value = outcome
    if isinstance(value, Exception):
        return outcome
    try:
        return case, step(case, value)
    except Exception as error:  # one odd case must not stop the others
        return case, error
    finally:
        devices.give_back()
