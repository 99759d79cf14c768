"""Many cases with overlapping steps: while one case is computed, the previous one is written and the next one read."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dsdiff.inference import outputs, parallel
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io.cases import Case
from dsdiff.preprocessing.normalize import LoadedCase
from dsdiff.system.device import malloc_trim

CaseFractionCallback = Callable[[Case, float], None]  # takes the case and the fraction of it that is done
Outcome = tuple[Case, Any | Exception]  # a case with the value of its last step, or the error that stopped it


def ignore_case_fraction(case: Case, fraction: float) -> None:
    """Do nothing: the progress callback of a caller that shows no progress.

    Args:
        case: The case that is computed.
        fraction: Of it that is done, 0 to 1.
    """


def synthesize_cases(
    cases: Sequence[Case], out: Path, pipeline: Pipeline, progress: CaseFractionCallback = ignore_case_fraction
) -> Iterator[tuple[Case, tuple[str, ...] | Exception]]:
    """Synthesize cases and write them to `out/<case name>`. An error stops only its own case.

    Args:
        cases: The input files.
        out: Folder of the results.
        pipeline: Model and options. At most two cases are in memory; one if the options limit the memory.
        progress: Called with the case and the fraction of it that is done.

    Yields:
        Each case in order, with its warnings once its result is written, or with the error that stopped it.
    """

    def read(case: Case, _: None) -> LoadedCase:
        return outputs.read_case(case, out, pipeline.model)

    def compute(case: Case, loaded: Any) -> Any:
        return pipeline.synthesize_loaded(loaded, partial(progress, case))

    def write(case: Case, result: Any) -> tuple[str, ...]:
        outputs.write_case(result, case, out, pipeline.model)
        warnings: tuple[str, ...] = result.warnings
        return warnings

    if pipeline.options.memory_gb is not None:
        for case in cases:
            yield _attempt(write, _attempt(compute, _attempt(read, (case, None))))
        return

    with parallel.worker_pool(1) as executor:
        remaining, write_future = iter(cases), None
        read_future = _submit_next(executor, read, remaining)
        try:
            while read_future is not None:
                outcome = read_future.result()
                read_future = _submit_next(executor, read, remaining)
                outcome = _attempt(compute, outcome)
                previous_write, write_future = write_future, executor.submit(_attempt, write, outcome)
                del outcome  # so that only the writer holds its volumes
                if previous_write is not None:
                    yield previous_write.result()
            if write_future is not None:
                yield write_future.result()
        finally:
            if read_future is not None:
                read_future.cancel()  # the caller stopped: the next case is not needed


def _submit_next(
    executor: ThreadPoolExecutor, read: Callable[[Case, None], Any], remaining: Iterator[Case]
) -> Future[Outcome] | None:
    """Start to read the next case in the background; None after the last."""
    case = next(remaining, None)
    return None if case is None else executor.submit(_attempt, read, (case, None))


def _attempt(step: Callable[[Case, Any], Any], outcome: Outcome) -> Outcome:
    """Run a step for a case that has not failed before, and return freed memory to the system."""
    case, value = outcome
    if isinstance(value, Exception):
        return outcome
    try:
        return case, step(case, value)
    except Exception as error:  # one bad case must not stop the others
        return case, error
    finally:
        malloc_trim()
