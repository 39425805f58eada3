#!/usr/bin/env bash
# Measure what a tokenizer keeps of meaning: linear probe, k nearest neighbours and zero-shot, before and after.
#
#   bash evals/run_semantics.sh MODEL --before ENCODER --images LABELLED [--limit N] [--output DIR] [...]
#
# DIR is runs/semantics unless given. `--help` lists all options.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch semantics evals.semantics.run "$@"
