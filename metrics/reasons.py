"""Why a number of metrics.json is null."""

WHY_NOT = {
    "two_sample_auc": "needs two people on both sides",
    "kid": "needs two people on both sides",
    "diversity": "no two people share a label and a position",
    "patches": "no patch fits into any brain",
    "cells": "no brain was found",
    "effect": "no brain was found, or all real people are alike",
    "spread": "no brain was found, or all people are alike",
    "link": "fewer than two people in whom a brain was found, or all are alike",
    "noise_ratio": "no brain was found, or no noise in it",
    "ratio": "half of the slices of unseen people look the same as one of training",
}


def put(target, name, value, reason):
    """Set a metric; None gets its reason beside it: that of WHY_NOT whose name ``reason`` has at an end, or itself."""
    target[name] = value
    if value is None:
        known = (key for key in WHY_NOT if reason and (reason.startswith(key) or reason.endswith(f"_{key}")))
        key = next(known, None)
        target[f"{name}_why"] = WHY_NOT[key] if key else reason if reason and " " in reason else "not defined here"
