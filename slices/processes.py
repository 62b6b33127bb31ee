"""Many jobs in many processes."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed

from utils import cores, start_worker


def in_processes(function, jobs, workers=None):
    """Yield ``function(*job)`` of every job as it is done; close the generator when you leave early.

    Args:
        function: one that can be pickled.
        jobs: list of tuples.
        workers: number of processes (default: one per core, at most 8); with 1 all is done in this one, in order.

    Raises:
        BrokenProcessPool: a worker was killed.
    """
    workers = min(workers or min(cores(), 8), len(jobs))
    if workers <= 1:
        yield from (function(*job) for job in jobs)
        return
    # spawned, not forked: the caller may have loaded TensorFlow, whose threads do not survive a fork
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=start_worker)
    try:
        futures = [pool.submit(function, *job) for job in jobs]
        yield from (future.result() for future in as_completed(futures))
    finally:
        pool.shutdown(cancel_futures=True)
