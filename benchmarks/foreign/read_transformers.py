"""Started by the interpreter of an environment, which knows nothing of this project: read folders with transformers.

    PYTHON read_transformers.py JOBS RESULTS

JOBS is a JSON list of {name, kind, folder, base, given, words, picture}; RESULTS becomes {version, rows: {name: row}},
and tensors stand beside each job's `given`, in `FILE.read.safetensors`.
"""

import json
import sys
import traceback
import warnings
from pathlib import Path

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

AUTO = {"tower": "AutoModel", "generator": "AutoModelForCausalLM"}


def read(job):
    given = load_file(job["given"])
    words = json.loads(Path(job["words"]).read_text())
    folder, found = job["folder"], {}
    row: dict = {}
    auto = getattr(transformers, AUTO.get(job["kind"], "AutoModelForImageTextToText"))
    model, info = auto.from_pretrained(
        job.get("base") or folder, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    for field in ("missing", "unexpected"):
        row[field] = len(info[f"{field}_keys"])
    row["missing"] += len(info["mismatched_keys"])
    if job.get("base"):
        from peft import PeftModel

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(model, folder)
        row["missing"] += sum("missing adapter keys" in str(one.message) for one in said)
    model.eval()
    with torch.no_grad():
        if job["kind"] == "tower":
            if model.config.model_type == "siglip_vision_model":
                found["logits"] = model(**given, output_hidden_states=True).hidden_states[-1]
            else:
                found["logits"] = model(**given).last_hidden_state[:, 1:]
        else:
            found["logits"] = model(**given).logits
    if job["kind"] == "tower":
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        found["pixels"] = processor(Image.open(job["picture"]), return_tensors="pt").pixel_values
    elif job["kind"] == "generator":
        row["ids"] = transformers.AutoTokenizer.from_pretrained(folder)(words["texts"]).input_ids
    elif job["kind"] == "llava" and not job.get("base"):
        processor = transformers.AutoProcessor.from_pretrained(folder)
        row["ids"] = processor.tokenizer(words["texts"]).input_ids
        row["padding_side"] = processor.tokenizer.padding_side
        row["prompts"] = [
            processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
            for talk in words["talks"]
        ]
        shown, options = Image.open(job["picture"]), {"add_special_tokens": False, "return_tensors": "pt"}
        asked = processor(images=shown, text=row["prompts"][0], **options)  # the template writes `<s>`
        found["pixels"], row["asked"] = asked.pixel_values, asked.input_ids.tolist()
        said = model.generate(**asked, max_new_tokens=words["length"], do_sample=False)
        row["answer"] = said[0, asked.input_ids.shape[1] :].tolist()
    save_file({name: one.contiguous() for name, one in found.items()}, job["given"] + ".read.safetensors")
    return row


def main():
    jobs, results = map(Path, sys.argv[1:])
    rows = {}
    for job in json.loads(jobs.read_text()):
        try:
            rows[job["name"]] = read(job)
        except Exception as error:
            traceback.print_exc()
            rows[job["name"]] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    results.write_text(json.dumps({"version": transformers.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
