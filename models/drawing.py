"""From logits to a drawn code."""

import tensorflow as tf


def guide(logits, guidance=None):
    """Logits (2B, K), of which the second half is of the model without its conditions -> those to draw from, (B, K)."""
    if guidance is None:
        return logits
    told, untold = tf.split(logits, 2)
    return untold + guidance * (told - untold)


def truncate(logits, top_k=None, top_p=None):
    """Logits (B, K) with those outside the top k, or outside the top-p nucleus, set to −infinity.

    The nucleus (Holtzman et al. 2020) is the smallest set of likeliest codes whose probabilities reach p.
    """
    if top_k is not None:
        least = tf.math.top_k(logits, min(top_k, logits.shape[-1])).values[:, -1:]
        logits = tf.where(logits < least, -float("inf"), logits)
    if top_p is not None:
        ordered = tf.sort(logits, direction="DESCENDING")
        probabilities = tf.nn.softmax(ordered)
        inside = tf.cumsum(probabilities, axis=-1, exclusive=True) < top_p  # the likeliest always is
        least = tf.reduce_min(tf.where(inside, ordered, float("inf")), axis=-1, keepdims=True)
        logits = tf.where(logits < least, -float("inf"), logits)
    return logits


def draw(logits, uniforms):
    """Codes (B,) int32 from logits (B, K) by inverse CDF of uniforms (B,) in [0, 1)."""
    cumulative = tf.cumsum(tf.nn.softmax(logits), axis=-1)  # (B, K)
    threshold = uniforms[:, None] * cumulative[:, -1:]  # rounding can leave the last sum short of 1
    return tf.reduce_sum(tf.cast(cumulative <= threshold, tf.int32), axis=-1)
