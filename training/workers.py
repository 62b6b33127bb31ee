"""TensorFlow and the devices and processes that train together (tf.distribute)."""

import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager, nullcontext, suppress

from slices.machine import cores
from training.device import take_gpus, warn_of_idle_gpu
from utils import VOICE, UserError


def start_tensorflow(deterministic=True):
    """Import TensorFlow without its start-up chatter, take one GPU if there is one, and make operations repeatable."""
    return start_distributed(deterministic, "none")[0]


def start_distributed(deterministic, distribute):
    """TensorFlow, and the strategy by which several devices train together.

    Float32 is float32: on GPUs TensorFlow would round the factors of products and convolutions to 10 bits (TF32), and
    a code whose neighbour is nearly as near would be another in training than in prediction. Training in bfloat16 or
    float16 is as fast as ever.

    Args:
        distribute: "none"; "mirrored", all GPUs of this machine, or without any all its logical CPUs; or
            "multiworker", this and other processes, as TF_CONFIG or Slurm describes them.

    Returns:
        The module and a tf.distribute.Strategy.

    Raises:
        UserError: the cluster cannot be joined.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if VOICE["verbose"] else "3")
    with nullcontext() if VOICE["verbose"] else _silent_stderr():
        import tensorflow as tf

        if not VOICE["verbose"]:
            tf.get_logger().setLevel("ERROR")  # it warns of every new shape of a batch
        if cores() < cores(quotas=False):  # more threads than a quota lets run would wait for each other
            with suppress(RuntimeError):  # it has begun already, in a notebook
                tf.config.threading.set_intra_op_parallelism_threads(cores())
                tf.config.threading.set_inter_op_parallelism_threads(cores())
        take_gpus(tf, distribute)
        tf.config.experimental.enable_tensor_float_32_execution(False)
        strategy = tf.distribute.get_strategy()
        if distribute == "multiworker":  # must come before the first operation
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's would wait for TensorFlow
            try:
                strategy = tf.distribute.MultiWorkerMirroredStrategy(_cluster_resolver(tf.distribute.cluster_resolver))
            except (tf.errors.OpError, RuntimeError, ValueError) as error:
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise UserError(
                    f"the other workers cannot be joined ({reason}): check the addresses that TF_CONFIG or Slurm gives"
                ) from None
            finally:
                for number, handler in handlers.items():  # TensorFlow takes SIGTERM for itself
                    signal.signal(number, handler)
        tf.config.list_physical_devices()
        tf.zeros(1) + 1  # the devices are initialised, and speak, at the first operation
        if distribute == "mirrored":
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    warn_of_idle_gpu(tf)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return tf, strategy


def _cluster_resolver(resolvers):
    """What tells TensorFlow where the workers are."""
    if "TF_CONFIG" in os.environ:
        return resolvers.TFConfigClusterResolver()
    if shutil.which("nvidia-smi"):
        return resolvers.SlurmClusterResolver()
    return resolvers.SlurmClusterResolver(gpus_per_node=1024, gpus_per_task=1, auto_set_gpu=False)  # else it asks


def cluster_task():
    """This process's place among the workers: (number, count); the number 0 is the chief's.

    Raises:
        UserError: neither TF_CONFIG nor Slurm tells it.
    """
    if "TF_CONFIG" not in os.environ:
        if {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= set(os.environ):
            return int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_TASKS"])
        raise UserError(
            "--distribute multiworker needs TF_CONFIG to say who the workers are, or srun to start them "
            "(--distribute none trains on this machine alone)"
        )
    try:
        described = json.loads(os.environ["TF_CONFIG"])
        cluster, kind, index = described["cluster"], described["task"]["type"], int(described["task"]["index"])
        members = [(name, i) for name in ("chief", "worker") for i in range(len(cluster.get(name, ())))]
        return members.index((kind, index)), len(members)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            'TF_CONFIG must be such as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}, not {os.environ["TF_CONFIG"]}'
        ) from None


class Team:
    """All that train one model together: the replicas of a strategy in this process and in others.

    Attributes:
        tf: the TensorFlow module.
        strategy: a tf.distribute.Strategy.
        chief: bool; only the chief's process writes.
        workers: the number of processes.
    """

    def __init__(self, tf, strategy, worker=0, workers=1):
        self.tf, self.strategy, self.chief, self.workers = tf, strategy, worker == 0, workers

        def chiefs(value):
            context = tf.distribute.get_replica_context()
            return context.all_reduce("sum", tf.where(context.replica_id_in_sync_group == 0, value, 0.0))

        self._chiefs = tf.function(lambda value: strategy.run(chiefs, (value,)))

    def agree(self, values):
        """The chief's values, in all processes: dict of float, with the same keys in each."""
        if self.workers == 1:
            return values
        agreed = self.local(self._chiefs(self.tf.constant(list(values.values()), self.tf.float64)))
        return dict(zip(values, agreed.numpy().tolist(), strict=True))

    def wait(self):
        """Until all processes have come here."""
        self.agree({"here": 1.0})

    def local(self, value):
        """One replica's value, of one that every replica has."""
        return self.strategy.experimental_local_results(value)[0]


@contextmanager
def _silent_stderr():
    """Keep what C++ writes to stderr out of sight, unless the block fails."""
    try:
        said = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed below
    except OSError:  # no room for it: let it speak
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except Exception:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
