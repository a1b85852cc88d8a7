"""Measure one language model: accuracy against demonstrations on its tasks, and what it answers to questions about facts."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.language import STUDY, accuracy, quiz
from activation_descent.language.prompts import speakers_of
from activation_descent.language.world import load_world
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
folder = Path(snakemake.input.model) if snakemake.input.get("model") else None
settings = accuracy.AccuracySettings(
    params.evaluation["demonstrations"], params.evaluation["draws"], params.evaluation["queries"]
)
speakers = speakers_of(params.model, folder, params.noise, params.seed, params.evaluation["pool_size"])
model = speakers[0].model
own = params.model["tasks"] == "own"
questions = quiz.own_quiz(load_world(folder / "world.json"), params.seed) if own else quiz.capitals_quiz(params.seed)

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
