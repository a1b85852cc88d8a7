"""Measure one language model: accuracy against demonstrations on its tasks, and what it answers to questions about facts."""

import os
from pathlib import Path

import torch

from activation_descent import records
from activation_descent.language import accuracy, quiz, tasks
from activation_descent.language.models import load
from activation_descent.language.world import STUDY, load_world
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
folder = Path(snakemake.input.model) if snakemake.input.get("model") else None
model = load(os.path.expandvars(params.model["name"]), folder)
settings = accuracy.AccuracySettings(
    params.evaluation["demonstrations"], params.evaluation["draws"], params.evaluation["queries"]
)
if params.model["tasks"] == "own":
    world = load_world(folder / "world.json")
    chosen = tasks.own_tasks(world, params.noise, params.seed, params.evaluation["pool_size"])
    questions = quiz.own_quiz(world, params.seed)
else:
    data = params.model.get("data", "hub")
    data = None if data == "hub" else Path(os.path.expandvars(data))
    words = params.model.get("labels", {})
    size = params.evaluation["pool_size"]
    chosen = [tasks.real_task(name, data, params.seed, size, words.get(name)) for name in params.model["tasks"]]
    questions = quiz.capitals_quiz(params.seed)
speakers = [accuracy.Speaker.of(model, task) for task in chosen]  # a label that is not one token stops the job here

rows = []
for number, speaker in enumerate(speakers, start=1):
    rows += accuracy.accuracy_records(speaker, settings, params.seed, variant)
    print(f"{speaker.task.name}: {number} of {len(speakers)} tasks")
records.write(records.frame(rows), snakemake.output.accuracy)
rows = [*quiz.quiz_records(model, questions, settings, params.seed, variant)]
rows.append(
    {
        "study": STUDY,
        "experiment": "model",
        "variant": variant,
        "demonstrations": 0,
        "metric": "parameters",
        "value": model.parameters,
    }
)
records.write(records.frame(rows), snakemake.output.quiz)
