#!/usr/bin/env bash
# Measure what a tokenizer loses: small text, thin lines, dense scenes, faces, fine detail. Curves, and their figure.
#
#   bash evals/run_details.sh MODEL [MODEL ...] [--images DIR] [--limit N] [--output DIR] [...]
#
# DIR is runs/details unless given. `--help` lists all options.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch details evals.details.run "$@"
