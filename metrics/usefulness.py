"""Whether samples teach a classifier the label of real unseen people."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metrics.measured import join
from metrics.people import auc_interval

SOURCES = ("real", "samples", "both")  # what the classifier is trained on


def measure_usefulness(sets, yardstick):
    """The section usefulness of metrics.json: AUC and balanced accuracy on unseen people, for each of SOURCES.

    Args:
        sets: Sets.
        yardstick: the Yardstick, whose principal components the classifier sees.
    """
    return by_source(join(sets.fitted, sets.pool_originals), sets.all_samples, sets.originals, yardstick.shape_of)


def by_source(real, samples, unseen, features_of):
    """AUC and balanced accuracy on unseen people of classifiers trained on real people, on samples, and on both.

    Args:
        real, samples, unseen: sets with ``label`` and ``person`` (N,), and ``take`` of a mask.
        features_of: function of a set to (N, C) float.
    """
    labels, counts = np.unique(real.label, return_counts=True)
    if len(labels) < 2:
        return not_assessed("there is one label")
    two = labels[np.argsort(-counts, kind="stable")[:2]]
    people = pd.Series(unseen.label).groupby(unseen.person).first()
    if min((people == label).sum() for label in two) < 2:
        return not_assessed("needs two unseen people of each of two labels")
    real, unseen, samples = (one.take(np.isin(one.label, two)) for one in (real, unseen, samples))
    features = {"real": [(features_of(real), real.label)], "samples": [(features_of(samples), samples.label)]}
    features["both"] = features["real"] + features["samples"]
    result, unseen_features = {}, features_of(unseen)
    for source in SOURCES:
        x, y = (np.concatenate(column) for column in zip(*features[source], strict=True))
        if len(np.unique(y)) < 2:
            return not_assessed(f"there is one label in {source}")
        auc, accuracy = classify(x, y, unseen_features, unseen)
        result |= {f"auc_{source}": auc, f"balanced_accuracy_{source}": accuracy}
    if result["auc_real"]["low"] <= 0.5:
        return not_assessed("labels not separable in the real data: not assessed")
    return result


def classify(features, labels, unseen_features, unseen):
    """AUC with its interval and balanced accuracy on unseen people, of a classifier trained on features (N, C)."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    scores = classifier.fit(features, labels).decision_function(unseen_features)
    by_person = (
        pd.DataFrame({"score": scores, "label": unseen.label})
        .groupby(unseen.person)
        .agg({"score": "mean", "label": "first"})
    )
    high = by_person["label"] == classifier.classes_[1]
    return (
        auc_interval(by_person["score"][high], by_person["score"][~high]),
        float(balanced_accuracy_score(high, by_person["score"] > 0)),
    )


def not_assessed(reason):
    """The section where there is nothing to be told, with the reason beside every number."""
    names = [f"{measure}_{source}" for source in SOURCES for measure in ("auc", "balanced_accuracy")]
    return {key: value for name in names for key, value in ((name, None), (f"{name}_why", reason))}
