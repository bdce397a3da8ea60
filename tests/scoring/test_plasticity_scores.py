"""The secant scores against their definition, their closed forms and their promises on cost."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scoring_models import DATA, WEIGHTS, Pictures, found, ratios_embedding, ratios_true, score, score_model, tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeplast.models import load_model
from edgeplast.scoring.examples import draw_pairs


def means(reference, model, images, pairs, seed=0, other=None):
    drawn = draw_pairs(images, other, pairs, seed)
    rows = [reference(model, a.pixels[i], b.pixels[j]) for (a, i), (b, j) in drawn]
    return {
        k: (np.mean([r[k] for r in rows]), np.std([r[k] for r in rows], ddof=1) / len(rows) ** 0.5) for k in rows[0]
    }


def test_plasticity_is_its_definition() -> None:
    model, images = tiny(), Pictures(11)
    table = score(model, images, method="plasticity", pairs=7)
    expected = means(ratios_true, model, images, 7)
    assert list(table.components) == [
        f"blocks.{i}.{k}" for i in range(2) for k in ("norm1", "attn", "norm2", "fc1", "fc2")
    ]
    for name, entry in table.components.items():
        assert entry.score == pytest.approx(expected[name][0], rel=1e-5), name
        assert entry.standard_error == pytest.approx(expected[name][1], rel=1e-3), name
        assert entry.samples == 7
        assert entry.parameters == table.outline.component(name).size


def test_plasticity_embedding_is_the_authors_recipe_across_two_sets() -> None:
    model, images, reference = tiny(1), Pictures(9), Pictures(8, seed=5)
    table = score(model, images, reference=reference, method="plasticity-embedding", pairs=8)
    expected = means(ratios_embedding, model, images, 8, other=reference)
    for name, entry in table.components.items():
        assert entry.score == pytest.approx(expected[name][0], rel=1e-5), name


def test_plasticity_branch_is_its_definition_also_for_whole_branches() -> None:
    model, images = tiny(2), Pictures(10)
    expected = means(ratios_true, model, images, 5)
    for granularity, kinds in (("component", ("attn", "fc1", "fc2")), ("branch", ("attn", "mlp"))):
        table = score(model, images, method="plasticity-branch", pairs=5, granularity=granularity)
        assert list(table.components) == [f"blocks.{i}.{k}" for i in range(2) for k in kinds]
        for name, entry in table.components.items():
            _, block, kind = name.split(".")
            assert entry.score == pytest.approx(expected[f"branch {block} {kind}"][0], rel=1e-5), name


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_moving_scale_between_a_norm_and_the_next_weights_changes_plasticity_but_not_branches(
    factor: float,
) -> None:
    model, images = tiny(3), Pictures(8)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for block in moved.blocks:
            for norm, following in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
                norm.weight *= factor
                norm.bias *= factor
                following.weight /= factor
    picture = torch.from_numpy(images.pixels[:2])
    torch.testing.assert_close(model(picture), moved(picture), rtol=1e-4, atol=1e-4)
    before, after = (
        score(m, images, method="plasticity", others=["plasticity-branch"], pairs=6) for m in (model, moved)
    )
    for name, entry in before.others["plasticity-branch"].items():
        assert after.others["plasticity-branch"][name].score == pytest.approx(entry.score, rel=1e-4), name
    for block in range(2):
        for norm, following in (("norm1", "attn"), ("norm2", "fc1")):
            ratio = {
                k: after.components[f"blocks.{block}.{k}"].score / before.components[f"blocks.{block}.{k}"].score
                for k in (norm, following)
            }
            assert ratio[norm] == pytest.approx(factor, rel=1e-3)
            assert ratio[following] == pytest.approx(1 / factor, rel=1e-3)


def isotropic() -> nn.Module:
    """A model whose embedding hands normal pixels on as 16 isotropic tokens of width 192."""
    model = tiny(4, embed_dim=192, depth=1, class_token=False, global_pool="avg")
    with torch.no_grad():
        model.patch_embed.proj.weight.copy_(torch.eye(192).view(192, 3, 8, 8))
        model.patch_embed.proj.bias.zero_()
        model.pos_embed.zero_()
    return model


def test_closed_forms_identity_scores_one_and_linear_layers_their_frobenius_norm() -> None:
    model, images = isotropic(), Pictures(12, classes=1)
    model.blocks[0].norm1 = nn.Identity()
    table = score(model, images, method="plasticity", others=["plasticity-embedding", "jacobian"], pairs=6)
    for method in table.methods:
        assert table.by(method)["blocks.0.norm1"].score == pytest.approx(1.0, abs=1e-5), method
    for kind in ("fc1", "fc2"):
        weight = getattr(model.blocks[0].mlp, kind).weight.detach()
        for method in ("plasticity-embedding", "jacobian"):
            # fc2 is fed 192 of 768 channels by the paper's method, all of them by the other
            part = weight[:, :192] if method == "plasticity-embedding" else weight
            expected = float(part.norm()) / part.shape[1] ** 0.5
            assert table.by(method)[f"blocks.0.{kind}"].score == pytest.approx(expected, rel=0.02), (method, kind)


def test_scaling_a_weight_scales_its_score() -> None:
    model, images = tiny(5), Pictures(8)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled.blocks[0].mlp.fc1.weight *= 3
    for method in ("plasticity", "plasticity-embedding", "plasticity-branch", "jacobian"):
        before, after = (score(m, images, method=method, pairs=6).components["blocks.0.fc1"] for m in (model, scaled))
        assert after.score == pytest.approx(3 * before.score, rel=1e-4)
        assert after.standard_error == pytest.approx(3 * before.standard_error, rel=1e-3)


@pytest.mark.parametrize("method", ["plasticity", "plasticity-embedding", "plasticity-branch"])
@pytest.mark.parametrize("granularity", ["component", "head"])
def test_a_pair_costs_at_most_two_point_two_forward_passes(method: str, granularity: str) -> None:
    model, images = load_model_of_vit_tiny_shape(), Pictures(12, size=64)
    with FlopCounterMode(display=False) as one, torch.no_grad():
        model(torch.from_numpy(images.pixels[:1]))
    known = found(model)  # traced once, whatever is scored
    with FlopCounterMode(display=False) as all_pairs:
        score_model(model, images, known, method=method, pairs=6, granularity=granularity)
    assert all_pairs.get_total_flops() <= 2.2 * 6 * one.get_total_flops()


def load_model_of_vit_tiny_shape() -> nn.Module:
    return tiny(img_size=64, patch_size=16, embed_dim=192, depth=3, num_heads=3)


def test_each_picture_is_used_once_a_pass_and_the_seed_decides() -> None:
    images, reference = Pictures(10), Pictures(6, seed=1)
    within = draw_pairs(images, None, 5, seed=3)
    assert sorted(i for pair in within for _, i in pair) == list(range(10))
    across = draw_pairs(images, reference, 9, seed=3)
    assert all(a[0] is reference and b[0] is images for a, b in across)
    assert sorted(a[1] for a, _ in across[:6]) == list(range(6))
    assert len({b[1] for _, b in across[:6]}) == 6
    assert within == draw_pairs(images, None, 5, seed=3) != draw_pairs(images, None, 5, seed=4)


def test_scoring_stops_when_the_ranking_has_settled_and_says_so() -> None:
    model, images = tiny(6), Pictures(40)
    table = score(model, images, method="plasticity", pairs=200)
    used = {entry.samples for entry in table.components.values()}
    assert len(used) == 1 and 32 <= used.pop() < 200
    assert any("settled after" in note and "200 pairs" in note for note in table.notes)
    assert not score(model, images, pairs=12).notes


def test_a_head_is_what_it_writes_into_the_output() -> None:
    model, images = tiny(7, init_values=0.5), Pictures(8)
    table = score(
        model,
        images,
        method="plasticity",
        pairs=4,
        granularity="head",
        others=["plasticity-embedding", "plasticity-branch"],
    )
    assert [n for n in table.components if n.startswith("blocks.0")] == [
        "blocks.0.norm1", *(f"blocks.0.attn.head.{h}" for h in range(4)), "blocks.0.norm2",
        "blocks.0.fc1", "blocks.0.fc2",
    ]  # fmt: skip
    block, ratios = model.blocks[0], []
    for (_, i), (_, j) in draw_pairs(images, None, 4, 0):
        with torch.no_grad():
            tokens = model._pos_embed(model.patch_embed(torch.from_numpy(images.pixels[[i, j]])))
            normed = block.norm1(tokens)
            q, k, v = block.attn.qkv(normed).reshape(2, 17, 3, 4, 8).permute(2, 0, 3, 1, 4)
            mixed = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
            weight = block.ls1.gamma[:, None] * block.attn.proj.weight
            written = torch.stack([mixed[:, h] @ weight[:, 8 * h : 8 * h + 8].T for h in range(4)])
            torch.testing.assert_close(
                written.sum(0) + block.ls1.gamma * block.attn.proj.bias, block.ls1(block.attn(normed))
            )
            ratios.append((written[:, 0] - written[:, 1]).flatten(1).norm(dim=1) / (normed[0] - normed[1]).norm())
    expected = torch.stack(ratios).mean(0)
    for h in range(4):
        assert table.components[f"blocks.0.attn.head.{h}"].score == pytest.approx(float(expected[h]), rel=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_scores() -> None:
    model, images = tiny(), Pictures(12)
    methods = ("plasticity", "plasticity-embedding", "plasticity-branch", "jacobian")
    host, device = (
        score(model, images, method="plasticity", others=methods[1:], pairs=6, device=d) for d in ("cpu", "cuda")
    )
    for method in methods:
        for name, entry in host.by(method).items():
            assert device.by(method)[name].score == pytest.approx(entry.score, rel=1e-3)


@pytest.mark.skipif(not WEIGHTS.exists(), reason="shared data not here")
def test_on_real_weights_and_photos_medians_are_those_of_the_first_measurement() -> None:
    table = score(load_model("vit_tiny_patch16_224", checkpoint=WEIGHTS), rsscn7(), method="plasticity", pairs=12,
                  others=["plasticity-embedding"])  # fmt: skip
    first = {
        "plasticity": {"norm1": 1.19, "norm2": 1.81, "fc2": 0.81, "fc1": 1.69, "attn": 0.22},
        "plasticity-embedding": {"norm1": 1.44, "norm2": 1.71, "fc2": 0.81, "fc1": 1.59, "attn": 0.21},
    }
    for method, medians in first.items():
        for kind, median in medians.items():
            scores = [e.score for n, e in table.by(method).items() if n.endswith(f".{kind}")]
            assert float(np.median(scores)) == pytest.approx(median, rel=0.08), (method, kind)


class rsscn7:  # noqa: N801
    """The first two training photos of each class, read straight from the tar."""

    def __init__(self) -> None:
        import io
        import tarfile

        from PIL import Image

        self.classes, self.labels, self.pixels = (), np.zeros(0, dtype=np.int64), []
        with tarfile.open(DATA / "rsscn7_224_100pc.tar") as archive:
            names = sorted(n for n in archive.getnames() if n.startswith("train/") and n.endswith(".jpg"))
            for name in names[::10]:
                file = archive.extractfile(name)
                assert file is not None
                image = Image.open(io.BytesIO(file.read())).convert("RGB").resize((248, 248), Image.Resampling.BICUBIC)
                pixels = np.asarray(image.crop((12, 12, 236, 236)), dtype=np.float32)
                self.pixels.append(pixels.transpose(2, 0, 1) / 127.5 - 1)

    def __len__(self) -> int:
        return len(self.pixels)

    def tensor(self, index: int) -> np.ndarray:
        return self.pixels[index]
