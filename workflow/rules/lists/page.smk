from types import SimpleNamespace


def drawn_from():
    """For each figure the records that it is drawn from, both below the run's folder."""

    def below(path):
        return os.path.relpath(path, os.path.dirname(rules.prepare_config.output[0]))

    of_variants = {rules.plot_language: MODELS, rules.plot_finetuning: AUDITED, rules.plot_lens: LENSES}
    alone = [
        rules.plot_language_sizes,
        rules.plot_language_pretraining,
        rules.plot_finetuning_sizes,
        rules.plot_finetuning_momentum,
        rules.plot_attention,
        rules.plot_attention_toy_problems,
        rules.plot_reasoning,
        rules.plot_lens_controls,
    ]
    found = {}
    for plotted, variants in [*of_variants.items(), *((plotted, [""]) for plotted in alone)]:
        for variant in variants:
            own = {"variant": variant}
            read = [below(path.apply_wildcards(own)) for path in plotted.input]
            found.update({below(figure.apply_wildcards(own)): read for figure in plotted.output})
    for figure in FIGURES:
        read = shown_in_figure(SimpleNamespace(figure=figure)).values()
        paths = [path for table in read for path in ([table] if isinstance(table, str) else table)]
        found[f"regression/figures/{figure}.svg"] = [path.removeprefix("<run>/").format(figure=figure) for path in paths]
    return found


def snakemake_options():
    """What a call of Snakemake needs to be of this run."""
    overlays = " ".join(os.path.relpath(path) for path in workflow.overwrite_configfiles)
    return f"--cores all --configfile {overlays}" if overlays else "--cores all"
