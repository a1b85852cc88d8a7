"""Draw models beside every control: lenses, image classifiers, predictive coding."""

import pandas as pd

from activation_descent import plotting, records
from activation_descent.lens import figures, predictive_coding_figures
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
read = lambda name: records.read(list(snakemake.input[name]))
models, vision, probes = snakemake.params.models, read("vision"), read("predictive_coding")
statistics = pd.concat([read("statistics"), read("synthetic"), vision], ignore_index=True)
targets = {variant: name for variant, name in models.items() if variant not in figures.CONTROLS["trained"]}
labels = {"error_correction": "corrects errors (must pass)"} | models
labels = {variant: label for variant, label in labels.items() if variant in set(probes["variant"])}
with plotting.style():
    plotting.save(figures.draw_controls(statistics, targets), snakemake.output.controls)
    plotting.save(figures.draw_vision(vision), snakemake.output.vision)
    drawn = predictive_coding_figures.draw_predictive_coding(probes, labels)
    plotting.save(drawn, snakemake.output.predictive_coding)
    plotting.save(predictive_coding_figures.draw_readability(probes, labels), snakemake.output.readability)
