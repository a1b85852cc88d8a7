"""Judge every claim by its rule."""

import pandas as pd

from activation_descent import claims, records
from activation_descent.seeding import generator
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
names = dict.fromkeys(("study", "variant", "metric"), "category")  # a claim's rows are found in half the time
table = records.read(list(snakemake.input.statistics)).astype(names)
rows = []
for claim in snakemake.params.claims:
    rng = generator(snakemake.params.seed, claim["study"], "claims", claim["id"], "bootstrap")
    rows.append(claims.judge(claim, table, snakemake.params.settings, rng))
    print(f"{rows[-1]['id']}: {rows[-1]['verdict']}")
verdicts = pd.DataFrame(rows, columns=claims.COLUMNS)
records.write_text(verdicts.to_csv(index=False, lineterminator="\n"), snakemake.output[0])
