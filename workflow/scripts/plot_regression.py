"""Draw figure 2 of von Oswald et al. (2022) for one variant, with every seed, and the roll-out."""

from activation_descent import plotting, records
from activation_descent.regression.figures import one_layer_figure
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
training, evaluation = snakemake.params.training, snakemake.params.evaluation
sizes = {
    name: (size, records.read(path))
    for (name, size), path in zip(snakemake.params.sizes.items(), snakemake.input.sizes, strict=True)
}
figure = one_layer_figure(
    f"One trained linear self-attention layer against one step of gradient descent (x ~ U(−{training['half_range']:g}, "
    f"{training['half_range']:g}), N = {training['context_length']}, d = {training['input_dim']})",
    records.read(snakemake.input.alignment),
    records.read(snakemake.input.generalisation),
    records.read(snakemake.input.rollout),
    sizes,
    {**training, **evaluation},
)
plotting.save(figure, snakemake.output[0])
