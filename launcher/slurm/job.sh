# What the batch scripts share; they source it from the repository's folder.

# What a site may have to change: how Python is started, here or in a container, for example
# PYTHON=(apptainer exec --nv capdist.sif python)
PYTHON=(python)

export PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}

#: The exit status of a run that was stopped by a signal, with all saved (capdist/signals.py).
STOPPED=75

fail() {
    echo "error: $*" >&2
    exit 2
}

# End with the status of what the job was for; a run that was stopped waits in the queue again.
finish() {
    [ "$1" -eq "$STOPPED" ] || exit "$1"
    echo "job $SLURM_JOB_ID was stopped and goes back to the queue"
    scontrol requeue "$SLURM_JOB_ID" ||
        fail "job $SLURM_JOB_ID can't be requeued; submit it again with --resume auto"
    exit "$1"
}
