"""What everything here shares: sentences and exit status, flags, whole-or-nothing files, seeds, progress.

Importing this module loads nothing heavy, so that ``--help`` and a mistyped flag answer at once.
"""

import argparse
import csv
import difflib
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START = time.perf_counter()
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # Linux' control groups: limits of a job
VOICE = {"quiet": False, "verbose": False}  # as the flags say, for this process
RED, YELLOW = 31, 33


class UserError(Exception):
    """A mistake of the user's, in one sentence: what is wrong, where, and what to do."""


class Interrupted(Exception):
    """The work was stopped by a signal, and how to go on."""

    def __init__(self, number, message):
        super().__init__(message)
        self.status = 128 + number


def run_script(main):
    """Run ``main(argv)`` as a script: status 0 done, 2 the user's mistake, 130 and 143 interrupted."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        if VOICE["verbose"]:
            error.__suppress_context__ = False  # what it was raised from is what one wants to see
            traceback.print_exception(error)
        say(f"{Path(sys.argv[0]).name}: {coloured('error:', RED, sys.stderr)} {error}")
        sys.exit(2)
    except BrokenPipeError:  # whoever was reading, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Interrupted as error:
        say(f"{Path(sys.argv[0]).name}: {error}")
        sys.exit(error.status)
    except KeyboardInterrupt:
        say(f"{Path(sys.argv[0]).name}: interrupted")
        sys.exit(130)


def say(sentence):
    """Print to stderr, unless nobody listens any more: Ctrl-C ends ``| tee log`` too."""
    with suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)


def detail(sentence):
    """Say what only ``--verbose`` wants to know, with the seconds since the start."""
    if VOICE["verbose"]:
        say(f"{time.perf_counter() - START:8.1f} s  {sentence}")


def coloured(text, colour, stream):
    """``text`` in an ANSI colour where ``stream`` is a terminal; NO_COLOR (https://no-color.org) turns it off."""
    return f"\033[{colour}m{text}\033[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text


def warn(sentence):
    """Tell the user something that does not stop the run."""
    print(f"{coloured('warning:', YELLOW, sys.stderr)} {sentence}", file=sys.stderr)


def shell(*words):
    """Words as one command that a shell can be given, quoted where they need it."""
    return shlex.join(map(str, words))


@contextmanager
def finishing_step():
    """Note SIGTERM and Ctrl-C in the list that is yielded, for whoever loops to obey; a second one leaves at once."""
    received = []

    def note(number, frame):
        if received:
            raise Interrupted(number, "left at once: what is on disk is whole, and --resume goes on from there")
        received.append(number)
        say("finishing the step and saving; once more to leave at once")

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def progress(iterable=None, **options):
    """A tqdm progress bar with rate and time left; silent with ``--quiet``, or when the output is not a terminal."""
    from tqdm import tqdm

    return tqdm(iterable, disable=VOICE["quiet"] or None, dynamic_ncols=True, **options)


def tracker(what, total):
    """A function that wraps an iterable in a progress bar."""
    return lambda iterable: progress(iterable, total=total, desc=what, unit=" slices")


def block_starts(count, what, block=32):
    """Where the blocks of ``count`` images begin, with a progress bar that goes away at the end."""
    return progress(range(0, count, block), desc=what, unit=" blocks", leave=False)


# ---- numbers and many of them ---------------------------------------------------------------


def finite(value):
    """The value as a float, or None where it is not a number."""
    return float(value) if value == value else None


def evenly(rows, limit):
    """At most ``limit`` of the rows, an array, evenly spaced; all of them without a limit."""
    import numpy as np

    if limit is None or len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]


def parallel(function, items, track=iter):
    """``function`` of every item, in order, by threads on all cores: a list; ``track`` wraps it in a progress bar."""
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(cores()) as pool:  # or the BLAS' threads get in the way
        return list(track(pool.map(function, items)))


def start_worker():
    """Leave Ctrl-C to the parent process, which stops its workers; end when the parent is killed."""
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent():
    import multiprocessing

    multiprocessing.parent_process().join()
    os._exit(1)


# ---- random numbers -------------------------------------------------------------------------


