"""Kinds of blocks of the family, as options of a small model."""

from __future__ import annotations


def variants(*, normed_inside: bool = True) -> list[dict]:
    """All kinds; or without those that normalise over all heads or hidden units, and change when some go."""
    from edgeplast.models import import_timm

    import_timm()
    from timm.layers import GluMlp, SwiGLU

    inside: list[dict] = [{"scale_attn_norm": True}, {"scale_mlp_norm": True}]
    return [
        {},
        {"qkv_bias": False},
        {"init_values": 0.1},
        {"qk_norm": True},
        {"mlp_layer": GluMlp},
        {"mlp_layer": SwiGLU},
        {"global_pool": "avg", "class_token": False},
        {"reg_tokens": 2, "no_embed_class": True},
        *(inside if normed_inside else []),
    ]
