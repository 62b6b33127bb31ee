"""Train a VQ-VAE on brain slices, a gated PixelCNN prior on its codes, and a refiner of what they draw: in one command.

Everything a finished run consists of lies in one folder, runs/<name>/, which predict.py and evaluate.py
need and nothing else does. Without --data the embedded demo cohort of simulated people is made and used.
"""

import signal
import time
from contextlib import ExitStack
from pathlib import Path

from training.options import OPTIONS, PRESETS, STAGES, add_option_flags
from utils import Interrupted, Parser, Terminated, UserError, run_script, save_json, shell

CODEBOOK_SLICES = 64  # training slices whose codes the codebook starts from
PATTERN_SLICES = 256  # training slices that the patterns of the prior's top codes are fitted to
EVALUATION_BATCH = 16
SHARPENING_SLICES = 256  # training slices that it is fitted on
DRAWN, DRAWN_TO_LOOK = 1024, 64  # grids of codes that are drawn for the refiner: to learn from, and to judge it by
EQUALISED = 256  # images that are drawn to measure what each frequency of refined ones lacks
COHERENT, REAL = 4, 64  # people who are drawn, and training people, whose slices' coherence is compared


def parse_flags(argv):
    """The options that were given, a dict, and what to do with them: run, preset, stage, vqvae, resume, dry_run."""
    parser = Parser(
        description=__doc__.split("\n\n")[0],
        epilog="examples: python train.py --run demo\n"
        "          python train.py --data AD_NC --run adni --dry-run\n"
        "          python train.py --data AD_NC --run adni\n"
        "          python train.py --resume adni",
    )
    group = parser.add_argument_group("run")
    group.add_argument("--run", metavar="NAME", help="name under runs/, or a path (default: <preset>-<date-time>)")
    group.add_argument("--preset", choices=PRESETS, help="sizes and steps (default: demo without --data, else default)")
    group.add_argument(
        "--stage",
        choices=(*STAGES, "all"),
        default="all",
        help="prior, refiner: go on with a --run whose VQ-VAE, or prior, is done (default all)",
    )
    group.add_argument("--vqvae", metavar="RUN", help="start a new run from a copy of this run's VQ-VAE")
    group.add_argument("--resume", metavar="RUN", help="go on with this unfinished run, as it began")
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved config, sizes and an estimate of the time; make no run",
    )
    add_option_flags(parser, {"run": group})
    flags = vars(parser.parse_args(argv))
    options = {name: flags.pop(name) for name in OPTIONS if name in flags}
    return {name: value for name, value in options.items() if value is not None}, flags


def main(argv):
    """Train; see ``python train.py --help``."""
    options, flags = parse_flags(argv)
    train(options, **flags)


def train(options, dry_run=False, resume=None, **run):
    """Plan a run and train it, or go on with one.

    Args:
        options: dict of options (training/options.py), those that are not as the preset has them.
        dry_run: whether to print the plan only.
        resume: the name of the run to go on with.
        run: which run, as in ``training.plan.resolve_config``: run, preset, stage, vqvae.

    Raises:
        UserError: a mistake in the options or the data, or trouble on the way.
        Interrupted: by a signal, when all is saved.
    """
    from training.folder import run_name
    from training.plan import check_batch_size, is_finished, readable_errors, resolve_config

    folder, config = resolve_config(options, dry_run=dry_run, resume=resume, **run)
    if is_finished(config):
        print(f"{folder} is finished: there is nothing to resume")
        return
    start = time.perf_counter()
    distribute = "none" if dry_run else config["distribute"]
    team = gather_team(config["deterministic"], distribute)
    check_batch_size(config["batch_size"], distribute, team.strategy.num_replicas_in_sync)
    with ExitStack() as stack:
        stack.enter_context(readable_errors(team.tf, folder))
        parts = None
        if team.chief:
            config, parts = begin(team, stack, folder, options, config, dry_run, resume, run)
            if dry_run:
                return
        team.wait()
        if not team.chief:
            config, parts = join(team, folder)
        try:
            train_stages(team, config, folder, parts)
        except KeyboardInterrupt as stopped:  # between the steps of two stages, where there is no step to finish
            number = signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT
            sentence = f"stopped: go on with {shell('python', 'train.py', '--resume', run_name(folder))}"
            raise Interrupted(number, sentence) from None
        if team.chief:
            finish(config, folder, time.perf_counter() - start)