def random_generator(seed, purpose, *index):
    """A numpy Generator that is a function of (seed, purpose, index) and of nothing else.

    Args:
        seed: int ≥ 0, the seed of the run.
        purpose: str, what the numbers are for ("split", "order", "codes", …).
        index: ints ≥ 0, such as the epoch, the step or the number of the image.
    """
    import numpy as np

    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose_id(purpose), *index])))


def purpose_id(purpose):
    """The same 31-bit integer for the same words, in every process (``hash`` is salted)."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big") >> 1


# ---- files ----------------------------------------------------------------------------------


@contextmanager
def whole_file(path):
    """Yield a temporary path beside ``path``; rename it into place only when the block succeeds.

    A kill at any instant leaves the previous file, or none, but never half of one.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        detail(f"wrote {path}")
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def new_folder(path):
    """Yield a folder beside ``path`` to fill; rename it into place only when the block succeeds.

    Raises:
        UserError: ``path`` holds something already, or cannot be written.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} already holds something and is left alone: choose another name with --out")
    with making_folder(path.with_name(f".unfinished-{path.name}")) as unfinished:
        yield unfinished
        if path.exists():
            path.rmdir()
        unfinished.rename(path)
        detail(f"wrote {path}")


@contextmanager
def making_folder(path):
    """Make a folder with its parents; when the block fails, remove what was made.

    Raises:
        UserError: it cannot be made.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        _remove(made)
        raise UserError(
            f"{error.filename or path} cannot be written ({error.strerror}): choose another place"
        ) from None
    except BaseException:
        _remove(made)
        raise


def _remove(made):
    """Remove folders that were just made, the deepest first; its contents go with that one."""
    if made:
        shutil.rmtree(made[0], ignore_errors=True)
    for folder in made[1:]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_json(path, value):
    """Write ``value`` as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path, rows):
    """Write a list of dicts with the same keys, whole or not at all."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def load_json(path):
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from None


def file_sha256(path):
    """The sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- flags ----------------------------------------------------------------------------------


def check_folder(path):
    """Raise a UserError unless there is such a folder: to be asked before anything heavy is loaded."""
    if not os.path.isdir(path):
        raise UserError(f"{path} {'is a file, not a folder' if os.path.exists(path) else 'does not exist'}")


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are a UserError: one sentence, status 2, no usage dump.

    It adds --quiet and --verbose and obeys them itself, so that they are not among the flags.
    """

    def __init__(self, **options):
        options = {
            "formatter_class": argparse.RawDescriptionHelpFormatter,
            "allow_abbrev": False,
            "usage": "python %(prog)s [flags]",
        } | options
        super().__init__(**options)
        voice = self.add_mutually_exclusive_group()
        voice.add_argument("--quiet", action="store_true", help="say nothing but warnings and errors")
        voice.add_argument(
            "--verbose",
            action="store_true",
            help="name every file written, let the libraries speak, and show where an error arose",
        )

    def parse_args(self, argv):
        flags, unknown = self.parse_known_args(argv)
        if unknown:
            self.refuse(unknown)
        VOICE.update({name: vars(flags).pop(name) for name in VOICE})
        if VOICE["quiet"]:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open for the rest of the process
        return flags

    def refuse(self, unknown):
        """Raise the UserError for words that the parser does not know."""
        self.error(f"unrecognized arguments: {' '.join(unknown)}")

    def error(self, message):
        raise UserError(f"{message} (see --help)")


@dataclass(frozen=True)
class Command:
    """One thing that a script can do.

    Attributes:
        name: the word on the command line.
        help: what it does, in a line.
        add_flags: adds its flags to a parser.
        run: what does it, called with the flags as named arguments.
        examples: whole command lines, shown below its flags.
    """

    name: str
    help: str
    add_flags: Callable
    run: Callable
    examples: tuple = ()


