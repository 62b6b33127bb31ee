"""Numbers as the pages write them, and tables of them."""

from report.numbers import TOLD_APART, band_of, value_of

NONE = "–"


def number(value, digits):
    """A number, or None, with so many digits after the point: "1,269", "−0.03"."""
    if value is None:
        return NONE
    text = f"{float(value):,.{digits}f}"
    return text.lstrip("-") if not any(digit in text for digit in "123456789") else text.replace("-", "−")


def significant(value, digits=3):
    """A number with so many significant digits: "0.702", "4.1", "1,269"."""
    value = float(value)
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}".replace("-", "−")


def band(low, high, digits):
    """Two ends in brackets."""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def metric(found, digits, unit=""):
    """A metric of metrics.json: a number with its unit, and its interval where it has one."""
    text = number(value_of(found), digits) + (unit if found is not None else "")
    return f"{text} {band(found['low'], found['high'], digits)}" if isinstance(found, dict) else text


def null(found, digits):
    """The null of a metric: its median and its band; "–" for none."""
    ends = band_of(found)
    return NONE if ends is None else f"{number(ends[0], digits)} {band(*ends[1:], digits)}"


def verdict(found):
    """A verdict, in bold letters where it is that something is told apart."""
    return f"**{found}**" if found == TOLD_APART else found or NONE


def percent(share, digits=0):
    """A share as "41 %"."""
    return f"{number(100 * share, digits)} %"


def table(head, rows):
    """A table in Markdown of a head and rows, lists of str."""
    lines = ["".join(f"| {cell} ".replace("|  ", "| ") for cell in line) + "|" for line in (head, *rows)]
    return "\n".join([lines[0], "|" + len(head) * "---|", *lines[1:]])


def day(date):
    """ "2026-11-27" -> "27 November 2026"."""
    import datetime

    found = datetime.date.fromisoformat(date)
    return f"{found.day} {found:%B %Y}"


def processor(name):
    """ "AMD EPYC (avx2, avx512f, avx512_bf16)" -> "AMD EPYC with AVX-512 and bfloat16"."""
    model, _, flags = name.rstrip(")").partition(" (")
    has = [words for flag, words in FLAGS.items() if flag in flags.split(", ")]
    return f"{model} with {' and '.join(has)}" if has else model


FLAGS = {"avx512f": "AVX-512", "avx512_bf16": "bfloat16", "amx_bf16": "AMX"}
