"""Keep the merged configuration beside the results that it produced."""

import yaml

from activation_descent.records import write_text
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
write_text(yaml.safe_dump(dict(snakemake.params.config), sort_keys=False), snakemake.output[0])
