"""Ask of one subject whether its forward pass is predictive coding; of the control that corrects errors, too."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.world import load_world
from activation_descent.lens import STUDY, bodies, error_correction, predictive_coding, tokens, translators
from activation_descent.seeding import generator
from activation_descent.tracking import log_to

CONTROL = "error_correction"

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
settings, mixture, rows = params.predictive_coding, Mixture(**params.mixture), []
control = error_correction.ErrorCorrectionSettings(**settings["control"])
probes = predictive_coding.ProbeSettings(settings["causal_layers"], settings["resamples"])


def probe(seed, probed, known, asked):
    rng = generator(params.seed, STUDY, predictive_coding.EXPERIMENT, variant, "probe", seed)
    found = predictive_coding.predictive_coding_records(probed, known, asked, probes, rng, {"variant": variant, "seed": seed})
    rows.extend(found)
    print(f"{variant}, seed {seed}: done")


if variant == CONTROL:
    for seed in range(settings["seeds"]):
        model, draw = error_correction.train_seed(control, params.seed, seed)
        known, asked = draw("decode", settings["documents"]), draw("evaluate", settings["asked"])
        probe(seed, predictive_coding.probed_control(model), torch.from_numpy(known), torch.from_numpy(asked))
elif params.model is None:
    world, body = load_world(Path(snakemake.input.world)), bodies.load(Path(snakemake.input.body))
    source = tokens.of_body(body, bodies.Letters(Corpus(world, mixture), world.vocabulary), params.seed)
    tuned = translators.load("tuned", Path(snakemake.input.translators))
    known, asked = (
        source.draw(purpose, 0, settings[number]) for purpose, number in (("decode", "documents"), ("evaluate", "asked"))
    )
    for seed in range(source.seeds):
        lens = predictive_coding.lens_of(tuned, body.unembedding, seed)
        probe(seed, predictive_coding.probed_body(body, seed, lens), known[seed], asked[seed])
else:
    folder = Path(snakemake.input.model) if snakemake.input.get("model") else None
    source = tokens.of_model(params.model, folder, mixture, params.seed, params.lens["seeds"], params.lens["length"])
    tuned = translators.load("tuned", Path(snakemake.input.translators))
    known, asked = (
        source.draw(purpose, 0, settings[number]) for purpose, number in (("decode", "documents"), ("evaluate", "asked"))
    )
    for seed in range(source.seeds):
        lens = predictive_coding.lens_of(tuned, source.subject.unembedding, seed)
        probe(seed, predictive_coding.probed_language_model(source.model, lens), known[seed], asked[seed])
records.write(records.frame(rows), snakemake.output[0])
