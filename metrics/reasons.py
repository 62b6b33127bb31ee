"""Why a number of metrics.json is null."""

WHY_NOT = {
    "c2st": "needs two people on both sides",
    "diversity": "no two people share a label and a position",
    "patches": "no patch fits into any brain",
    "cells": "no brain was found",
    "effect": "no brain was found, or all real people are alike",
    "wasserstein": "no brain was found",
    "spread": "--quick draws one set",
    "kid": "needs two people on both sides",
    "ratio": "half of the slices of unseen people look the same as one of training",
    "null": "there are no training people to draw from",
}


def put(target, name, value, reason):
    """Set a metric; None gets its reason beside it."""
    target[name] = value
    if value is None:
        key = reason if reason in WHY_NOT else reason.rpartition("_")[2]
        target[f"{name}_why"] = WHY_NOT.get(key, "not defined for these sets")
