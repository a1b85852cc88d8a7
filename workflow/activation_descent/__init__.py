"""Activation Descent: is in-context learning gradient descent in activation space?

Data travels one way: config, task, model, records, claims, report. The package holds the science; it knows neither Snakemake
nor the layout of the results folder.
"""
