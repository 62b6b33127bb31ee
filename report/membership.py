"""What memorisation.membership of metrics.json says in words."""

import math

SURE = 0.05  # the chance of "told" where nobody is, over all attacks on the weights, or on the samples


def attacks_on(membership, of):
    """The attacks that were made on "weights" or "samples", a part of memorisation.membership."""
    return {name: one for name, one in membership.items() if isinstance(one, dict) and one["of"] == of}


def strongest(membership, of="weights"):
    """The name of the attack on "weights" or "samples" with the largest AUC, None where there is none."""
    attacks = attacks_on(membership, of)
    return max(attacks, key=lambda name: attacks[name]["auc"], default=None)


def membership_verdict(membership):
    """What the weights tell, and what the samples tell: no word about privacy."""
    return "; ".join(f"{of}: {verdict_on(attacks_on(membership, of), of)}" for of in ("weights", "samples"))


def verdict_on(attacks, of):
    """What attacks on ``of`` tell; their p is corrected for their number (Bonferroni), so the best is no lucky one."""
    if not attacks:
        return "not assessed"
    sure = {name: one for name, one in attacks.items() if one["p"] * len(attacks) < SURE}
    name = strongest(sure or attacks, of)
    one = attacks[name]
    found = f"({name.replace('_', ' ')}, AUC {one['auc']:.2f} [{one['low']:.2f}, {one['high']:.2f}])"
    if sure:
        odds = f"1 false alarm in {1 / one['false_alarm']:.0f}"
        return f"{100 * one['told']:.0f} % of training people are told at {odds} {found}"
    if len(attacks) / math.comb(one["people"] + one["unseen"], one["unseen"]) >= SURE:
        return f"cannot tell from {one['people']} training people and {one['unseen']} others {found}"
    return f"training people are not told {found}"
