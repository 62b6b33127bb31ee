"""The numbers of docs/reliability.md, by reliability.json, which experiments/faults.py and workers.py write."""

from experiments.filled.words import day, processor, table


def tried(files):
    """What was done to trainings, and what came of it: a table."""
    found = files.json("reliability.json")
    faults, fuzz, workers = (found[name] for name in ("faults", "fuzz", "workers"))
    killed, flipped, full = (faults[name] for name in ("killed", "flipped_bytes", "full_file_system"))
    first = sum("vqvae" in instant for instant in killed["instants"])
    lost = [workers[f"killed number {number} of two"]["seconds_until_it_ended"] for number in (1, 0)]
    rows = [
        [
            f"training killed (SIGKILL) {killed['kills']} times, {first} in stage 1 and {killed['kills'] - first} in "
            f"stage 2, {killed['in_a_write']} of them during a write, each time resumed",
            f"{killed['runs']} runs finished; {killed['files_compared']} weights, histories and samples compared with "
            f"those of a run that was never stopped: {len(killed['different'])} differ",
        ],
        [
            f"a bit flipped in the newest checkpoint, {flipped['flips']} times",
            f"passed over aloud {flipped['passed_over_aloud']} times; {len(flipped['different'])} files differ then",
        ],
        [
            "the file system full in mid-training",
            f"status {full['status']}, one sentence, {len(full['half_written']) or 'nothing'} half-written; given room "
            f"and resumed, {len(full['different'])} files differ",
        ],
        [
            f"{fuzz['inputs']} odd files: truncated, empty, hostile, 16-bit, palette, CMYK, animated, decompression "
            "bombs, links to themselves …",
            f"{fuzz['used']} used, {fuzz['skipped']} skipped and named with the reason, {fuzz['crashed']} crashed",
        ],
        ["two workers instead of one, 50 steps of each stage", f"largest difference of any loss {apart(workers, 2)}"],
        ["four workers", apart(workers, 4)],
        [
            "one of two workers killed: the second, the chief",
            f"the other ends after {lost[0]:.0f} and {lost[1]:.0f} s with one sentence; both started again "
            + (
                "finish"
                if all(workers[f"killed number {number} of two"]["finished"] for number in (0, 1))
                else "do **not**"
            ),
        ],
    ]
    return table(["what was done", "what came of it"], rows)


def apart(workers, count):
    """How far losses of so many workers are from those of one, in both stages."""
    found = workers[f"largest difference of losses, {count} workers"]
    return " and ".join(power_of_ten(found[stage]) for stage in ("vqvae", "prior"))


def power_of_ten(value):
    """7.1e-06 -> "7·10⁻⁶"."""
    digit, _, exponent = f"{value:.0e}".partition("e")
    return f"{digit}·10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def conditions(files):
    """When and where trainings were killed."""
    faults = files.json("reliability.json")["faults"]
    return f"{day(faults['date'])}, {processor(faults['processor'])}"


TEXTS = {"reliability.tried": tried, "reliability.conditions": conditions}
