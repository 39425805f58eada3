#!/usr/bin/env bash
# DPG-Bench: do pictures show what long prompts describe, question by question?
#
#   bash evals/run_dpg_bench.sh MODEL [--limit N] [--output DIR] [options of evals/dpg/run.py]
#   GPUS=8 bash evals/run_dpg_bench.sh MODEL
#
# DIR is runs/dpg_bench unless given. `--help` lists all options; what is missing is listed before anything starts.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch dpg_bench evals.dpg.run "$@"
