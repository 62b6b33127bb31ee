"""Many replicas of a model (tf.distribute): a step of all together is the step of one alone."""

import tensorflow as tf


def replicas():
    """How many copies of the model share a batch; 1 unless a tf.distribute strategy says otherwise."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def mean_over_replicas(values):
    """Means of the whole batch from means of this replica's part; any structure of tensors."""
    return tf.distribute.get_replica_context().all_reduce("mean", values) if replicas() > 1 else values


def sum_over_replicas(values):
    """Sums over the whole batch from those over this replica's part; any structure of tensors."""
    return tf.distribute.get_replica_context().all_reduce("sum", values) if replicas() > 1 else values


def whole_batch(x):
    """This replica's part (B / replicas, …) of a batch -> the whole batch (B, …), on every replica."""
    if replicas() == 1:
        return x
    gathered = tf.distribute.get_replica_context().all_gather(x, axis=0)
    return tf.ensure_shape(gathered, (x.shape[0] * replicas(), *x.shape[1:]))
