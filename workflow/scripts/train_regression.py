"""Train all seeds of one variant; a wandb run shows their losses while they fall."""

from dataclasses import asdict
from pathlib import Path

from activation_descent.regression import STUDY
from activation_descent.regression.training import Training, save_trained, train
from activation_descent.tracking import Progress, log_to, track

log_to(snakemake.log[0], snakemake.threads)
variant, starts = snakemake.wildcards.variant, snakemake.params.get("starts")
part = "" if starts is None else f"_{snakemake.wildcards.shard}"  # of the random starts
settings = Training(**snakemake.params.training)
progress = Progress(f"{snakemake.rule} {variant}{part}", settings.steps)
config = {"seed": snakemake.params.seed, "variant": variant, **asdict(settings)}

# From the configuration and not from params: how a job is recorded is no reason to train again
with track(snakemake.config["tracking"], Path(snakemake.params.runs), STUDY, snakemake.rule, variant + part, config) as log:

    def report(step, losses):
        log(step, losses)
        progress(step, losses)

    weights = Path(snakemake.output.weights)
    checkpoint = weights.with_name(f"checkpoint{part}.safetensors")
    # From the configuration, too: a machine without the GPU of another has no reason to train again
    device = snakemake.config["device"]
    own = None if starts is None else range(*starts)
    trained = train(settings, snakemake.params.seed, variant, checkpoint, snakemake.params.code, device, report, own)
    save_trained(trained, settings, weights, Path(snakemake.output.config))
