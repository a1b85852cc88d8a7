"""Draw the dual form, softmax as a gradient step, layers on mixtures, and the heads."""

from safetensors.numpy import load_file

from activation_descent import plotting, records
from activation_descent.attention import figures
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
given = snakemake.input
identities, readings, controls = (records.read(given[name]) for name in ("identities", "readings", "controls"))
layers, heads = records.read(list(given.layers)), records.read([*given.heads, *given.checkpoints])
with plotting.style():
    plotting.save(figures.draw_duality(load_file(given.picture)), snakemake.output.duality)
    plotting.save(figures.draw_softmax(identities, readings, heads), snakemake.output.softmax)
    plotting.save(figures.draw_layers(layers), snakemake.output.layers)
    plotting.save(figures.draw_heads(heads, controls), snakemake.output.heads)
