"""Started by the interpreter of an environment, which knows nothing of this project: answer with vLLM's own engine.

    PYTHON read_vllm.py JOB RESULT

JOB is JSON: {folder, kind, talks, prompts, length, positions}. A llava model is asked its `talks` (messages, whose
pictures are data URLs) by `LLM.chat`, a generator goes on from its `prompts` (ids). RESULT becomes {version, asked,
texts, ids, logprobs}, one of each for each question, `asked` its ids; vLLM refuses weights that it lacks and weights
that it has no place for.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # a second process would import everything again
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def main():
    job_file, result = map(Path, sys.argv[1:])
    job = json.loads(job_file.read_text())
    import vllm

    engine = vllm.LLM(
        model=job["folder"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=job["positions"],
        max_num_seqs=16,
    )
    settings = vllm.SamplingParams(temperature=0.0, max_tokens=job["length"], logprobs=1)
    if job["kind"] == "llava":
        said = engine.chat(job["talks"], settings)
    else:
        said = engine.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], settings)
    answers = [one.outputs[0] for one in said]
    found = {
        "version": vllm.__version__,
        "asked": [list(one.prompt_token_ids) for one in said],
        "texts": [one.text for one in answers],
        "ids": [list(one.token_ids) for one in answers],
        "logprobs": [
            [at[token].logprob for token, at in zip(one.token_ids, one.logprobs, strict=True)]
            for one in answers
        ],
    }
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
