# Starts Ray on all nodes of a job, its head on the first; it ends with the job. Sourced by
# train.sbatch. RAY is the head's address; the system chooses all other ports.

RAY=$MASTER_ADDR:$((MASTER_PORT + 1))
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
# At the end of the job no Ray task is left to be drained.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

# Runs on each node. USR1, sent before the time limit, is for the ranks: Ray ignores it, so that
# rewards are computed until the ranks have saved their state.
ray_node() {
    trap '' USR1
    trap : TERM
    folder=$(mktemp -d /tmp/capdist-ray-XXXXXX)
    if [ "$SLURM_NODEID" -eq 0 ]; then
        where=(--head --port="${RAY##*:}" --include-dashboard=false)
    else
        where=(--address="$RAY")
    fi
    "$@" -m ray.scripts.scripts start "${where[@]}" --temp-dir="$folder" --num-gpus=0 \
        --num-cpus="$SLURM_CPUS_ON_NODE" --dashboard-agent-listen-port=0 --block
    rm -rf "$folder"
}
export -f ray_node

srun --overlap --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --kill-on-bad-exit \
    --output="$logs/ray-%n.log" bash -c 'ray_node "$@"' ray "${PYTHON[@]}" &
for _ in {1..180}; do
    up=$(grep -ls 'Ray runtime started' "$logs"/ray-*.log | wc -l)
    [ "$up" -lt "$SLURM_NNODES" ] || break
    kill -0 $! 2>/dev/null || break
    sleep 1
done
[ "$up" -eq "$SLURM_NNODES" ] || fail "Ray started on $up of $SLURM_NNODES nodes (head: $RAY);" \
    "see $logs/ray-*.log"