def gather_team(deterministic, distribute):
    """TensorFlow and all that train together, by ``distribute``: none, mirrored, or multiworker."""
    from training.workers import Team, cluster_task, start_distributed

    worker, workers = cluster_task() if distribute == "multiworker" else (0, 1)
    if workers > 1:
        print(f"worker {worker} of 0 to {workers - 1} waits for the others", flush=True)
    return Team(*start_distributed(deterministic, distribute), worker, workers)


def begin(team, stack, folder, options, config, dry_run, resume, run):
    """The chief's part before the first step: data, plan, run folder and lock; the config and the parts of the data."""
    from slices.frame import Box
    from training.data import prepare_data
    from training.folder import data_found, locked
    from training.plan import begin_run, plan_run, resolve_config, tell_device

    begun = (folder / "config.json").is_file()
    if begun:
        stack.enter_context(locked(folder))
        config = resolve_config(options, resume=resume, **run)[1]  # whoever held the lock may have changed it
    known = folder if resume else config["source"]
    with data_found(Path(known or folder), config):
        slices, parts = prepare_data(config, known, beside=folder.parent)
    if resume and "data" in options:
        save_json(folder / "config.json", config)  # for whoever looks for them next
    if resume:
        tell_device(team.tf, config)
    else:
        plan_run(team.tf, config, Box(*config["crop_box"]), len(parts["train"]["images"]), dry_run)
        if not dry_run:
            begin_run(folder, config, slices)
            if not begun:
                stack.enter_context(locked(folder))
    return config, parts


def join(team, folder):
    """The config and the parts of the data for a worker that is not the chief."""
    from training.data import prepare_data
    from training.folder import data_found, read_config
    from training.options import with_defaults

    if not (folder / "config.json").is_file():
        raise UserError(
            f"a worker does not see the run folder {folder} that the chief made: it must be on a disk that "
            "all workers share"
        )
    config = with_defaults(read_config(folder))
    with data_found(folder, config):
        return config, prepare_data(config, folder, beside=folder.parent)[1]


def train_stages(team, config, folder, parts):
    """Train the stages that are wanted, and measure what came out on the validation people, all of them."""
    from metrics.validation import measure
    from slices.frame import Box
    from training.folder import load_models

    box = Box(*config["crop_box"])
    for name, train_stage in zip(STAGES, (train_vqvae, train_prior, train_refiner), strict=True):
        if config["stages"].get(name) == "wanted":
            train_stage(team, config, folder, parts, box)
            if name == "vqvae" and team.chief:
                measure_sharpening(folder, parts["train"], box)
            config["stages"][name] = "finished"
            if team.chief:
                save_json(folder / "config.json", config)
            team.wait()
    config["finished"] = config["stages"]["prior"] == "finished"
    if team.chief:
        if config["stages"].get("refiner") == "finished":
            measure_drawn(folder, parts["train"], box, config["seed"])
        models = load_models(folder, prior=config["finished"])
        config["validation"] = measure(models, parts["train"], parts["validation"], box, "validation")
    team.wait()


def finish(config, folder, seconds):
    """Write down that the run is finished, and tell what it scores and what to do next."""
    from report.model_card import write_model_card
    from report.numbers import print_measurement
    from training.folder import run_name

    config["seconds"] = round(seconds, 1)
    save_json(folder / "config.json", config)
    write_model_card(folder, config)
    print_measurement(config["validation"])
    print(f"finished in {config['seconds'] / 60:.1f} minutes: {folder}")
    if config["finished"]:
        print(f"next: {shell('python', 'predict.py', '--run', run_name(folder))}")


