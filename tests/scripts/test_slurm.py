"""Jobs of Slurm, with stand-ins for its commands: what the tasks get, and when the job goes back into the queue."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts" / "slurm").glob("*.sh"))
STAND_INS = {
    # One task, with the numbers of the last of four.
    "bin/srun": """
        echo "srun $*" >>"$CALLS"
        while [[ $1 == --* ]]; do shift; done
        SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NTASKS=4 exec "$@" """,
    "bin/scontrol": """
        echo "scontrol $*" >>"$CALLS"
        [[ $1 != show ]] || printf 'node7\\nnode8\\n' """,
    ".venv/bin/python": """
        echo "task $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $*" >>"$CALLS"
        [[ -e run/preempted ]] && echo stale >>"$CALLS"
        [[ $LEAVES == preempted ]] && echo '{"step": 3}' >run/preempted
        exit "$CODE" """,
    ".venv/bin/torchrun": """
        echo "torchrun $*" >>"$CALLS"
        [[ -e run/preempted ]] && echo stale >>"$CALLS"
        [[ $LEAVES == preempted ]] && echo '{"step": 3}' >run/preempted
        exit "$CODE" """,
}


def submit(script: Path, folder: Path, leaves: str = "", code: int = 0) -> tuple[int, str]:
    """Runs a job's script in `folder`; its exit code, and what was called."""
    for name, text in STAND_INS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "#!/usr/bin/env bash\n" + "\n".join(line.strip() for line in text.splitlines()) + "\n"
        )
        path.chmod(0o755)
    (folder / "run").mkdir()
    (folder / "run" / "preempted").write_text("{}")  # of a former job
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(folder / "calls"),
        "LEAVES": leaves,
        "CODE": str(code),
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_NNODES": "2",
    }
    command = ["bash", str(script), "tokenizer/train.py", "run", "--config", "a b.yaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, (folder / "calls").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_job_that_was_stopped_goes_back_into_the_queue(script: Path, tmp_path: Path) -> None:
    code, calls = submit(script, tmp_path, leaves="preempted")
    assert code == 0 and "scontrol requeue 12345" in calls and "stale" not in calls


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("failed", [0, 2])
def test_a_job_that_is_done_or_failed_does_not(script: Path, failed: int, tmp_path: Path) -> None:
    code, calls = submit(script, tmp_path, code=failed)
    assert code == failed and "requeue" not in calls


def test_tasks_know_their_place(tmp_path: Path) -> None:
    _, calls = submit(SCRIPTS[0].with_name("requeue.sh"), tmp_path)
    assert "task 3 1 4 node7 tokenizer/train.py --config a b.yaml output=run\n" in calls
    assert "--kill-on-bad-exit=1" in calls


def test_torchrun_hears_and_waits(tmp_path: Path) -> None:
    _, calls = submit(SCRIPTS[0].with_name("torchrun.sh"), tmp_path)
    (line,) = [line for line in calls.splitlines() if line.startswith("torchrun ")]
    assert "SIGUSR1" in line and "--shutdown-timeout=240" in line and "--rdzv-endpoint=node7:" in line
    assert line.endswith("tokenizer/train.py --config a b.yaml output=run")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_scripts_are_sound(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", str(script)]).returncode == 0
