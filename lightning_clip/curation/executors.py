"""Where the work on ranges is done: in processes here, or on a Ray cluster; the results are the same and come in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import Registry
from lightning_clip.data.parallel import over_ranges

__all__ = ["Executor", "OnRay", "Processes", "executors"]

T = TypeVar("T")


class Executor(Protocol):
    """Calls `work(number, start, stop)` for the chosen ranges of `size` in range(length); yields number and result in order."""

    def __call__(
        self, work: Callable[[int, int, int], T], length: int, size: int, description: str, chosen: Sequence[int] | None = None
    ) -> Iterator[tuple[int, T]]: ...


executors: Registry[Executor] = Registry("executor")


@executors.register("processes")
class Processes:
    """Forked processes of this machine.

    Args:
        workers: how many; 1 works in this process.
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise InputError(f"workers {workers} must be at least 1")
        self.workers = workers

    def __call__(
        self, work: Callable[[int, int, int], T], length: int, size: int, description: str, chosen: Sequence[int] | None = None
    ) -> Iterator[tuple[int, T]]:
        return over_ranges(work, length, size, self.workers, description, chosen)


@executors.register("ray")
class OnRay:
    """Tasks on a Ray cluster (an extra); the data must be found under the same name on every machine.

    Args:
        address: of a running cluster, such as "auto"; None starts one on this machine.
        workers: tasks under way at a time; None takes the cluster's CPUs.
        cpus: of each task.
        gpus: of each task; with the filter `score`, a fraction such as 0.25 puts four tasks on one GPU.

    Raises:
        InputError: Ray is missing or the cluster does not answer.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, cpus: float = 1.0, gpus: float = 0.0) -> None:
        self.address, self.workers, self.cpus, self.gpus = address, workers, cpus, gpus

    def __call__(
        self, work: Callable[[int, int, int], T], length: int, size: int, description: str, chosen: Sequence[int] | None = None
    ) -> Iterator[tuple[int, T]]:
        from rich.progress import track

        ray = self._ray()
        shared = ray.put(work)
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(_call)
        numbers = range(-(-length // size)) if chosen is None else chosen
        most = 2 * (self.workers or max(1, int(ray.cluster_resources().get("CPU", 1) / max(self.cpus, 0.01))))
        waiting: list[tuple[int, Any]] = []
        left = iter(numbers)
        for _ in track(numbers, description):
            while len(waiting) < most and (number := next(left, None)) is not None:
                span = (number, number * size, min(length, (number + 1) * size))
                waiting.append((number, task.remote(shared, *span)))
            number, reference = waiting.pop(0)
            yield number, ray.get(reference)

    def _ray(self) -> Any:
        try:
            import ray
        except ImportError as error:
            raise InputError('executor ray needs Ray: pip install "lightning-clip[ray]"') from error
        if not ray.is_initialized():
            try:
                ray.init(address=self.address, num_cpus=None if self.address else self.workers, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise InputError(
                    f"no Ray cluster answers at {self.address!r}: {error}. Start one with ray start --head"
                ) from error
        return ray


def _call(work: Callable[[int, int, int], T], number: int, start: int, stop: int) -> T:
    return work(number, start, stop)