class CommandParser(Parser):
    """The parser of one of a script's commands, which knows the flags of the others.

    Args:
        script: "predict.py".
        command: a Command.
        commands: all of the script's.
        default: the name of the one that needs no word, or None.
    """

    def __init__(self, script, command, commands, default=None):
        self.script, self.command, self.commands, self.default = script, command, commands, default
        super().__init__(
            prog=self.called(command), description=_sentence(command.help), epilog=_examples(command), usage=None
        )
        command.add_flags(self)

    def called(self, command):
        """How a command is called: "python predict.py complete"."""
        return f"python {self.script}" + ("" if command.name == self.default else f" {command.name}")

    def parse_args(self, argv):
        self.words = argv
        return super().parse_args(argv)

    def error(self, message):
        foreign = [
            word
            for word in getattr(self, "words", ())
            if word.startswith("--") and word.partition("=")[0] not in self._option_string_actions
        ]
        if foreign and "required" in message:  # what is there and should not be tells more than what is missing
            self.refuse(foreign)
        super().error(message)

    def refuse(self, unknown):
        flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), unknown[0])
        for other in self.commands:
            if flag == other.name:
                raise UserError(f"the command {flag} comes first: {self.called(other)} … (see --help)")
            if flag == f"--{other.name}":
                raise UserError(f"there is no flag {flag}: the command is {self.called(other)} (see --help)")
            if other is not self.command and flag in _flags_of(other):
                raise UserError(
                    f"{flag} is no flag of {self.called(self.command)}, but of {self.called(other)} "
                    f"(see {self.called(other)} --help)"
                )
        super().refuse(unknown)


def _sentence(words):
    return f"{words[0].upper()}{words[1:]}."


def _examples(command):
    return "examples: " + "\n          ".join(command.examples) if command.examples else None


def _flags_of(command):
    """The flags of a command, such as {"--run", "--seed"}."""
    parser = argparse.ArgumentParser(add_help=False)
    command.add_flags(parser)
    return {flag for action in parser._actions for flag in action.option_strings}


def run_commands(script, description, commands, argv, default=None):
    """Do what the command line says: a command's word and its flags, or flags alone for the ``default`` command.

    Args:
        script: the name of the script, "predict.py".
        description: what it is for, in a sentence.
        commands: list of Command.

    Raises:
        UserError: a word or a flag that is none, and which command is meant.
        SystemExit: after ``--help``.
    """
    by_name = {command.name: command for command in commands}
    word = argv[0] if argv and not argv[0].startswith("-") else None
    if word is None and (default is None or "--help" in argv or "-h" in argv):
        return _without_command(script, description, commands, argv, default)
    if word is not None and word not in by_name:
        close = difflib.get_close_matches(word, by_name, 1)
        hint = f"do you mean python {script} {close[0]}" if close else f"it has {', '.join(by_name)}"
        raise UserError(f"python {script} has no command {word}: {hint} (see --help)")
    command = by_name[word or default]
    flags = CommandParser(script, command, commands, default).parse_args(argv[1:] if word else argv)
    return command.run(**vars(flags))


def _without_command(script, description, commands, argv, default):
    """Print the help of the whole script, or say which command is missing."""
    if "--help" not in argv and "-h" not in argv:
        flag = next((word.partition("=")[0] for word in argv), None)
        owner = next((command for command in commands if flag in (f"--{command.name}", *_flags_of(command))), None)
        if owner:
            raise UserError(f"python {script} needs a command before {flag}: python {script} {owner.name} (see --help)")
        raise UserError(
            f"python {script} needs a command: {', '.join(command.name for command in commands)} (see --help)"
        )
    width = max(len(command.name) for command in commands) + 2
    print(f"{description}\n\ncommands (python {script} COMMAND --help tells its flags):")
    for command in commands:
        print(f"  {command.name:{width}}{command.help}" + (" (the default)" if command.name == default else ""))
    examples = [line for command in commands for line in command.examples]
    print("\nexamples: " + "\n          ".join(examples))
    if default:
        print()
        CommandParser(script, next(c for c in commands if c.name == default), commands, default).print_help()
    sys.exit(0)


def number(kind, least=None, most=None):
    """An argparse type: an ``int`` or ``float`` in [least, most]."""

    def convert(text):
        value = kind(text)
        if (least is not None and value < least) or (most is not None and value > most) or value != value:
            bounds = f"at least {least}" + (f" and at most {most}" if most is not None else "")
            raise argparse.ArgumentTypeError(f"must be {bounds}, not {text}")
        return value

    convert.__name__ = "whole number" if kind is int else "number"
    return convert


# ---- this code and this machine ---------------------------------------------------------------


def git_commit():
    """The commit of this code, or None outside a checkout."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


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