def some_crops(part, count, box):
    """At most ``count`` slices of a part, evenly spaced, cut to the box: (N, box height, box width, 1) uint8."""
    import numpy as np

    from slices.frame import crop
    from utils import evenly

    return crop(part["images"][evenly(np.arange(len(part["images"])), count)], box)


# ---- stage 1 ------------------------------------------------------------------------------------


def train_vqvae(team, config, folder, parts, box):
    """Train the VQ-VAE: the encoder, the codebook and the decoder."""
    import numpy as np

    from dataset import evaluation_batches
    from metrics.looks import judge_vqvae, show_vqvae
    from training.codebook import initialise_codebooks
    from training.data import stage_batches, thinned
    from training.loop import Stage
    from training.optimisation import build_vqvae
    from training.steps import vqvae_step

    tf, train_part, validation = team.tf, parts["train"], thinned(parts["validation"])
    with team.strategy.scope():
        vqvae = build_vqvae(config, box, config["precision_resolved"])
    initialise_codebooks(vqvae, some_crops(train_part, CODEBOOK_SLICES, box).astype("float32") / 255)
    encode, decode = tf.function(vqvae.encode), tf.function(vqvae.decode)
    batches = evaluation_batches(validation["images"], {}, EVALUATION_BATCH, box)
    originals = np.concatenate([batch["image"] for batch in batches])  # (N, h, w, 1)

    def reconstructed():
        codes = [encode(batch["image"]) for batch in batches]
        return np.concatenate(codes), np.concatenate([decode(block) for block in codes])

    def step(batch):
        metrics = vqvae_step(vqvae, batch, config["vqvae_steps"])
        squared, codes = metrics.pop("squared"), metrics.pop("codes")
        metrics["psnr"] = -10 * tf.math.log(squared) / tf.math.log(10.0)
        coarsest = tf.reshape(codes[0], [-1])
        metrics["codes_in_batch"] = tf.cast(tf.size(tf.unique(coarsest)[0]), tf.float32)
        return metrics

    stage = Stage(
        team,
        folder,
        "vqvae",
        vqvae,
        step,
        lambda: judge_vqvae(vqvae, originals, *reconstructed(), validation["slices"]["subject"]),
        lambda: show_vqvae(vqvae, folder, originals, *reconstructed()),
        config["checkpoint_minutes"],
    )
    stage.fit(
        stage_batches(team, config, train_part, box, "vqvae"),
        config["vqvae_steps"],
        config["evaluations"],
        config["batch_size"],
    )


def measure_sharpening(folder, train_part, box):
    """Write down how much weaker the detail of reconstructions is than that of training slices: sharpening.json."""
    import numpy as np

    from slices.frame import to_bytes
    from training.folder import load_models
    from training.sharpening import fit_sharpening

    (vqvae,) = load_models(folder, prior=False)
    originals = some_crops(train_part, SHARPENING_SLICES, box)
    starts = range(0, len(originals), EVALUATION_BATCH)
    blocks = (originals[start : start + EVALUATION_BATCH].astype("float32") / 255 for start in starts)
    reconstructions = np.concatenate([to_bytes(vqvae.decode(vqvae.encode(block)).numpy()) for block in blocks])
    fit_sharpening(originals[..., 0], reconstructions).save(folder / "sharpening.json")


# ---- stage 2 ------------------------------------------------------------------------------------


