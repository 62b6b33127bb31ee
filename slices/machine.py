"""The machine: how many cores a job may use of it, what its control groups say, and what its processor is."""

import os
import platform
import re
from contextlib import suppress
from pathlib import Path

OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # Linux' control groups: limits of a job


def cores(quotas=True):
    """How many cores this process may use: of its affinity and the CPU quotas of its control groups, the least.

    Args:
        quotas: whether these count; TensorFlow knows of the affinity alone.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        count = os.cpu_count() or 1
    if not quotas:
        return count
    limits = [text.split() for text in control_group("cpu", "cpu.max")]
    limits += zip(control_group("cpu", "cpu.cfs_quota_us"), control_group("cpu", "cpu.cfs_period_us"), strict=False)
    shares = [-(-int(quota) // int(period)) for quota, period in limits if quota.isdigit()]  # "max" and -1 are none
    return max(1, min([count, *shares]))


def control_group(controller, name):
    """What a file of the control groups says for this process: list of str, of its own group and of all above it.

    Args:
        controller: "cpu" or "memory", for groups of version 1; those of version 2 have all in one place.
        name: of the file.
    """
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for root in (GROUPS / controllers, GROUPS / controller) if controllers else (GROUPS, GROUPS / "unified"):
            group = root / own.strip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    with suppress(OSError):
                        found.append((folder / name).read_text(encoding="utf-8").strip())
    return found


def cpu_flags():
    """Which of AVX2, AVX-512 and AMX the processor has, as far as the system says: a list of str."""
    text = _cpuinfo()
    return [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in text]


def processor():
    """The name of the processor and its ``cpu_flags``."""
    name = re.search(r"model name\s*:\s*(.+)", _cpuinfo())
    return f"{name[1] if name else platform.machine()} ({', '.join(cpu_flags())})"


def _cpuinfo():
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
