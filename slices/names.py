"""What a file's name and folders say: subject and image ids, slice, label, split, and what is no slice at all."""

import re
import unicodedata

from utils import UserError

UNLABELLED = "unlabelled"
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "validate": "validation",
    "val": "validation",
    "valid": "validation",
}
OASIS_PREFIX = "keras_png_slices_"
NAME_PATTERN = r"^(?P<subject>.+?)[_-](?:slice[_-]?)?(?P<slice>\d{1,9})(?:\.nii)?\.(?:png|jpe?g)$"
SUFFIX = re.compile(r"(?:\.nii)?\.(?:png|jpe?g)$", re.IGNORECASE)

BIDS_SUBJECT = r"sub-[A-Za-z0-9]+"
ADNI_SUBJECT = r"(?<!\d)\d{3}_S_\d{4,5}(?!\d)"
SUBJECTS = re.compile(
    rf"(?P<adni>{ADNI_SUBJECT})"
    r"|(?<![A-Za-z0-9])(?:sub-)?ADNI(?P<site>\d{3})S(?P<number>\d{4,5})(?!\d)"  # as Clinica's BIDS has it
    r"|(?<![A-Za-z0-9])(?:sub-)?(?P<oasis>OAS(?:[12][_-]?\d{4}|[34]\d{4}))(?!\d)"
    r"|(?<![A-Za-z0-9])(?P<bids>sub-[A-Za-z]*\d[A-Za-z0-9]*)",
    re.IGNORECASE,
)
LETTERS_ONLY = re.compile(rf"(?P<bids>{BIDS_SUBJECT})_")  # sub-anna_…: at the start of a name alone
IMAGE_ID = re.compile(r"(?<![A-Za-z0-9])I(\d{4,})(?![A-Za-z0-9])")
SLICE_END = re.compile(r"[_-](?:slice[_-]?)?(\d{1,9})$", re.IGNORECASE)
SLICE_WORD = re.compile(r"(?<![A-Za-z])(?:slice|axial|ax|z)[_-]?(\d{1,9})(?!\d)", re.IGNORECASE)
LAST_NUMBER = re.compile(r"(\d{1,9})(?=\D*$)")

NOBODY = re.compile(  # what programs call any image
    r"(?:slices?|axial|coronal|sagittal|ax|cor|sag|images?|img|im|i|mri?|t1w?|scans?|series|frames?|pics?|pictures?|"
    r"photos?|png|jpe?g|files?|out|output|z|s|export|im(?:age)?[ _-]\d{4})[ _.-]*",
    re.IGNORECASE,
)
NO_SLICES = re.compile(r"(?:masks?|labels?|seg(?:[_ -].*|s|ment.*)?)", re.IGNORECASE)
NO_SLICE = re.compile(
    r"(?:^(?:mask|seg)|.[_-](?:mask|d?seg|labels?|labelmap|probseg|segmentation|aseg))s?(?:[_-]?(?:slice[_-]?)?\d+)?$",
    re.IGNORECASE,
)
COPY = re.compile(r"(?: ?\(\d+\)| - copy| copy)$", re.IGNORECASE)  # "17_3 (1)": downloaded twice, or copied by hand
CLUTTER = ("@eadir", "__macosx")  # of file servers and archivers: thumbnails, not slices


def compile_pattern(subject_pattern=None):
    """The compiled pattern of a file name: the user's, or NAME_PATTERN.

    Raises:
        UserError: it is no regular expression, or lacks one of the groups subject and slice.
    """
    try:
        pattern = re.compile(subject_pattern or NAME_PATTERN, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"--subject-pattern {subject_pattern!r} is not a regular expression ({error})") from None
    missing = {"subject", "slice"} - set(pattern.groupindex)
    if missing:
        raise UserError(f"--subject-pattern {subject_pattern!r} lacks the group (?P<{sorted(missing)[0]}>…)")
    return pattern


def below_split(folders):
    """The split that the folders leading to an image name, "" for none, and the folders below that one.

    Args:
        folders: tuple of str, from the top.
    """
    for level in reversed(range(len(folders))):
        split = SPLIT_FOLDERS.get(folders[level].casefold().removeprefix(OASIS_PREFIX))
        if split:
            return split, folders[level + 1 :]
    return "", folders


def bare_name(name):
    """The name of an image without its suffix."""
    return SUFFIX.sub("", name)


