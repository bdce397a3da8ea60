"""Token merging computes what its paper says, one token after the other, and loses nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import hand_made_plan, small_vit

from edgeplast.compression.merging import merge_tokens, with_merged_tokens
from edgeplast.errors import InputError, UsageError
from edgeplast.merging import blocks_before
from edgeplast.merging import merge_tokens as merge
from edgeplast.models import import_timm

PATCHES = 16


def merged_one_by_one(
    tokens: np.ndarray, keys: np.ndarray, sizes: np.ndarray, protected: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The definition, for one image: every second patch looks for its best partner, the best pairs become one."""
    first, second = range(protected, len(tokens), 2), range(protected + 1, len(tokens), 2)
    found = []
    for i in first:
        alike = [keys[i] @ keys[j] / np.linalg.norm(keys[i]) / np.linalg.norm(keys[j]) for j in second]
        found.append((max(alike), i, second[int(np.argmax(alike))]))
    gone = {i: j for _, i, j in sorted(found, reverse=True)[:count]}
    rows, counts = [], []
    for i in [*range(protected), *(i for i in first if i not in gone), *second]:
        group = [i, *(k for k, j in gone.items() if j == i)]
        counts.append(sum(sizes[k] for k in group))
        rows.append(sum(sizes[k] * tokens[k] for k in group) / counts[-1])
    return np.array(rows), np.array(counts)


def logits_one_by_one(model: Any, image: torch.Tensor, count: int, blocks: int) -> np.ndarray:
    """A vision transformer over one image in double precision, its first blocks merging."""
    m = model.double()
    x = m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(image[None].double()))))
    sizes = np.ones(x.shape[1])
    for block in m.blocks[:blocks]:
        attn, normed = block.attn, block.norm1(x)
        qkv = attn.qkv(normed).reshape(len(sizes), 3, attn.num_heads, attn.head_dim)
        q, k, v = (part.transpose(0, 1) for part in qkv.unbind(1))
        q, k = attn.q_norm(q), attn.k_norm(k)
        out = []
        for head in range(attn.num_heads):  # a token of size 2 is attended to as if it were there twice
            weights = torch.exp(q[head] @ k[head].T / attn.head_dim**0.5) * torch.from_numpy(sizes)
            out.append(weights / weights.sum(1, keepdim=True) @ v[head])
        x = x + block.ls1(attn.proj(attn.norm(torch.cat(out, 1))[None]))
        rows, sizes = merged_one_by_one(x[0].numpy(), k.mean(0).numpy(), sizes, m.num_prefix_tokens, count)
        x = torch.from_numpy(rows)[None]
        x = x + block.ls2(block.mlp(block.norm2(x)))
    for block in m.blocks[blocks:]:
        x = block(x)
    found: np.ndarray = m.forward_head(m.norm(x))[0].numpy()
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 3, "init_values": 0.1},
        {"class_token": False, "global_pool": "avg", "img_size": (24, 40)},
        {"qk_norm": True, "scale_attn_norm": True, "pre_norm": True},
    ],
    ids=["class token", "registers, layer scale", "no class token, an odd number of patches", "inner norms"],
)
@torch.no_grad()
def test_a_merged_model_computes_what_the_definition_says(options: dict[str, Any]) -> None:
    model = small_vit(depth=4, **options)
    height, width = model.patch_embed.img_size  # type: ignore[union-attr]
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    found = with_merged_tokens(model, 3, 3)(images).numpy()
    expected = np.stack([logits_one_by_one(small_vit(depth=4, **options), image, 3, 3) for image in images])
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(found - model(images).numpy()).max() > 1e-3 * np.abs(expected).max()


@torch.no_grad()
def test_merging_nothing_is_the_model_itself() -> None:
    model = small_vit(depth=3)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(with_merged_tokens(model, 0, 2)(images), model(images))
    same, plan = merge(model, made := hand_made_plan(model, "blocks:2"), 0)
    assert torch.equal(same(images), model(images)) and plan is made


def test_names_and_numbers_of_parameters_stay() -> None:
    model = small_vit(depth=3, init_values=0.1)
    merged = with_merged_tokens(model, 2, 2)
    before, after = model.state_dict(), merged.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert type(model.blocks[0]) is not type(merged.blocks[0])  # type: ignore[index]


