"""Many cases, their steps overlapped: while one is computed, the next is read and the one before is written."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dsdiff.data.cases import Case
from dsdiff.inference import case as case_io
from dsdiff.inference import workers
from dsdiff.inference.model import Model
from dsdiff.inference.reference import Reference
from dsdiff.inference.sampling import Sampling
from dsdiff.inference.synthesize import Result, complete

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

    At most three cases are held at one time; one where `memory`, a ceiling in GB, is given.
    """

    def computed(case: Case, prepared: Any) -> Result:
        say = partial(progress, case)
        return complete(prepared, model, sampling, style=style, memory=memory, progress=say)

    overlapped = memory is None
    read = _each(lambda case, _: case_io.read(case, out, model), ((case, None) for case in todo), overlapped)
    made = _each(computed, read, overlapped=False)
    return _each(lambda case, result: case_io.write(result, case, out, model).warnings, made, overlapped)


def _each(step: Callable[[Case, Any], Any], given: Iterable[Outcome], overlapped: bool) -> Iterator[Outcome]:
    """A step for every case that has not failed before; `overlapped` on a thread of its own, one case ahead."""

    def tried(outcome: Outcome) -> Outcome:
        case, value = outcome
        if isinstance(value, Exception):
            return outcome
        try:
            return case, step(case, value)
        except Exception as error:  # one odd case must not stop the others
            return case, error

    return workers.in_order(tried, given, int(overlapped))
