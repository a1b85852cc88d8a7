# What jobs load, and none of which starts a thread; Snakemake's own module, because each fork loads the main program that asked for it
LIBRARIES = [
    "snakemake.cli",
    "pandas",
    "scipy.optimize",
    "scipy.stats",
    "matplotlib.pyplot",
    "numba",
    "torch",
    "wandb",
    "transformers.models.llama.modeling_llama",
]
# Jobs of a run; to load all of that takes as long as a few of them take to start
FORKED_FROM = 10
# Seconds between two looks at a job's CPU time and memory; Snakemake's 30 would miss up to half a minute of each job
LOOK_EVERY = 5


def fork_scripts():
    """Let the scripts of this run start as forks of a process that has loaded the libraries, if there are enough of them.

    Snakemake has no setting for how a script is run, so its method is replaced. A job with threads, an environment, a container or a folder
    for temporary files of its own runs as before, and all do where a fork is not safe once libraries are loaded (macOS).
    """
    import subprocess
    import tempfile

    from snakemake.benchmark import benchmarked
    from snakemake.script import PythonScript

    from activation_descent import forks

    if sys.platform != "linux" or sum(1 for _ in workflow.dag.needrun_jobs()) < FORKED_FROM:
        return
    forks.load(LIBRARIES)
    by_snakemake = PythonScript.execute_script

    def execute_script(script, path, edit=False):
        elsewhere = script.resources.get("tmpdir", tempfile.gettempdir()) != tempfile.gettempdir()
        if script.threads != 1 or script.conda_env or script.env_modules or script.container_img or elsewhere:
            return by_snakemake(script, path, edit)
        record = script.bench_record
        code = forks.run(path, lambda process: benchmarked(False if record is None else process, record, LOOK_EVERY))
        if code:
            raise subprocess.CalledProcessError(code, path)

    PythonScript.execute_script = execute_script
