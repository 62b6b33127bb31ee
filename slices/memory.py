"""Where decoded slices are kept: in memory, or in a file on a disk where this job's memory is too short for them."""

import math
import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from slices.machine import control_group
from utils import UserError, unfinished_prefix

MEMORY_SHARE = 0.25  # of the available memory may hold the images; more goes to a memory-mapped file
IN_MEMORY = {"tmpfs", "ramfs"}  # file systems whose files fill the memory that was to be spared


@contextmanager
def image_array(shape, cache=None, beside=None):
    """An uint8 array to fill: in memory where it fits, else in a file that is gone when the process is.

    Args:
        cache: the folder of such a file, as the user asked for; it is made.
        beside: the folder where it lies unasked, if it is on a disk (default: that of temporary files).

    Raises:
        UserError: there is no room for it anywhere.
    """
    if math.prod(shape) <= MEMORY_SHARE * available_memory():
        images = _in_memory(shape)
        if images is not None:
            yield images
            return
    images = _mapped(shape, cache_folder(cache, beside))
    yield images
    images.flush()


def _in_memory(shape):
    """An uint8 array, or None: the system may promise more than it gives."""
    try:
        return np.empty(shape, np.uint8)
    except MemoryError:
        return None


def _mapped(shape, folder):
    """An uint8 array in a nameless file of ``folder``."""
    with nameless_file(math.prod(shape), folder, ", or a smaller --image-size") as file:
        try:
            return np.memmap(file, np.uint8, "w+", shape=shape)
        except (OSError, MemoryError) as error:
            raise _no_room(math.prod(shape), folder, error) from None


def nameless_file(size, folder, instead=""):
    """A file of ``size`` bytes in ``folder``, open without a buffer, that has lost its name.

    So nothing is left of it by any end.

    Args:
        folder: Path; it is made.
        instead: what else the user could do than name another folder, for the sentence.

    Raises:
        UserError: there is no room for it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if size > shutil.disk_usage(folder).free:  # writing beyond it would kill the process
            raise UserError(
                f"{folder} has no room for {size / 1e9:.1f} GB of decoded images: choose another folder with "
                f"--cache{instead}"
            )
        handle, path = tempfile.mkstemp(dir=folder, prefix=unfinished_prefix(), suffix=".npy")
    except OSError as error:
        raise UserError(
            f"the decoded images need a file in {folder}, which cannot be written ({error.strerror}): choose another "
            "folder with --cache"
        ) from None
    file = os.fdopen(handle, "r+b", buffering=0)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, max(size, 1))  # a full quota is told here, and kills nobody later
    except OSError as error:
        file.close()
        raise _no_room(size, folder, error) from None
    finally:
        _forget(path)
    return file


def _no_room(size, folder, error):
    """The UserError of a file that the system did not give, by its OSError or MemoryError."""
    return UserError(
        f"{size / 1e9:.1f} GB of decoded images fit neither into memory nor into a file in {folder} "
        f"({getattr(error, 'strerror', None) or error}): choose a smaller --image-size, or ask for more memory "
        "(ulimit -v)"
    )


def _forget(path):
    """Remove a file that is in use; where the system does not let go of it (Windows), when the process ends."""
    try:
        os.unlink(path)
    except PermissionError:
        import atexit

        def remove():
            with suppress(OSError):
                os.unlink(path)

        atexit.register(remove)


def cache_folder(cache=None, beside=None):
    """The folder for a file of decoded images: the one that was asked for, else one on a disk.

    Raises:
        UserError: every folder that could be taken unasked is in memory or cannot be written.
    """
    if cache is not None:
        return Path(cache)
    candidates = [*([beside] if beside else []), tempfile.gettempdir(), "/var/tmp", "."]
    for folder in map(Path, candidates):
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if nearest.is_dir() and os.access(nearest, os.W_OK) and file_system(nearest) not in IN_MEMORY:
            return nearest
    raise UserError(
        "the decoded images are larger than this job's memory allows, and no folder on a disk can be written: name "
        "one with --cache, or choose a smaller --image-size"
    )


def file_folder(cache=None, beside=None):
    """The folder for files that are read as they are needed: ``cache_folder``, or ``beside`` where all is in memory."""
    try:
        return cache_folder(cache, beside)
    except UserError:
        return Path(beside or tempfile.gettempdir())


def file_system(folder):
    """The kind of file system that a folder is on ("ext4", "tmpfs" …), or None where the system does not say."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    folder, kinds = os.path.realpath(folder), {}
    for line in lines:
        _, place, kind = line.split(" ")[:3]
        kinds[re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), place)] = kind  # the last mount is seen
    around = [place for place in kinds if folder == place or folder.startswith(place.rstrip("/") + "/")]
    return kinds[max(around, key=len)] if around else None


def check_cache(cache):
    """Raise a UserError where the folder that --cache names cannot hold a file."""
    if cache is None:
        return
    nearest = next(path for path in (Path(cache), *Path(cache).absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"--cache {cache} is no folder that can be written: choose another")


# ---- how much there is ------------------------------------------------------------------------


def available_memory():
    """Bytes that this job may still take: the least of free memory, its control groups' limits and ``ulimit -v``."""
    return max(0, min(_free_memory(), _group_memory(), _address_space()))


def _free_memory():
    """Bytes; a cautious 2 GB where the system does not say."""
    try:
        return int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    except (OSError, TypeError):
        return 2 * 1024**3


def _group_memory():
    """The least limit of the control groups (version 1 or 2) that the process is in, less what it has, in bytes."""
    texts = control_group("memory", "memory.max") + control_group("memory", "memory.limit_in_bytes")
    return min([int(text) for text in texts if text.isdigit()], default=math.inf) - _own_memory()


def _own_memory():
    """What this process has in memory, in bytes, pages of files aside: those can be let go."""
    try:
        return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    except (OSError, TypeError):
        return 0


def _address_space():
    """What ``ulimit -v`` leaves of the address space, in bytes."""
    try:
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return math.inf
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return limit - pages * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        return math.inf
