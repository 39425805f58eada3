#!/usr/bin/env bash
# Score a model's understanding with VLMEvalKit, by its own run.py in its own environment.
#
#   VLMEVALKIT=CHECKOUT PYTHON=ITS/bin/python bash evals/run_vlmevalkit.sh MODEL [--data A B] [--limit N] [--output DIR]
#   GPUS=8 ... bash evals/run_vlmevalkit.sh runs/internvl3_vqrae --paper-row "InternViT + Qwen2.5-7B"
#
# DIR is runs/vlmevalkit unless given. `--help` lists all options.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch vlmevalkit evals.vlmeval.run "$@"
