"""What everything here shares: sentences and exit status, flags, whole-or-nothing files, seeds, progress.

Importing this module loads nothing heavy, so that ``--help`` and a mistyped flag answer at once.
"""

import argparse
import csv
import difflib
import errno
import hashlib
import json
import os
import platform
import re
import secrets
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
from functools import lru_cache
from pathlib import Path

START = time.perf_counter()
VOICE = {"quiet": False, "verbose": False}  # as the flags say, for this process
RED, YELLOW = 31, 33


class UserError(Exception):
    """A mistake of the user's, in one sentence: what is wrong, where, and what to do."""


class Interrupted(Exception):
    """The work was stopped by a signal, and how to go on."""

    def __init__(self, number, message):
        super().__init__(message)
        self.status = 128 + number


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever cleans up after Ctrl-C cleans up after it, too."""


def run_script(main):
    """Run ``main(argv)`` as a script: status 0 done, 2 the user's mistake, 130 and 143 interrupted."""
    try:
        prepare_process()
        main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        fail(error, error)
    except BrokenPipeError:  # whoever was reading, such as head, has seen enough
        _mute_stdout()
    except Interrupted as error:
        say(f"{Path(sys.argv[0]).name}: {error}")
        sys.exit(error.status)
    except KeyboardInterrupt as error:
        terminated = isinstance(error, Terminated)
        say(f"{Path(sys.argv[0]).name}: {'terminated' if terminated else 'interrupted'}")
        sys.exit(143 if terminated else 130)
    except Exception as error:
        sentence = disk_trouble(error)
        if sentence is None:
            raise
        fail(sentence, error)


def prepare_process():
    """Make a script independent of what surrounds it: terminal, notebook, home; and obey SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot show is no reason to stop
    os.environ |= {"MPLBACKEND": "agg", "KERAS_BACKEND": "tensorflow"}  # a notebook's are for its own process
    if os.path.expanduser("~") == "~":  # a user without name or home: libraries would make a folder of that name here
        home = Path(tempfile.gettempdir(), f"home-of-{os.getuid()}")
        home.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(home)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number, frame):
    signal.signal(number, signal.SIG_IGN)  # timeout sends two, and the second must not stop the cleaning up
    raise Terminated


def _mute_stdout():
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(sentence, error):
    """Say the sentence and end with status 2; with ``--verbose`` show where the error arose."""
    if VOICE["verbose"]:
        error.__suppress_context__ = False  # what it was raised from is what one wants to see
        traceback.print_exception(error)
    say(f"{Path(sys.argv[0]).name}: {coloured('error:', RED, sys.stderr)} {sentence}")
    try:
        sys.stdout.flush()
    except OSError:
        _mute_stdout()  # it lies on the full disk, too
    sys.exit(2)


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


def counted(count, what):
    """A count with its noun: 1 image, 2 images; 1 person, 2 people."""
    return f"{count} {what if count == 1 else {'person': 'people'}.get(what, f'{what}s')}"


def shell(*words):
    """Words as one command that a shell can be given, quoted where they need it."""
    return shlex.join(map(str, words))


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


def digits_of(codes, base, count):
    """Codes (…) int, 0 … base^count − 1, of NumPy or TensorFlow -> their digits, the first first: a tuple of (…)."""
    return tuple(codes // base**place % base for place in reversed(range(count)))


def from_digits(digits, base):
    """The inverse of ``digits_of``: a sequence of (…) int -> codes (…)."""
    codes = digits[0]
    for digit in digits[1:]:
        codes = base * codes + digit
    return codes


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
    path, temporary = Path(path), None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=unfinished_prefix(), suffix=path.suffix)
        os.close(handle)
        yield Path(temporary)
        with open(temporary, "r+b") as written:  # Windows syncs only what is open for writing
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        detail(f"wrote {path}")
    except OSError as error:
        if error.errno is not None and error.filename in (None, temporary):
            error.filename = str(path)  # what the user knows of
        raise
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def new_folder(path, flag="--out"):
    """Yield a folder beside ``path`` to fill; rename it into place only when the block succeeds.

    The folder's name is this process's own, so two that make one ``path`` cannot mix: the second to finish is told.
    It is removed at an error, Ctrl-C and SIGTERM; what a killed process left is removed by the next that makes one.

    Args:
        flag: what chooses the path, for the sentences.

    Raises:
        UserError: ``path`` holds something already, or cannot be written.
    """
    path = Path(path)
    place = path.resolve() if path.is_symlink() else path
    with writing(path), making_folder(place.parent):
        if _holds_something(place):
            other = f"another name with {flag}" if flag else "another one"
            raise UserError(f"{path} already holds something and is left alone: choose {other}")
        sweep(place.parent)
        unfinished = place.parent / f"{unfinished_prefix()}{secrets.token_hex(4)}"
        try:
            unfinished.mkdir()
            yield unfinished
            _put_in_place(unfinished, place, flag)
        except OSError as error:
            if str(error.filename).startswith(str(unfinished)):
                error.filename = str(path) + str(error.filename)[len(str(unfinished)) :]
            raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        detail(f"wrote {path}")


def _holds_something(path):
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _put_in_place(unfinished, path, flag):
    """Rename a finished folder to its path, unless another process was faster."""
    try:
        if path.exists():
            path.rmdir()
        unfinished.rename(path)
    except OSError:
        if not _holds_something(path):
            raise
        raise UserError(
            f"another process has filled {path} meanwhile, and nothing of this one is kept: choose "
            + (f"another name with {flag}" if flag else "another one")
        ) from None


@contextmanager
def writing(path):
    """Turn trouble with the disk in the block into the UserError that ``path``, or what it names, cannot be written."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read the output is gone; the disk is not to blame
    except OSError as error:
        reason = error.strerror or next(iter(str(error).splitlines()), type(error).__name__)
        remedy = "free some space, or choose another place" if error.errno in FULL else "choose another place"
        raise UserError(f"{error.filename or path} cannot be written ({reason}): {remedy}") from error
    except Exception as error:
        sentence = disk_trouble(error, path)  # as a library tells it
        if sentence is None:
            raise
        raise UserError(sentence) from error


