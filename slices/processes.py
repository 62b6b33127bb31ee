"""Many jobs on many cores, in threads or in processes; and a folder that one process holds."""

import multiprocessing
import os
import platform
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress

from slices.machine import cores
from utils import DISK, UserError


def parallel(function, items, track=iter):
    """``function`` of every item, in order, by threads on all cores: a list; ``track`` wraps it in a progress bar."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(cores()) as pool:  # or the BLAS' threads get in the way
        return list(track(pool.map(function, items)))


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


def start_worker():
    """Leave Ctrl-C and SIGTERM to the parent process, which stops its workers; end when the parent is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def held(folder, doing, needed=True):
    """Hold a folder for one process by its file ``lock``; the system's lock ends with the process, however it ends.

    Args:
        folder: Path, one that is there.
        doing: what the process does with it, for the sentence: "being trained".
        needed: whether to refuse a file system that knows no locks.

    Raises:
        UserError: another process holds it, and which.
    """
    from filelock import FileLock, Timeout

    holder = folder / "lock"
    lock = FileLock(holder, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        who = ""
        with suppress(OSError):  # Windows lets nobody else read it
            who = holder.read_text(encoding="utf-8").strip()
        raise UserError(f"{folder} is {doing} by {who or 'another process'}: wait for it, or stop it") from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) in DISK:
            raise
        if not needed:
            yield
            return
        raise UserError(
            f"{folder} is on a file system that knows no locks ({error}): choose another, or have it mounted with them"
        ) from None
    try:
        with suppress(OSError):
            holder.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()