def train_prior(team, config, folder, parts, box):
    """Train the prior, on codes of slices that are augmented and encoded afresh for every step."""
    import numpy as np

    from dataset import evaluation_batches
    from training.data import stage_batches, thinned
    from training.folder import load_models
    from training.loop import Stage
    from training.optimisation import build_prior
    from training.patterns import fit_patterns
    from training.sharpening import load_sharpening
    from training.steps import prior_step, with_codes
    from utils import file_sha256

    tf, validation = team.tf, thinned(parts["validation"], config["prior_slices_below"])
    with team.strategy.scope():
        (vqvae,) = load_models(folder, prior=False)
        prior = build_prior(config, config["precision_resolved"], file_sha256(folder / "vqvae.keras"))
    if config["prior_levels"] == 2:
        fit_patterns(prior, vqvae, some_crops(parts["train"], PATTERN_SLICES, box))
    bits_per_code = tf.function(prior.bits_per_code)
    held_out = [
        with_codes(vqvae, batch)
        for batch in evaluation_batches(
            validation["images"], validation["columns"], EVALUATION_BATCH, box, validation["others"]
        )
    ]
    shown = {name: np.concatenate([batch[name] for batch in held_out])[:8] for name in ("label", "position")}
    uniforms = np.random.default_rng(config["seed"]).random((len(shown["label"]), *prior.uniforms_shape), "float32")

    def mean_bits(context_of):
        bits = [
            bits_per_code(batch["codes"], batch["label"], batch["position"], context_of(batch)) for batch in held_out
        ]
        return float(np.concatenate(bits).mean())

    def evaluate():
        alone = mean_bits(lambda batch: None)
        if not prior.num_contexts:
            return {"loss": alone}
        told = mean_bits(lambda batch: (batch["other_codes"], batch["gaps"]))
        return {"loss": (alone + told) / 2, "alone": alone, "told": told}

    def show():
        codes, _ = prior.sample(uniforms, shown["label"], shown["position"], scored=slice(0))
        images, sharpening = vqvae.decode(codes), load_sharpening(folder / "sharpening.json")
        tf.summary.image("samples", sharpening.sharpen_tensor(images) if sharpening else images, max_outputs=8)

    stage = Stage(
        team,
        folder,
        "prior",
        prior,
        lambda batch: prior_step(prior, with_codes(vqvae, batch)),
        evaluate,
        show,
        config["checkpoint_minutes"],
    )
    stage.fit(
        stage_batches(team, config, parts["train"], box, "prior"),
        config["prior_steps"],
        config["evaluations"],
        config["batch_size"],
    )


# ---- stage 3 ------------------------------------------------------------------------------------


def train_refiner(team, config, folder, parts, box):
    """Train the refiner on images of drawn codes, against a critic that sees training slices beside them."""
    import numpy as np

    from metrics.looks import judge_refined
    from slices.frame import crop
    from training.data import refining_batches, thinned
    from training.folder import load_models
    from training.loop import Stage
    from training.refining import build_refining, refining_step
    from training.sharpening import load_sharpening
    from utils import file_sha256

    if team.chief:
        for name in ("equalising.json", "coherence.json"):
            (folder / name).unlink(missing_ok=True)  # it was another refiner's
        if not (folder / "sharpening.json").is_file():  # earlier versions measured none
            measure_sharpening(folder, parts["train"], box)
    team.wait()
    tf, models, sharpening = team.tf, load_models(folder), load_sharpening(folder / "sharpening.json")
    drawn, looked_at = (
        draw_images(models, sharpening, part["columns"], count, config["seed"], purpose)
        for part, count, purpose in (
            (parts["train"], DRAWN, "codes to refine"),
            (thinned(parts["validation"]), DRAWN_TO_LOOK, "codes to look at"),
        )
    )
    with team.strategy.scope():
        refining = build_refining(config, box, config["precision_resolved"], file_sha256(folder / "vqvae.keras"))
    refine = tf.function(refining.refiner.refine)
    originals = crop(thinned(parts["validation"])["images"], box)[..., 0]

    def refined():
        starts = range(0, len(looked_at), EVALUATION_BATCH)
        blocks = (looked_at[start : start + EVALUATION_BATCH].astype("float32") / 255 for start in starts)
        return np.concatenate([refine(block) for block in blocks])

    stage = Stage(
        team,
        folder,
        "refiner",
        refining,
        lambda batch: refining_step(refining, batch),
        lambda: judge_refined(originals, refined()),
        lambda: tf.summary.image("refined", refined(), max_outputs=8),
        config["checkpoint_minutes"],
        kept=refining.refiner,
    )
    stage.fit(
        refining_batches(team, config, parts["train"], box, drawn),
        config["refiner_steps"],
        config["evaluations"],
        config["batch_size"],
    )


