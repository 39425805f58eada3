#!/usr/bin/env bash
# Score a model's understanding with lmms-eval: POPE, GQA, TextVQA, MMBench, MME, SEED-Bench, MMMU, AI2D.
#
#   bash evals/run_lmms_eval.sh MODEL [--tasks A,B | --questions FILE] [--limit N] [--output DIR] [...]
#   GPUS=8 bash evals/run_lmms_eval.sh runs/vicuna_7b_256_sft/model --paper-row "Vicuna-7B 256 px"
#
# DIR is runs/lmms_eval unless given. `--help` lists all options.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch lmms_eval evals.lmms.run "$@"
