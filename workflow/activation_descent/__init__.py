"""Activation Descent: is in-context learning gradient descent in activation space?

Data travels one way: config, task, model, records, claims, report. The package holds the science; it knows neither Snakemake
nor the layout of the results folder.
"""

import gc

# Before a library is loaded: by its own threshold of 700 the interpreter looks for cycles in all of torch again and again while it loads,
# which takes a CPU second of each job
gc.set_threshold(100_000)
