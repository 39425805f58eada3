"""Kill -9 at random, again and again: what is lost?

    python -m benchmarks.chaos --out runs/chaos                       three trainers, 50 kills each
    python -m benchmarks.chaos --out runs/chaos --torchrun            5 more each, which torchrun answers with a restart

Each trainer trains a tiny recipe in two processes, 40 steps that are saved every 4. Once it is left alone; then it is
killed over and over, one rank or both, at a random moment or inside a save, and started again until it ends. Held against
the run that was left alone:

    lost, repeated    samples that some step of the surviving history was not given, or was given beside its own, by a
                      ledger that stands between the data and the trainer (`chaos_jobs`)
    corrupt           folders under a checkpoint's name that do not hold what their manifest says, after each kill
    unequal           files of the result that differ in a byte

A kill counts as inside a save where the folder that was being written is still there afterwards. With `--out` as it was,
a broken-off benchmark goes on with the next run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos_jobs import JOBS
from benchmarks.forked_runs import ForkedRun, ForkServer
from common.command import described_parser, positive
from common.config import load_yaml_tree
from common.errors import UserError, run_cli
from common.files import write_json

ROOT = Path(__file__).parents[1]
STEPS, EVERY, WORLD = 40, 4, 2
LIFE = 300.0  # seconds until a life that neither ends nor is killed counts as hanging
KILLS_A_RUN = 10
