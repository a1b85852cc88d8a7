"""Draw the world of the embedded language models; write it with its tokenizer and a page of documents to look at."""

import os
from pathlib import Path

from activation_descent.language import STUDY
from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.world import make_tokenizer, make_world, save_world
from activation_descent.records import write_text
from activation_descent.seeding import generator
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
params = snakemake.params
length, world = params.context_length, make_world(params.seed, params.corpus["held_out_facts"])
rng = generator(params.seed, STUDY, "corpus", "world", "sample")
rows = Corpus(world, Mixture(**params.corpus["mixture"])).rows(rng, params.corpus["sample"], length)
documents = "".join(" ".join(world.vocabulary[token] for token in row) + "\n" for row in rows)
folder = Path(snakemake.output.tokenizer).parent
make_tokenizer(world, length).save_pretrained(folder / "partial")
for path in (folder / "partial").iterdir():
    os.replace(path, folder / path.name)
(folder / "partial").rmdir()
save_world(world, Path(snakemake.output.world))
write_text(documents, snakemake.output.sample)
print(f"{len(world.vocabulary)} words")
