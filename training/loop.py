"""The training loop that all stages share: steps, looks at held-out people, the best weights, logs, checkpoints."""

import math
import signal
import time
from contextlib import closing, contextmanager

from training.checkpoints import last_good, load_checkpoint, save_checkpoint
from training.folder import save_model
from utils import Interrupted, UserError, progress, say, shell, write_csv

AVERAGE_DECAY = 0.998
PATIENCE = 8  # evaluations without a better held-out value before a stage stops early
LOWER = "start a new run with a lower --learning-rate"
AT_ONCE = 1.0  # seconds in which two SIGTERM are one


@contextmanager
def finishing_step():
    """Note SIGTERM and Ctrl-C in the list that is yielded, for whoever loops to obey; a second one leaves at once."""
    received, began = [], []

    def note(number, frame):
        if received and number == signal.SIGTERM and time.monotonic() - began[0] < AT_ONCE:
            return  # timeout, and some schedulers, send it to the process and then to its group
        began.append(time.monotonic())
        if received:
            raise Interrupted(number, "left at once: what is on disk is whole, and --resume goes on from there")
        received.append(number)
        say("finishing the step and saving; once more to leave at once")

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Stage:
    """One stage in training.

    Everything that the next step depends on is in a checkpoint, and everything drawn is a function of the
    step: a run that was stopped and resumed ends in the same bytes as one that was not. All processes of the
    team go through the same steps, and the chief writes. What is made in the scope of the team's strategy is made
    by all of them together, so what the chief does alone must stay outside.

    Args:
        team: the Team that trains.
        folder: the run folder.
        name: "vqvae", "prior" or "refiner": the files are <name>.keras, history_<name>.csv, tensorboard/<name>.
        model: the compiled model.
        step: batch -> dict of metrics of the batch; one optimizer step.
        evaluate: () -> dict of held-out metrics, of which "loss" chooses the best weights.
        show: () -> None; writes what there is to see of the model to TensorBoard.
        checkpoint_minutes: how often the state is saved.
        kept: the part of the model that a finished run needs (default: all of it).
    """

    def __init__(self, team, folder, name, model, step, evaluate, show, checkpoint_minutes, kept=None):
        from training.optimisation import WeightAverage
        from training.replicas import mean_over_replicas

        self.team, self.folder, self.name, self.model, self.kept = team, folder, name, model, kept or model
        self.evaluate, self.show, self.checkpoint_minutes = evaluate, show, checkpoint_minutes
        with team.strategy.scope():
            self.average = WeightAverage(model, AVERAGE_DECAY)
            model.optimizer.build(model.trainable_variables)
        self.state = {"step": 0, "best": None, "worse": 0, "seconds": 0.0, "history": [], "recent": []}
        self.held_out = {}  # of the last look

        def step_here(batch, stop):
            metrics = step(batch)
            self.average.update()
            return metrics | {"stop": mean_over_replicas(1.0 * stop)}  # a product is on the replica's device

        @team.tf.function
        def step_everywhere(batch, stop):
            metrics = team.strategy.run(step_here, (batch, stop))
            return {key: team.local(value) for key, value in metrics.items()}

        self.step = step_everywhere

    # ---- the state ------------------------------------------------------------------------------

    def variables(self):
        """All that a step changes: dict of variables by name."""
        own = [*self.model.variables, *self.model.optimizer.variables]
        averages = {
            f"average/{weight.path}": average
            for weight, average in zip(self.model.weights, self.average.averages, strict=True)
        }
        named = {variable.path: variable for variable in own} | averages | {"average/updates": self.average.updates}
        assert len(named) == len(own) + len(averages) + 1, "two variables have one name"
        return named

    def save(self):
        """Write a checkpoint of this instant."""
        self.check_finite()
        if self.team.chief:
            save_checkpoint(self.folder / "checkpoints", self.name, self.state["step"], self.variables(), self.state)

    def restore(self):
        """Go back to the newest sound checkpoint of this stage, if there is one."""
        variables = self.variables()
        arrays, state = load_checkpoint(
            self.folder / "checkpoints",
            self.name,
            {name: tuple(variable.shape) for name, variable in variables.items()},
        )
        if state is not None:
            for name, variable in variables.items():
                variable.assign(arrays[name])
            self.state = state
            print(f"{self.name}: going on after step {state['step']}")

    def check_finite(self):
        """Raise a UserError when a weight is infinite or not a number."""
        import numpy as np

        if not all(np.isfinite(weight.numpy()).all() for weight in self.model.weights):
            raise UserError(
                f"a weight of {self.name} is not a number after step {self.state['step']} (last good "
                f"checkpoint: {last_good(self.folder, self.name)}): {LOWER}"
            )

    # ---- the loop -------------------------------------------------------------------------------

    def fit(self, batches_from, steps, evaluations, batch_size):
        """Train until ``steps``; leave the best averaged weights in the model's file.

        ``batches_from`` gives the batches from a step (counted from 0) on.

        Raises:
            UserError: the loss or a weight is not a number.
            Interrupted: a signal came; the state is saved.
        """
        self.restore()
        state, every = self.state, -(-steps // evaluations)
        first, before = state["step"], state["seconds"]
        start = saved = time.perf_counter()
        looking = 0.0  # seconds
        stopped = state["worse"] >= PATIENCE
        with finishing_step() as signals, closing(self.writer()) as writer, self.bar(steps, batch_size) as bar:
            for step, batch in zip(
                range(first + 1, first + 1 if stopped else steps + 1), batches_from(first), strict=False
            ):
                stop = self.take(step, batch, signals, bar, batch_size)
                if step % every == 0 or step == steps:
                    now = time.perf_counter()
                    state["seconds"] = before + now - start
                    self.look(writer, bar, (step - first) * batch_size / (now - start - looking))
                    looking += time.perf_counter() - now
                if state["worse"] >= PATIENCE:
                    bar.write(f"{self.name}: no better for {PATIENCE} evaluations, stopped early")
                    break
                if stop:
                    break
                if time.perf_counter() - saved > 60 * self.checkpoint_minutes and step < steps:
                    self.save()
                    saved = time.perf_counter()
            if state["step"] > first:
                self.save()
            self.team.wait()
        if signals or (state["step"] > first and stop):
            raise Interrupted(
                (signals or [signal.SIGTERM])[0],
                f"{self.name} was stopped after step {state['step']} "
                f"and saved: go on with {shell('python', 'train.py', '--resume', self.folder)}",
            )

    def take(self, step, batch, signals, bar, batch_size):
        """Take one step and note what came of it; returns whether a signal reached one of the processes."""
        found = self.step(batch, self.team.tf.constant(float(bool(signals))))
        metrics = {key: float(value) for key, value in found.items() if value.shape == ()}
        stop = metrics.pop("stop") > 0
        if not all(map(math.isfinite, metrics.values())):
            raise UserError(
                f"the loss of {self.name} is not a number at step {step} (last good checkpoint: "
                f"{last_good(self.folder, self.name)}): {LOWER}"
            )
        self.state["step"] = step
        self.state["recent"].append(metrics)
        bar.update(batch_size)
        if step % 10 == 0:
            bar.set_postfix(metrics | {f"held-out {key}": value for key, value in self.held_out.items()})
        return stop

    def bar(self, steps, batch_size):
        """The progress bar of the stage, in slices."""
        return progress(
            total=steps * batch_size,
            initial=self.state["step"] * batch_size,
            unit=" slices",
            desc=self.name,
            unit_scale=False,
        )

    # ---- looks at held-out people ---------------------------------------------------------------

    def look(self, writer, bar, rate):
        """Evaluate the averaged weights, keep them if they are the best, and write a row of history."""
        state = self.state
        self.check_finite()
        training = {key: sum(row[key] for row in state["recent"]) / len(state["recent"]) for key in state["recent"][0]}
        self.average.swap()
        self.held_out = held_out = self.team.agree(self.evaluate())
        improved = state["best"] is None or held_out["loss"] < state["best"]
        if improved:
            state["best"], state["worse"] = held_out["loss"], 0
            if self.team.chief:
                save_model(self.kept, self.folder / f"{self.name}.keras")
        else:
            state["worse"] += 1
        state["history"].append(
            {
                "step": state["step"],
                **training,
                **{f"validation_{key}": value for key, value in held_out.items()},
                "slices_per_second": rate,
                "seconds": state["seconds"],
            }
        )
        if self.team.chief:
            self.log(writer, state["history"])
        self.average.swap()
        bar.write(
            f"{self.name} {state['step']}: loss {training['loss']:.4f}; validation "
            + ", ".join(f"{key} {value:.4g}" for key, value in held_out.items())
            + f"; {rate:.1f} slices/s"
            + ("" if improved else " (not the best)")
        )
        state["recent"] = []

    def writer(self):
        """What writes for TensorBoard; a mute one in all processes but the chief's."""
        summary = self.team.tf.summary
        if not self.team.chief:
            return summary.create_noop_writer()
        return summary.create_file_writer(str(self.folder / "tensorboard" / self.name))

    def log(self, writer, history):
        """Write the history so far, and for TensorBoard its newest row and what the model shows."""
        write_csv(self.folder / f"history_{self.name}.csv", history)
        with writer.as_default(step=history[-1]["step"]):
            for key, value in history[-1].items():
                self.team.tf.summary.scalar(key, value)
            self.show()
        writer.flush()