def find_subject(text, folder=False):
    """The subject id in one part of a path, as its project writes it, and where it ends; (None, 0) without one.

    ADNI_002_S_0295_MR… and sub-ADNI002S0295_… → 002_S_0295; OAS1_0028_MR1… → OAS1_0028; sub-OAS30001_… → OAS30001;
    sub-00_ses-1… → sub-00. A folder called sub-acute is nobody: there, a BIDS id needs a digit.
    """
    found = SUBJECTS.search(text) or (None if folder else LETTERS_ONLY.match(text))
    if not found:
        return None, 0
    known = {name: value for name, value in found.groupdict().items() if value}
    if "bids" in known:
        specific = SUBJECTS.match(known["bids"])
        if specific and not specific["bids"]:
            return find_subject(known["bids"])[0], found.end("bids")
        return f"sub-{known['bids'][4:]}", found.end("bids")
    if "site" in known:
        return f"{known['site']}_S_{known['number']}", found.end()
    if "adni" in known:
        return known["adni"].upper(), found.end()
    oasis = known["oasis"].upper()
    return (f"{oasis[:4]}_{oasis[-4:]}" if oasis[3] in "12" else oasis), found.end()


def subject_of_folders(folders):
    """The subject id in the last of the folders that has one, or None."""
    return next(filter(None, (find_subject(folder, folder=True)[0] for folder in reversed(folders))), None)


def person_of(scan):
    """Whose scan it is, where its name holds a subject id: sub-00_ses-1 → sub-00; else the scan itself."""
    return find_subject(scan)[0] or scan


def ids_of(path):
    """The subject ids and the ADNI image ids that a path tells, whoever it is taken for: a set of str."""
    if not IMAGE_ID.search(path) and "sub-" not in path and not SUBJECTS.search(path):  # quick, for most
        return set()
    *folders, name = path.split("/")
    stem = bare_name(name)
    found = {f"I{number}" for part in (*folders, SLICE_END.sub("", stem)) for number in IMAGE_ID.findall(part)}
    subject = find_subject(stem)[0] or subject_of_folders(folders)
    return found | {subject} if subject else found


def image_id(text):
    """The last ADNI image id in a text, without its I: …_S13408_I13722 → 13722; None without one."""
    found = IMAGE_ID.findall(text)
    return found[-1] if found else None


def number_in(text):
    """The slice number in what a name says after its person, and what is left before it: ("_MR1", 96)."""
    found = SLICE_END.search(text) or SLICE_WORD.search(text)
    return (text[: found.start()], int(found[1])) if found else (text, 0)


def last_number(text):
    """The last number of a name, and the name with # in its place: IM0012 → ("IM#", 12)."""
    found = LAST_NUMBER.search(text)
    return (f"{text[: found.start()]}#{text[found.end() :]}", int(found[1])) if found else (text, 0)


def no_slice(folders, name):
    """Why an image is no slice, by its folders or its name: "mask", "clutter", or None."""
    if any(folder.casefold() in CLUTTER for folder in folders):
        return "clutter"
    if any(NO_SLICES.fullmatch(folder.casefold().removeprefix(OASIS_PREFIX)) for folder in folders):
        return "mask"
    return "mask" if NO_SLICE.search(bare_name(name)) else None


def copied_from(name):
    """The name of the image that this one is a copy of, by how browsers and desktops name copies; None for others."""
    stem = bare_name(name)
    found = COPY.search(stem)
    return stem[: found.start()] + name[len(stem) :] if found else None


def one_spelling(labels):
    """{label: label}, those that differ in letter case or in how accents are stored only as one of them."""
    spelling = {}
    for label in sorted(labels):
        spelling.setdefault(same_letters(label), label)
    return {label: spelling[same_letters(label)] for label in labels}


def are_image_ids(people):
    """Whether some of the people, a Series of str, are the numbers of images, as in the names of ADNI's course data."""
    return bool(people.str.fullmatch(r"[IiDd]?\d+").any())


def same_letters(text):
    """A text without letter case, and with one way to store accents: macOS stores them apart from their letters."""
    return unicodedata.normalize("NFC", text.casefold())


def bare_ids(ids):
    """I12345 → 12345, and so are 002_S_0295_I12345 and 12345.0: a Series of str."""
    ids = ids.str.strip().str.replace(r"^(\d+)\.0+$", r"\1", regex=True)
    return ids.str.replace(rf"^(?:{ADNI_SUBJECT}_)?[IiDd](?=\d)", "", regex=True)