def draw_images(models, sharpening, columns, count, seed, purpose):
    """Images (N, box height, box width, 1) uint8 that the models draw, under the conditions of slices, sharpened.

    Args:
        columns: dict of label and position, (M,) int ids, of the slices.
        count: of so many of them, evenly chosen, at most.
        seed, purpose: of the random numbers.
    """
    import numpy as np

    from sampling.draws import draw_codes
    from slices.frame import to_bytes
    from utils import evenly

    vqvae, prior = models
    rows = evenly(np.arange(len(columns["label"])), count)
    blocks = draw_codes(prior, columns["label"][rows], columns["position"][rows], seed, purpose, scored=False)
    images = [sharpening.sharpen(to_bytes(vqvae.decode(codes).numpy())) for _, codes, _ in blocks]
    return np.concatenate(images)[: len(rows), ..., None]


def measure_drawn(folder, train_part, box, seed):
    """Measure what is not yet known of refined images: what each frequency lacks, then what slices have in common."""
    if not (folder / "equalising.json").is_file():
        (folder / "coherence.json").unlink(missing_ok=True)  # it is of images that were not equalised
        measure_equalising(folder, train_part, box, seed)
    if not (folder / "coherence.json").is_file():
        measure_coherence(folder, train_part, box, seed)


def measure_equalising(folder, train_part, box, seed):
    """Write down how much weaker refined images of drawn codes are than training slices: equalising.json."""
    from sampling.run import Run
    from training.sharpening import EQUALISER_GAIN, fit_sharpening

    run, columns = Run(folder), train_part["columns"]
    drawn = draw_images(run.models, run.sharpening, columns, EQUALISED, seed, "codes to equalise")
    originals = some_crops(train_part, EQUALISED, box)
    fit_sharpening(originals[..., 0], run.refined(drawn[..., 0]), EQUALISER_GAIN).save(folder / "equalising.json")


def measure_coherence(folder, train_part, box, seed):
    """Write down what slices of drawn people, and of training people, have in common: coherence.json.

    There is none where the prior is not told other slices, or no training person has a slice at every position.
    """
    import numpy as np

    from sampling.draws import own_numbers
    from sampling.people import draw_stack, is_told
    from sampling.run import Run
    from slices.frame import crop
    from training.coherence import fit_coherence
    from utils import evenly

    run = Run(folder)
    rows = whole_scans(train_part["slices"], run.num_positions)
    if not (is_told(run) and len(rows)):
        return
    labels = train_part["columns"]["label"][evenly(rows, COHERENT)[:, 0]]
    shape = (run.num_positions, *run.prior.uniforms_shape)
    uniforms = own_numbers(range(len(labels)), shape, seed, "people of the coherence")
    codes, _ = draw_stack(run, labels, uniforms, scored=slice(0))
    drawn = np.stack([run.sharpened(run.decode_crops(person)) for person in codes])  # (P, S, H, W)
    real = crop(train_part["images"][evenly(rows, REAL)], box)[..., 0]
    fit_coherence(drawn, real).save(folder / "coherence.json")


def whole_scans(slices, num_positions):
    """The rows (P, num_positions) int of scans that have one slice at every position, the lowest first."""
    table = slices.assign(row=range(len(slices))).sort_values(["scan", "position"])
    whole = table.groupby("scan")["position"].transform(lambda of_scan: list(of_scan) == list(range(num_positions)))
    return table["row"].to_numpy(int)[whole.to_numpy(bool)].reshape(-1, num_positions)


if __name__ == "__main__":
    run_script(main)
