"""From a number and what a perfect prior would score to a verdict: told apart, consistent, or cannot tell."""

import numpy as np

from report.numbers import CANNOT_TELL, CONSISTENT, TOLD_APART, WORSE

LEVEL = 0.05  # of the whole family of numbers of one reference


def p_value(value, null, worse=None):
    """How often a perfect prior would score as badly: in (0, 1].

    The rank of the value among the draws. Beyond the furthest draw it is continued by an exponential tail whose scale
    is the mean excess of the furthest tenth (Knijnenburg et al. 2009, with shape 0): a hundred draws alone could never
    pass a correction for many numbers.

    Args:
        value: float.
        null: (D,) float, the same statistic of the draws.
        worse: "high" or "low", the bad side; None for both.
    """
    null = np.asarray(null, float)
    if worse is None:
        return min(1.0, 2 * min(p_value(value, null, "high"), p_value(value, null, "low")))
    null, value = (null, value) if worse == "high" else (-null, -value)
    rank = (1 + (null >= value).sum()) / (1 + len(null))
    furthest = np.sort(null)[-max(len(null) // 10, 2) :]
    scale = (furthest - furthest[0]).mean()
    if value <= furthest[-1] or rank > 1 / (1 + len(null)):
        return float(rank)
    return float(rank * np.exp(-(value - furthest[-1]) / max(scale, 1e-12)))


def holm(p_values, level=LEVEL):
    """Which of some p-values are significant together (Holm 1979): a dict of name → bool.

    The chance that any of them is though nothing differs is ``level`` at most, however they depend on each other.

    Args:
        p_values: dict of name → float.
    """
    told, ordered = dict.fromkeys(p_values, False), sorted(p_values, key=p_values.get)
    for rank, name in enumerate(ordered):
        if p_values[name] > level / (len(ordered) - rank):
            break
        told[name] = True
    return told


def judge(values, nulls):
    """A verdict on each of the numbers of one reference.

    Args:
        values: dict of name → float or None, names may be dotted.
        nulls: list of dicts of the same names, one a draw; empty where there are too few people.

    Returns:
        dict of name → (p or None, CONSISTENT, TOLD_APART or CANNOT_TELL).
    """
    p_values = {}
    for name, value in values.items():
        null = [draw[name] for draw in nulls if draw[name] is not None]
        if value is not None and len(null) > 1:
            p_values[name] = p_value(value, null, WORSE.get(name.rpartition(".")[2]))
    told = holm(p_values)
    verdicts = {}
    for name in values:
        p = p_values.get(name)
        doubtful = CANNOT_TELL if p is None or p <= LEVEL else CONSISTENT
        verdicts[name] = p, TOLD_APART if told.get(name) else doubtful
    return verdicts
