"""The pictures of the README, from what the demo has left; the first of each kind, and none selected.

    python -m scripts.demo.readme_pictures --demo runs/demo --out docs

Writes reconstructions.png (held-out scenes, and what each stage of the tokenizer makes of them), drawn.png (pictures
for one prompt of each tag of GenEval, those that fail its rules in a red frame), post_training.png (the same before and
after it, of the same noise) and answers.png (questions about held-out scenes, with the model's answers).
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, run_cli
from scripts.demo.command import demo_parser
from scripts.demo.verdicts import judged_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 6  # pictures in a row
BESIDE = 4  # of each of two models
ASKED = 4  # pictures with questions
FRAME, MARGIN = 3, 12  # px
MOST = 150_000  # bytes of a picture, so that the first page loads at once


def reconstructions(demo: Path) -> Image:
    """A row of originals, and one for each stage."""
    from common.data.images import to_float, to_pil
    from common.models.vqrae_loading import load_vqrae
    from common.sheets import contact_sheet
    from scripts.demo.world import read_world
    from tokenizer.inference import reconstruct

    pixels = to_float(read_world(demo / "world", "val").images[:COLUMNS])
    rows = {"held-out scenes": pixels}
    for stage in (1, 2):
        model = load_vqrae(str(demo / f"tokenizer_stage{stage}" / "model"))[0].eval()
        rows[f"reconstructed after stage {stage}"] = reconstruct(model, pixels)[0]
    return contact_sheet([(name, [to_pil(one) for one in shown]) for name, shown in rows.items()])


def drawn(demo: Path) -> Image:
    """A row for the first prompt of each tag."""
    from common.sheets import contact_sheet

    return contact_sheet(list(framed(demo, "geneval", COLUMNS).values()))


def post_training(demo: Path) -> Image:
    """The same prompts and noise before post-training (left) and after it (right), guided."""
    from common.sheets import PROMPT, below, beside, contact_sheet, words

    before, after = (framed(demo, name, BESIDE) for name in ("geneval", "geneval_post_trained"))
    sides = [contact_sheet([row]) for row in before.values()]
    titles = [words(text, sides[0].width - PROMPT) for text in ("before", "after")]
    head = beside([words(" ", PROMPT), titles[0], titles[1]], 2 * MARGIN)
    rows = [
        beside([left, contact_sheet([after[tag]]).crop((PROMPT, 0, left.width, left.height))], 2 * MARGIN)
        for tag, left in zip(before, sides, strict=True)
    ]
    return below([head, *rows], 0)


def framed(demo: Path, folder: str, columns: int) -> dict[str, tuple[str, list[Image]]]:
    """Tag -> its first prompt and the first `columns` pictures of it, those that fail its rules in a red frame."""
    from PIL import ImageOps

    from common.data.images import read_image
    from common.sheets import WRONG, tile

    rows: dict[str, tuple[str, list[Image]]] = {}
    for one in judged_pictures(demo, folder):
        prompt, pictures = rows.setdefault(one.metadata["tag"], (one.metadata["prompt"], []))
        if prompt == one.metadata["prompt"] and len(pictures) < columns:
            picture = tile(read_image(one.path))
            inner = ImageOps.crop(picture, FRAME)
            pictures.append(picture if one.correct else ImageOps.expand(inner, FRAME, WRONG))
    return rows


def answers(demo: Path) -> Image:
    """The first held-out scenes with all their questions, in two columns."""
    from common.sheets import answer_sheet, beside
    from scripts.demo.understanding_report import ARMS, answered, read_turns
    from scripts.demo.understanding_report import answers as ask
    from understanding.chat.model import load

    pictures, turns = read_turns(demo / "world")
    turns = [turn for turn in turns if turn.picture < ASKED]
    given = ask(load(demo / ARMS["accuracy"] / "model"), pictures, turns, "questions")
    rows, half = answered(pictures[:ASKED], turns, given), ASKED // 2
    return beside([trimmed(answer_sheet(rows[:half])), trimmed(answer_sheet(rows[half:]))], 2 * MARGIN)


def trimmed(page: Image, margin: int = 0) -> Image:
    """Without the white around it, and with a margin instead."""
    from PIL import ImageOps

    return ImageOps.expand(page.crop(ImageOps.invert(page).getbbox()), margin, "white")


def compressed(picture: Image) -> bytes:
    """A PNG of at most `MOST` bytes, with a palette only where it would be larger.

    Raises:
        UserError: it is larger even so.
    """
    from PIL.Image import Dither

    for candidate in (picture, picture.quantize(256, dither=Dither.NONE)):
        content = BytesIO()
        candidate.save(content, "PNG", optimize=True)
        if content.tell() <= MOST:
            return content.getvalue()
    raise UserError(f"a picture of {picture.width} x {picture.height} px: over {MOST} bytes as a PNG")


def main() -> None:
    parser = demo_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    options = parser.parse_args()
    for make in (reconstructions, drawn, post_training, answers):
        path = options.out / f"{make.__name__}.png"
        path.write_bytes(compressed(trimmed(make(options.demo), MARGIN)))
        print(f"{path}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    run_cli(main)
