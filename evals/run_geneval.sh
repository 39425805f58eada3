#!/usr/bin/env bash
# GenEval: do pictures show the objects, numbers, colours and places that their prompts ask for?
#
#   bash evals/run_geneval.sh MODEL [--limit N] [--output DIR] [options of evals/geneval/run.py]
#   GPUS=8 bash evals/run_geneval.sh MODEL
#
# DIR is runs/geneval unless given. `--help` lists all options; what is missing is listed before anything starts.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch geneval evals.geneval.run "$@"
