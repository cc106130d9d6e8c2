#!/usr/bin/env bash
# The trainings whose logs and reports are in models/training and whose curves are in docs/figures.
#
#     models/train.sh MNIST_DIR CIFAR_DIR AI4I_CSV OUT_DIR [SEED ...]
#
# MNIST_DIR holds the four IDX files, CIFAR_DIR what models/cifar10_data.py wrote. One training after the other, each on all cores unless THREADS says otherwise;
# what is done already is left out, what was interrupted goes on. With SEEDs 1 2 3: 6 to 7 hours of one core.
# Afterwards: cp OUT_DIR/*.log.csv OUT_DIR/*.report.md models/training/ && subrosa train figures
set -euo pipefail
[ $# -ge 4 ] || { sed -n 2,9p "$0"; exit 2; }
mnist=$1 cifar=$2 ai4i=$3 out=$4
shift 4
mkdir -p "$out"

train() { # NAME ARGUMENTS...
    local name=$1
    shift
    [ -e "$out/$name.onnx" ] && return
    echo "== $name"
    subrosa train "$@" ${THREADS:+--threads "$THREADS"} --resume --out "$out/$name.onnx"
}

for seed in "${@:-1}"; do
    set -- --dataset cifar10 --data "$cifar" --arch keras-cnn --seed "$seed"
    train "cifar10-relu-$seed" "$@" --activation relu --pool max
    train "cifar10-last-x2+2x-$seed" "$@" --activation relu --pool max --last-activation x2+2x
    train "cifar10-last-none-$seed" "$@" --activation relu --pool max --last-activation none
    train "cifar10-quadratic-$seed" "$@" --activation quadratic
    train "cifar10-adapted16-$seed" --dataset cifar10 --data "$cifar" --from "$out/cifar10-relu-$seed.onnx" \
        --epochs 16 --learning-rate 0.001 --seed "$seed"
done
set -- --dataset mnist --data "$mnist" --arch keras-cnn --epochs 5
train mnist-relu-1 "$@" --activation relu --pool max
train "mnist-last-x2+2x-1" "$@" --activation relu --pool max --last-activation x2+2x
train mnist-last-none-1 "$@" --activation relu --pool max --last-activation none
train mnist-quadratic-1 "$@" --activation quadratic
train mnist-cryptonets-1 --dataset mnist --data "$mnist" --arch cryptonets --activation quadratic --epochs 3
train ai4i-mlp-1 --dataset csv --data "$ai4i" --target "Machine failure" --drop "UDI,Product ID,TWF,HDF,PWF,OSF,RNF" \
    --categorical Type --arch mlp:32,16 --activation quadratic --balance --epochs 60 --patience 30 --learning-rate 0.003