@contextmanager
def making_folder(path):
    """Make a folder with its parents; when the block fails, remove those that were made and are empty."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield path
    except BaseException:
        for folder in made:
            with suppress(OSError):  # another process uses it, too
                folder.rmdir()
        raise


# ---- what a killed process left -----------------------------------------------------------------


def unfinished_prefix():
    """How the names of this process's unfinished files and folders begin: they tell the machine and the process."""
    return f".unfinished-{_machine()}-{os.getpid()}-"


def sweep(folder):
    """Remove what processes of this machine that are no more left unfinished in a folder.

    What another machine or a living process writes is let be.
    """
    for left in Path(folder).glob(".unfinished-*"):
        found = re.match(r"\.unfinished-([0-9a-f]{8})-(\d+)-", left.name)
        if not found or found[1] != _machine() or _is_alive(int(found[2])):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


@lru_cache(maxsize=1)
def _machine():
    """8 hexadecimal digits for what numbers the processes: this machine, or a container with numbers of its own."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        numbering = ""
    return hashlib.sha256(f"{platform.node()} {numbering}".encode()).hexdigest()[:8]


def _is_alive(pid):
    """Whether there is a process with this number."""
    if os.name == "nt":  # os.kill(pid, 0) would stop it there
        import ctypes

        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = kernel.OpenProcess(0x00100000, False, pid)  # SYNCHRONIZE
        if not handle:
            return ctypes.get_last_error() == 5  # access denied: it is another user's
        ended = kernel.WaitForSingleObject(handle, 0) == 0
        kernel.CloseHandle(handle)
        return not ended
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no number of a process
        pass
    return True


# ---- trouble with the disk ----------------------------------------------------------------------

FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
DISK = FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, getattr(errno, "ESTALE", errno.EIO)}
DISK_WORDS = (  # of libraries that do not say the number
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Permission denied",
    "Input/output error",
    "Not enough free space",
    "requested and",  # "100 requested and 0 written": numpy, on a full disk
    "No usable temporary directory",
)


def disk_trouble(error, path="the output"):
    """A sentence for an error of a disk that is full, read-only, not permitted or broken; None for any other error.

    ``path`` is named where the error names none.
    """
    words = next((words for words in DISK_WORDS if words in str(error)), None)
    of_library = type(error).__module__.partition(".")[0] in ("tensorflow", "h5py")
    if not (isinstance(error, OSError) and (words or error.errno in DISK)) and not (of_library and words):
        return None
    if words == "No usable temporary directory":
        return "there is no folder for temporary files that can be written: free some space, or set TMPDIR to one"
    number, path = getattr(error, "errno", None), getattr(error, "filename", None) or path
    reason = getattr(error, "strerror", None) or words
    if number in FULL or words in DISK_WORDS[:2] + DISK_WORDS[5:7]:
        return f"{path} cannot be written ({reason}): free some space, or choose another place with --out"
    if number == errno.EROFS or words == "Read-only file system":
        return f"{path} cannot be written ({reason}): choose another place with --out"
    return f"{path} cannot be used ({reason}): see to it that it can be, or choose another place with --out"


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


class TellVersion(argparse.Action):
    """Prints the version and ends. argparse's own would have it read at every start."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options | {"nargs": 0, "default": argparse.SUPPRESS})

    def __call__(self, parser, *arguments):
        print(version())
        parser.exit()


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are a UserError: one sentence, status 2, no usage dump.

    It adds --quiet, --verbose and --version and obeys them itself, so that they are not among the flags.
    """

    def __init__(self, **options):
        options = {
            "formatter_class": argparse.RawDescriptionHelpFormatter,
            "allow_abbrev": False,
            "usage": "python %(prog)s [flags]",
        } | options
        super().__init__(**options)
        self.add_argument("--version", action=TellVersion, help="tell the version of this code")
        voice = self.add_mutually_exclusive_group()
        voice.add_argument("--quiet", action="store_true", help="say nothing but warnings and errors")
        voice.add_argument(
            "--verbose",
            action="store_true",
            help="name every file written, let the libraries speak, and show where an error arose",
        )

    def parse_args(self, argv):
        self.words = argv
        flags, unknown = self.parse_known_args(argv)
        if unknown:
            self.refuse(unknown)
        VOICE.update({name: vars(flags).pop(name) for name in VOICE})
        if VOICE["quiet"]:
            sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115 - for good
        return flags

    def refuse(self, unknown):
        """Raise the UserError for words that the parser does not know, with what may be meant."""
        flags, word, hint = self._option_string_actions, unknown[0], ""
        bare = "--run" if "--run" in flags and not os.path.isdir(word) else "--data"  # what a lone word is likely
        if word.startswith("-"):
            close = difflib.get_close_matches(word.partition("=")[0], flags, 1)
            hint = f": do you mean {close[0]}" if close else ""
        elif bare in self.words or "--data" in self.words:
            hint = ": what has spaces in it stands in quotes"
        elif bare in flags:
            hint = f": do you mean {shell(bare, word)}"
        self.error(f"unrecognized arguments: {shell(*unknown)}{hint}")

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

    def error(self, message):
        words = getattr(self, "words", ())
        foreign = [
            word
            for word in words
            if word.startswith("--") and word.partition("=")[0] not in self._option_string_actions
        ]
        if "--data" in message and words and not words[0].startswith("-"):
            foreign = [words[0]]
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
        SystemExit: after ``--help`` and ``--version``.
    """
    by_name = {command.name: command for command in commands}
    word = argv[0] if argv and not argv[0].startswith("-") else None
    if word is None and "--version" in argv:
        print(version())
        sys.exit(0)
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


# ---- this code --------------------------------------------------------------------------------


def version():
    """The version of this code, as its pyproject.toml tells it: "1.0.0"."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def git_commit():
    """The commit of this code, or None outside a checkout."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
