"""Files, folders and random numbers that the scripts share."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dataset
import predict
import train
import utils
from slices.frame import to_bytes
from training.folder import load_models, run_folder
from utils import UserError

ROOT = Path(__file__).parents[1]
MISSING = ("fcntl", "resource", "pwd", "grp", "termios")


def test_a_file_that_fails_halfway_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.json"
    utils.save_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        utils.save_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), utils.whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert utils.load_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_fails_halfway_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), utils.new_folder(tmp_path / "new" / "deep") as folder:
        (folder / "half.txt").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with utils.new_folder(tmp_path / "new" / "deep") as folder:
        (folder / "whole.txt").write_text("whole")
    assert (tmp_path / "new" / "deep" / "whole.txt").read_text() == "whole"
    with pytest.raises(UserError, match="left alone"), utils.new_folder(tmp_path / "new" / "deep"):
        pass


def test_folders_with_one_path_do_not_mix_and_the_second_to_finish_is_told(tmp_path):
    told = pytest.raises(UserError, match="another process has filled .*out meanwhile")
    with told, utils.new_folder(tmp_path / "out"), utils.new_folder(tmp_path / "out") as first:
        for number in range(100):
            (first / f"{number}.txt").touch()
    assert len(list((tmp_path / "out").iterdir())) == 100
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


STOPPED = """
import os, signal, sys, time
import utils

def main(argv):
    with utils.new_folder({out!r}) as folder, utils.whole_file({file!r}) as file:
        file.write_text("half")
        for number in range(100):
            (folder / f"{{number}}.png").touch()
        {then}

if __name__ == "__main__":
    utils.run_script(main)
"""


def python(code, cwd=ROOT, **options):
    """What a Python process that runs the code, at the root of this code, says and how it ends."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    ("then", "status", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", 143, "terminated"),
        ("[os.kill(os.getpid(), signal.SIGTERM) for _ in '12']; time.sleep(9)", 143, "terminated"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", 130, "interrupted"),
        ("raise OSError(28, 'No space left on device', str(folder / '7.png'))", 2, "out/7.png cannot be written (No"),
        ("1 / 0", 1, "ZeroDivisionError"),
    ],
)
def test_nothing_unfinished_stays_however_a_script_ends(then, status, said, tmp_path):
    done = python(STOPPED.format(out=str(tmp_path / "out"), file=str(tmp_path / "table.csv"), then=then))
    assert done.returncode == status and said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_lives_or_is_elsewhere_is_not(tmp_path):
    code = STOPPED.format(
        out=str(tmp_path / "out"), file=str(tmp_path / "table.csv"), then="os.kill(os.getpid(), signal.SIGKILL)"
    )
    python(code)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2 and all(name.startswith(".unfinished-") for name in left)
    machine, pid = re.match(r"\.unfinished-(\w{8})-(\d+)-", left[0]).groups()
    kept = [left[0].replace(machine, "0" * 8), f".unfinished-{machine}-{os.getppid()}-x", ".unfinished-mine"]
    for name in kept:
        (tmp_path / name).mkdir()
    with utils.new_folder(tmp_path / "out") as folder:
        for number in range(10):
            (folder / f"{number}.png").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"out", *kept}
    assert len(list((tmp_path / "out").iterdir())) == 10


FAULTS = {
    OSError(errno.ENOSPC, "No space left on device"): "the output cannot be written (No space left on device): free",
    OSError(errno.EROFS, "Read-only file system", "a.png"): "a.png cannot be written (Read-only file system): choose",
    OSError(errno.EDQUOT, "Disk quota exceeded", "a.png"): "a.png cannot be written (Disk quota exceeded): free some",
    PermissionError(errno.EACCES, "Permission denied", "a.png"): "a.png cannot be used (Permission denied)",
    OSError("Can't write data (errno = 28, error message = 'No space left on device')"): "No space left on device",
    OSError("100 requested and 0 written"): "cannot be written",
    FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"): "set TMPDIR",
}


@pytest.mark.parametrize("error", FAULTS)
def test_trouble_with_the_disk_is_one_sentence_in_every_script(error, monkeypatch, capsys):
    def main(argv):
        raise error

    monkeypatch.setattr(utils, "prepare_process", lambda: None)
    with pytest.raises(SystemExit) as ended:
        utils.run_script(main)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and FAULTS[error] in said and said.count("\n") == 1


