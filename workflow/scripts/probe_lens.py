"""Fit lenses to one subject and measure what they read: one of the study's own models, or a language model by name."""

import json
from pathlib import Path

import torch

from activation_descent import records
from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.world import load_world
from activation_descent.lens import BODY_CONTROLS, MODEL, bodies, measure, tokens, translators
from activation_descent.tracking import Progress, log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
mixture, settings = Mixture(**params.mixture), measure.Measurement(**params.lens["measurement"])
if params.model is None:
    world = load_world(Path(snakemake.input.world))
    letters = bodies.Letters(Corpus(world, mixture), world.vocabulary)
    source = tokens.of_body(bodies.load(Path(snakemake.input.body)), letters, params.seed)
else:
    folder = Path(snakemake.input.model) if snakemake.input.get("model") else None
    source = tokens.of_model(params.model, folder, mixture, params.seed, params.lens["seeds"], params.lens["length"])

progress = Progress(f"{snakemake.rule} {variant}", settings.steps)
report = lambda step, losses: progress(step, {" ".join(name): loss for name, loss in losses.items()})
names = measure.OF_CONTROLS if variant in BODY_CONTROLS else measure.READ
lenses = measure.fit_lenses(source, settings, variant, report, names)
evaluation = measure.evaluate(source, lenses, settings)
rows = [*measure.lens_records(evaluation, params.seed, variant), *measure.path_records(source, lenses, settings, variant)]
shown = measure.shown_trajectory(source, lenses, settings)
translators.save(
    {kind: reader.translators for (kind, states), reader in lenses.readers.items() if states == MODEL},
    Path(snakemake.output.translators),
)
records.write_text(json.dumps(shown.as_dict(), ensure_ascii=False, indent=1) + "\n", snakemake.output.trajectory)
records.write(records.frame(rows), snakemake.output.lenses)
