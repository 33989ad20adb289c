#!/usr/bin/env bash
# The same command on every host; only NODE_RANK differs (0 on the first):
#   NODE_RANK=0 NODES=2 MASTER=10.0.0.1 examples/cluster/torchrun.sh train ho2020 --out /shared/ho2020
# --out must be on a disk that all hosts share. The same command again goes on, with any number of hosts.
set -euo pipefail

: "${NODE_RANK:?number of this host, from 0}"
: "${NODES:?number of hosts}"
: "${MASTER:?address of host 0, which the others reach}"
GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}

# where a host has several interfaces, name that between the hosts:
# export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0
exec torchrun \
    --nnodes "$NODES" --node_rank "$NODE_RANK" --nproc_per_node "$GPUS" \
    --master_addr "$MASTER" --master_port "${PORT:-29500}" --rdzv_conf timeout=60 \
    --max-restarts "${RESTARTS:-3}" \
    -m fromnoise "$@"