def test_a_full_disk_that_a_library_tells_of_names_the_folder(tmp_path, monkeypatch):
    class OpError(Exception):
        __module__ = "tensorflow.python.framework.errors_impl"

    told = pytest.raises(UserError, match="out cannot be written .No space left on device.: free")
    with told, utils.new_folder(tmp_path / "out"):
        raise OpError("RESOURCE_EXHAUSTED: out/variables; No space left on device")
    monkeypatch.setattr(utils.Path, "mkdir", lambda path, **_: read_only(path))
    told = pytest.raises(UserError, match="/out cannot be written .Read-only file system.: choose")
    with told, utils.new_folder(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def read_only(path):
    if path.name.startswith(".unfinished"):
        raise OSError(errno.EROFS, "Read-only file system", str(path))


def test_an_error_that_is_not_the_disks_stays_a_bug(monkeypatch):
    monkeypatch.setattr(utils, "prepare_process", lambda: None)
    for error in (FileNotFoundError(2, "No such file or directory", "x"), ValueError("No space left on device")):

        def main(argv, error=error):
            raise error

        with pytest.raises(type(error)):
            utils.run_script(main)


def test_a_full_disk_is_told_with_the_name_that_the_user_knows(tmp_path):
    with pytest.raises(OSError, match="table.csv") as raised, utils.whole_file(tmp_path / "table.csv") as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
    assert raised.value.filename == str(tmp_path / "table.csv")


def test_a_link_to_an_empty_folder_leads_to_the_results(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with utils.new_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert (tmp_path / "disk" / "a").is_file() and (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("alphabet", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_no_alphabet_of_a_terminal_stops_a_script(alphabet):
    code = (
        "import utils\n"
        "def main(argv):\n"
        "    print('Žena … → é β \\udcff')\n"
        "    utils.warn('Žena … → é \\udcff')\n"
        "    list(utils.progress(range(2), desc='… →', file=None))\n"
        "    raise utils.UserError('Žena → \\udcff')\n"
        "utils.run_script(main)\n"
    )
    done = python(code, env=os.environ | {"PYTHONIOENCODING": alphabet}, encoding="latin-1")
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.count("\n") == 2


def test_a_user_without_home_and_name_gets_no_folder_of_a_tilde(tmp_path):
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); from os.path import expanduser\n"
        "os.path.expanduser = lambda path: path if 'HOME' not in os.environ else expanduser(path)\n"  # nobody's
        "import utils\n"
        "def main(argv):\n"
        "    home = os.path.expanduser('~'); open(os.path.join(home, 'x'), 'w').close(); print(home)\n"
        "utils.run_script(main)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = python(code, cwd=tmp_path, env=environment | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    (home,) = tmp_path.iterdir()
    assert done.stdout.strip() == str(home) and home.name == f"home-of-{os.getuid()}"
    assert home.stat().st_mode & 0o777 == 0o700


ROOMS = ("slices", "models", "training", "sampling", "metrics", "report")


def test_everything_can_be_imported_where_unix_modules_are_missing():
    """Windows stood in for: no fcntl, resource, pwd, grp or termios for this code, nor for what it imports by name."""
    modules = [path.stem for path in ROOT.glob("*.py")]
    modules += [f"{room}.{path.stem}" for room in ROOMS for path in (ROOT / room).glob("[a-z]*.py")]
    modules.remove("sampling.explore_page")  # Streamlit runs it, which is optional
    code = (
        "import importlib, sys\n"
        f"for name in {MISSING}: sys.modules[name] = None\n"
        f"for name in {sorted(modules)}: importlib.import_module(name)\n"
        "print(len(sys.modules))"
    )
    done = python(code, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_file_of_the_rooms_names_what_windows_lacks():
    for path in [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).glob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^(import|from) (fcntl|resource|pwd|grp|termios)\b|os\.fork\b|SIGKILL", text, re.M), path


def test_truncated_json_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(UserError, match="cannot be read as JSON"):
        utils.load_json(tmp_path / "config.json")


def test_random_numbers_are_a_function_of_seed_purpose_and_index():
    def first(*key):
        return utils.random_generator(*key).random()

    assert first(0, "codes", 1) == first(0, "codes", 1)
    assert len({first(0, "codes", 1), first(1, "codes", 1), first(0, "order", 1), first(0, "codes", 2)}) == 4


def test_run_names_and_paths(tmp_path):
    assert run_folder("demo").parts == ("runs", "demo")
    assert run_folder("./demo").parts == ("demo",)
    assert run_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("text", ["0", "nan", "1e9", "x"])
def test_numbers_out_of_range_are_refused(text):
    parser = utils.Parser()
    parser.add_argument("--rate", type=utils.number(float, 0.1, 10))
    assert parser.parse_args(["--rate", "2"]).rate == 2
    with pytest.raises(UserError, match="--rate"):
        parser.parse_args(["--rate", text])


@pytest.mark.parametrize(
    ("script", "words", "hint"),
    [
        (train, ["--dta", "x"], "unrecognized arguments: --dta x: do you mean --data (see --help)"),
        (train, ["slices"], "unrecognized arguments: slices: do you mean --data slices (see --help)"),
        (train, ["--data", "My", "slices"], "unrecognized arguments: slices: what has spaces in it stands in quotes"),
        (train, ["--xyz"], "unrecognized arguments: --xyz (see --help)"),
        (dataset, ["check", "nothing"], "unrecognized arguments: nothing: do you mean --data nothing (see --help)"),
        (dataset, ["check"], "the following arguments are required: --data (see --help)"),
        (dataset, ["cut", "scans"], "the following arguments are required: --volumes, --out (see --help)"),
        (dataset, ["demo", "100"], "unrecognized arguments: 100 (see --help)"),
        (predict, ["--num_images=4"], "unrecognized arguments: --num_images=4: do you mean --num-images (see --help)"),
        (predict, ["sample", "adni"], "unrecognized arguments: adni: do you mean --run adni (see --help)"),
    ],
)
def test_a_word_that_is_no_flag_is_answered_with_what_may_be_meant(script, words, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("slices").mkdir()
    with pytest.raises(UserError) as error:
        script.main(words)
    assert str(error.value).startswith(hint)


def test_grey_levels_round_and_clip():
    assert list(to_bytes(np.array([[-1, 0, 0.4999 / 255, 0.5001 / 255, 1, 2]]))[0]) == [0, 0, 0, 1, 255, 255]


def test_a_damaged_model_is_one_sentence(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "vqvae.keras").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        load_models(run, prior=False)
    assert "\n" not in str(error.value)


def test_one_is_counted_in_the_singular():
    counts = [utils.counted(number, what) for what in ("image", "person") for number in (0, 1, 2)]
    assert counts == ["0 images", "1 image", "2 images", "0 people", "1 person", "2 people"]
