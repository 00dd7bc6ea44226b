# Common part of the batch scripts, which source it from the root of the repository.

# The command that starts Python. Adapt it to your site, for example to a container:
# PYTHON=(apptainer exec --nv capdist.sif python)
PYTHON=(python)

export PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}

# Exit status of a run that was stopped by a signal and has saved its state (capdist/signals.py).
STOPPED=75

fail() {
    echo "error: $*" >&2
    exit 2
}

# Exit with the status of the job's command; requeue the job first if a signal stopped it.
finish() {
    [ "$1" -eq "$STOPPED" ] || exit "$1"
    echo "job $SLURM_JOB_ID was stopped by a signal: requeueing it"
    scontrol requeue "$SLURM_JOB_ID" ||
        fail "job $SLURM_JOB_ID can't be requeued. Submit it again with --resume auto"
    exit "$1"
}
