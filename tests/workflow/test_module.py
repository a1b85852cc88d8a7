"""The workflow as a part of another one."""

import shutil

OUTER = """
configfile: "outer.yaml"


module descent:
    snakefile:
        "inner/workflow/Snakefile"
    config:
        config["descent"]
    pathvars:
        results="outcome/descent",
        logs="outcome/logs",
        benchmarks="outcome/benchmarks",


use rule * from descent as descent_*


rule summary:
    input:
        "outcome/descent/smoke/regression/size_5/alignment.csv",
    output:
        "summary.txt",
    shell:
        "wc -l {input} > {output}"
"""


def test_another_workflow_can_use_this_one_as_a_module(project, tmp_path_factory):
    import yaml

    outer = tmp_path_factory.mktemp("outer")
    shutil.copytree(project.folder, outer / "inner")
    (outer / "Snakefile").write_text(OUTER)
    base = yaml.safe_load((project.folder / "config/config.yaml").read_text())
    smoke = yaml.safe_load((project.folder / "config/smoke.yaml").read_text())
    base["run"] = smoke["run"]
    for key, settings in smoke["regression"]["variants"].items():
        base["regression"]["variants"][key] |= settings
    for key in ("learners", "evaluation"):
        base["regression"][key] |= smoke["regression"][key]
    (outer / "outer.yaml").write_text(yaml.safe_dump({"descent": base}))
    user = type(project)(outer)
    user.snakemake("summary.txt", "--cores", "2", PYTHONPATH=str(outer / "inner/workflow"))
    assert (outer / "summary.txt").read_text()
    assert (outer / "outcome/logs/smoke/train_regression/size_5.log").exists()
    assert not (outer / "results").exists()
    assert not (outer / "logs").exists()
    plan = user.snakemake("descent_all", "--dry-run", "--cores", "2", PYTHONPATH=str(outer / "inner/workflow"))
    assert "descent_render_page" in plan