@settings(max_examples=60, deadline=None)
@given(patches=st.integers(2, 40), protected=st.integers(0, 4), data=st.data())
def test_sizes_and_what_tokens_hold_add_up(patches: int, protected: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, patches // 2))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    n = patches + protected
    tokens, keys = torch.randn(2, n, 5, generator=generator), torch.randn(2, n, 3, generator=generator)
    given_sizes = data.draw(st.booleans())
    sizes = torch.randint(1, 5, (2, n, 1), generator=generator).float() if given_sizes else None
    merged, after = merge_tokens(tokens, keys, sizes, protected, count)
    assert merged.shape == (2, n - count, 5) and after.shape == (2, n - count, 1)
    before = torch.ones(2, n, 1) if sizes is None else sizes
    torch.testing.assert_close(after.sum(1), before.sum(1))
    torch.testing.assert_close((merged * after).sum(1), (tokens * before).sum(1), atol=1e-3, rtol=1e-4)
    assert torch.equal(merged[:, :protected], tokens[:, :protected])


def test_no_gradient_crosses_it_and_what_lies_behind_gets_its_own() -> None:
    merged = with_merged_tokens(small_vit(depth=3), 2, 2)
    merged(torch.randn(2, 3, 32, 32)).square().sum().backward()
    with_gradient = {
        name.split(".")[1] for name, p in merged.named_parameters() if p.grad is not None and "blocks" in name
    }
    assert "2" in with_gradient and "0" not in with_gradient


@pytest.mark.parametrize(
    ("train", "blocks"),
    [("blocks:2-3", 2), ("attn:3,head", 3), ("norm1:1", 1), ("norm,head", 3), ("", 3)],
)
def test_blocks_before_the_first_that_trains_merge_and_never_the_last(train: str, blocks: int) -> None:
    assert blocks_before(hand_made_plan(small_vit(depth=4), train)) == blocks


@pytest.mark.parametrize(
    ("train", "depth", "first"),
    [
        ("attn", 4, r"blocks\.0\.attn trains, in the first block\. Train less deep, e\.g\. --train blocks:2-3,"),
        ("all", 4, r"patch_embed trains, before all blocks\. Train less deep, e\.g\. --train blocks:2-3,"),
        ("", 1, r"small_vit has one block\. Train less deep, e\.g\. --train head,"),
    ],
)
def test_a_plan_that_leaves_no_block_is_refused_with_what_trains_first(train: str, depth: int, first: str) -> None:
    model = small_vit(depth=depth)
    with pytest.raises(
        UsageError, match=rf"before the first that trains, and none is left: {first} or leave --merge-t"
    ):
        merge(model, hand_made_plan(model, train), 2)


@pytest.mark.parametrize("count", [-1, 4, 200])
def test_more_than_there_are_is_refused_with_how_many_can_be(count: int) -> None:
    with pytest.raises(
        UsageError, match=rf"^--merge-tokens {count}: of the 16 patches of an image each of 3 blocks can merge 0 to 3\."
    ):
        with_merged_tokens(small_vit(depth=4), count, 3)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "resnet10t",
            r"resnet10t is no plain vision transformer: it has no patch_embed and no blocks.*Token merging takes ",
        ),
        (
            "beit_base_patch16_224",
            r"blocks\.0 has a timm\.models\.beit\.Block where token merging knows timm\S+\.Block\.",
        ),
        ("vit_relpos_small_patch16_224", r"blocks\.0 has a timm\S+\.RelPosBlock where token merging "),
        ("vit_small_patch16_dinov3", r"no plain vision transformer: blocks\.0 "),
    ],
)
def test_other_models_are_refused_by_name(name: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        with_merged_tokens(import_timm().create_model(name), 2, 1)


def test_a_mask_is_refused() -> None:
    merged: Any = with_merged_tokens(small_vit(depth=2), 2, 1)
    with pytest.raises(InputError, match="give no attention mask"):
        merged.blocks[0](torch.zeros(1, 17, 32), attn_mask=torch.zeros(17, 17))
