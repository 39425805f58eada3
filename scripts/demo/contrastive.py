"""A SigLIP of miniature size and its contrastive training on scenes and their descriptions.

What is notable here: it is transformers' own `SiglipModel` with SigLIP's sigmoid loss (Zhai et al., Sigmoid Loss
for Language Image Pre-Training, 2023), from random weights, in about 200 seconds of processor time. Four things
make that enough for features in which a language model finds what stands where, and a quantizer what it looks like:

- Patches learn beside words, as SigLIP 2 learns regions beside captions: each patch of an object, through the pooling
  head by itself (Zhou et al., Extract Free Dense Labels from CLIP, 2022), is to fit the words said of that object, and
  background is to fit none. A pooled loss alone leaves shapes spread over the picture: its colours tell nearly all
  descriptions of a batch apart.
- Most steps see windows of 4 x 4 patches around single objects: fewer tokens make more examples (Li et al., Scaling
  Language-Image Pre-training via Masking, 2023). Whole pictures beside whole descriptions follow.
- A linear map reads each patch's pixels back, as masked image models do (Xie et al., SimMIM, 2022), here without a
  mask: what is large in the features is then what codes must tell apart.
- Positions start as sines and cosines of row and column (Beyer et al., Better plain ViT baselines for ImageNet-1k,
  2022), so neighbours are neighbours from the first step.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, mse_loss, normalize, pixel_unshuffle
from tqdm import tqdm

from scripts.demo.contrastive_views import (
    GRID,
    PLACES,
    TEXT_LENGTH,
    TOKEN,
    WORDS,
    Views,
    picture_batches,
    to_pixels,
    tokenize,
    window_batches,
)
from scripts.demo.learning import learn
from scripts.demo.world import World

if TYPE_CHECKING:
    from transformers import SiglipModel

WIDTH, LAYERS, HEADS = 128, 4, 4
TEXT_LAYERS = 2
# Standard deviation of the attention's matrices at the start. transformers' Xavier start (0.088 at this width)
# learns slower: after equal training a probe read 87% of the shapes from it, 92% with this one.
ATTENTION_STD = 0.03
# Of the sigmoid loss at the start. The paper's bias of -10 is for batches of thousands.
BIAS, SCALE = -5.0, 10.0
POSITION_SCALE = 0.5  # of the sines and cosines: as large as what the patches start with
BATCH = 64  # in the same time, many small steps taught more than few large ones
COVERED = 0.3  # a patch shows an object from this share of it on
BACKGROUND = 0.3  # empty patches for each patch of an object
# Of words for places: where a patch stands takes codes that shapes need (27% of the features' variance with 1, 24% with
# this). With 0.3, and more weight on pixels, one layer of attention found the place of 58% of objects; here, of 96%.
PLACE_WEIGHT = 0.5
PIXEL_WEIGHT = 4.0  # of the mean squared error of pixels in [-1, 1]


def build_model(image_size: int) -> SiglipModel:
    """A SigLIP of `GRID` x `GRID` patches with a text tower for `WORDS`, started at random."""
    from transformers import SiglipConfig, SiglipModel

    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS}
    vision = {
        **shared,
        "num_hidden_layers": LAYERS,
        "image_size": image_size,
        "patch_size": image_size // GRID,
    }
    text = {
        **shared,
        "num_hidden_layers": TEXT_LAYERS,
        "vocab_size": len(TOKEN) + 1,
        "max_position_embeddings": TEXT_LENGTH,
        "projection_size": WIDTH,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    # Eager attention: on a CPU, with 64 tokens, nearly twice as fast a step as sdpa under bfloat16 autocast.
    model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text, attn_implementation="eager"))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(SCALE))
        model.logit_bias.fill_(BIAS)
        for layer in [*model.vision_model.encoder.layers, *model.text_model.encoder.layers]:
            attention = layer.self_attn
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
                torch.nn.init.normal_(linear.weight, std=ATTENTION_STD)
        model.vision_model.embeddings.position_embedding.weight.copy_(POSITION_SCALE * _sines())
    return model


def _sines() -> Tensor:
    """(GRID**2, WIDTH): sines and cosines of a patch's row, then of its column, raster order."""
    places = (torch.arange(GRID) + 0.5) / GRID
    # From half a turn a patch down to about an eighth of a turn over the whole picture.
    turns = torch.pi * GRID * 32 ** (-torch.arange(WIDTH // 4) / (WIDTH // 4))
    angles = places[:, None] * turns
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    grid = (GRID, GRID, WIDTH // 2)
    return torch.cat([waves[:, None].expand(grid), waves[None].expand(grid)], -1).flatten(0, 1)


def sigmoid_loss(
    model: SiglipModel, images: Tensor, texts: Tensor, true: Tensor, weights: Tensor | None = None
) -> Tensor:
    """SigLIP's loss of pooled images (B, D) and texts (T, D); `true` (T, B) says which text fits which image.

    `weights` (T,): of each text; None: 1.
    """
    cosine = normalize(texts.float(), dim=-1) @ normalize(images.float(), dim=-1).T
    logits = cosine * model.logit_scale.exp() + model.logit_bias
    losses = -logsigmoid(torch.where(true, logits, -logits))
    if weights is not None:
        losses = losses * weights[:, None]
    return losses.sum() / len(images)


def equal_rows(ids: Tensor) -> Tensor:
    """(B, B) bool: which texts are the same, and so fit each other's picture."""
    return (ids[:, None] == ids[None]).all(-1)


def encode_patches(model: SiglipModel, pixels: Tensor, positions: Tensor) -> Tensor:
    """What the pooling head reads: (B, N, D)."""
    vision = model.vision_model
    patches = vision.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    hidden = vision.encoder(inputs_embeds=patches + vision.embeddings.position_embedding(positions))
    return vision.post_layernorm(hidden.last_hidden_state)


def patch_loss(model: SiglipModel, patches: Tensor, views: Views) -> Tensor:
    """SigLIP's loss of single patches (B, N, D) and single words."""
    words = torch.zeros(len(WORDS), 2, dtype=torch.long)
    words[:, 0] = torch.arange(1, len(WORDS) + 1)
    said = (views.objects[:, :, None] == words[:, 0]).any(1)  # (T, words)
    thing, place = (views.covered > COVERED).nonzero(as_tuple=True)
    empty = torch.ones(patches.shape[:2]).index_add(0, views.rows, -views.covered) == 1
    row, other = empty.nonzero(as_tuple=True)
    drawn = torch.randperm(len(row))[: int(BACKGROUND * len(thing))]
    picked = torch.cat([patches[views.rows[thing], place], patches[row[drawn], other[drawn]]])
    true = torch.cat([said[thing], said.new_zeros(len(drawn), len(WORDS))]).T
    images = model.vision_model.head(picked[:, None])
    weights = torch.tensor([PLACE_WEIGHT if word in PLACES else 1.0 for word in WORDS])
    return sigmoid_loss(model, images, model.text_model(input_ids=words).pooler_output, true, weights)


def pixel_loss(head: nn.Linear, patches: Tensor, pixels: Tensor) -> Tensor:
    """Mean squared error of the pixels (B, 3, s, s) that a linear `head` reads from patches (B, N, D)."""
    side = pixels.shape[-1] // math.isqrt(patches.shape[1])
    return mse_loss(head(patches).float(), pixel_unshuffle(pixels, side).flatten(2).transpose(1, 2))


def loss_of(model: SiglipModel, head: nn.Linear, views: Views, pixel_weight: float = PIXEL_WEIGHT) -> Tensor:
    """Patches beside words and their pixels and, where a view is a whole picture, pictures beside descriptions."""
    patches = encode_patches(model, views.pixels, views.positions)
    loss = patch_loss(model, patches, views)
    if pixel_weight:
        loss = loss + pixel_weight * pixel_loss(head, patches, views.pixels)
    if views.descriptions is not None:
        pooled = model.vision_model.head(patches)
        texts = model.text_model(input_ids=views.descriptions).pooler_output
        loss = loss + sigmoid_loss(model, pooled, texts, equal_rows(views.descriptions))
    return loss


def train(
    model: SiglipModel,
    world: World,
    *,
    steps: tuple[int, int],
    lr: float,
    seed: int,
    bf16: bool,
    pixel_weight: float = PIXEL_WEIGHT,
) -> float:
    """Contrastive training for `steps` on windows, then on pictures; the mean loss of the last 20 steps.

    The rate warms up and decays to zero in each phase.

    Args:
        pixel_weight: of the pixels that are read back; 0 teaches meaning alone.
    """
    rng = np.random.default_rng([seed, 1])
    vision = model.config.vision_config
    head = nn.Linear(vision.hidden_size, 3 * vision.patch_size**2)
    parameters = [*model.parameters(), *head.parameters()]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    model.train()
    losses: list[float] = []
    with tqdm(total=sum(steps), desc="contrastive pretraining", unit="step") as progress:
        for batches, count in zip(
            (window_batches(world, BATCH, rng), picture_batches(world, BATCH, rng)), steps, strict=True
        ):
            next_loss = partial(lambda views: loss_of(model, head, next(views), pixel_weight), batches)
            losses += learn(model, optimizer, next_loss, count, rate=lr, bf16=bf16, progress=progress)
    model.eval()
    return float(np.mean(losses[-20:])) if losses else math.nan


@torch.inference_mode()
def retrieval_accuracy(model: SiglipModel, world: World) -> float:
    """Share of pictures whose own description scores highest among all of the split's."""
    texts = tokenize([record["description"] for record in world.records])
    output = model(input_ids=texts, pixel_values=to_pixels(world.images))
    best = output.logits_per_image.argmax(1)
    # Two scenes may share a description: naming either is right.
    return float((texts[best] == texts).all(1).float().mean())
