"""The widely used design beside ours, by peer.csv: rows of experiments/peer.py, the newest last."""

from experiments.filled.words import band, day, number, percent, significant, table

COMPARED = {  # metric → its name, digits
    "ssim_brain": ("SSIM, inside the brain", 3),
    "psnr_brain": ("PSNR, inside the brain, dB", 1),
    "spectrum_gap": ("missing power", 2),
    "frc_resolution": ("resolution, cycles/pixel", 3),
    "tissue_dice": ("overlap of tissues (Dice)", 3),
}


def newest(files, equal, codebook):
    """The newest rows of a comparison: metric → row."""
    rows = files.rows("peer.csv")
    return {row["metric"]: row for row in rows if row["equal"] == equal and row["codebook"] == codebook}


def comparison(files):
    """The peer with our codebook, for as long as ours and for as many steps: a table."""
    time, steps = newest(files, "time", "ema"), newest(files, "steps", "ema")
    one, other = time["ssim_brain"], steps["ssim_brain"]
    bits = (one["peer_bits_per_image"], one["our_bits_per_image"], other["our_bits_per_image"])
    theirs, ours, ours_in_as_many = (number(each, 0) for each in bits)
    rows = [["bits an image", theirs, ours, "", ours_in_as_many, ""]]
    for key, (name, digits) in COMPARED.items():
        cells = [cell for row in (time, steps) for cell in (number(row[key]["ours"], digits), paired(row[key], digits))]
        rows.append([name, number(time[key]["peer"], digits), *cells])
    head = [
        f"{one['people']} test people",
        f"the peer, {number(one['peer_steps'], 0)} steps",
        f"ours, {number(one['our_steps'], 0)} steps: equal time",
        "difference, paired by person",
        f"ours, {number(other['our_steps'], 0)} steps",
        "difference",
    ]
    return table(head, rows)


def paired(row, digits):
    """Ours less the peer's, with its interval over people."""
    return f"{number(row['difference'], digits)} {band(row['low'], row['high'], digits)}"


def conditions(files):
    """When, and how long a step of the peer takes beside one of ours."""
    row = newest(files, "time", "ema")["ssim_brain"]
    ratio = significant(row["seconds_of_a_step_over_ours"], 2)
    return f"{day(row['date'])}, {row['precision']}; a step of the peer takes {ratio} times as long as one of ours"


def dead(files):
    """What became of the peer's codebook as published."""
    row = newest(files, "time", "gradient")["ssim_brain"]
    return (
        f"{percent(float(row['peer_codes_used']))} of its codes were left after "
        f"{number(float(row['peer_seconds']) / 60, 0)} minutes, and SSIM in the brain was {number(row['peer'], 2)}"
    )
