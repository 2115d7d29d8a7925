"""Vision Transformers of timm, open_clip and transformers as dense views."""

from __future__ import annotations

from typing import Any

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import linear

from lightning_clip.encoders.block_parts import BlockParts
from lightning_clip.encoders.dense import DenseView

__all__ = ["OpenClipVit", "TimmVit", "TransformersVit", "through_pooling"]


def through_pooling(tokens: Tensor, prefix: int, pool: Any) -> Tensor:
    """Features of each token as if all tokens of the picture were equal to it.

    Whatever the pooling is, the first token, a mean, or attention, equal tokens pass it as one; so nothing of it need be known.

    Args:
        tokens: (B, L, W).
        prefix: tokens that the pooling leaves out or reads alone.
        pool: (N, prefix + 1, W) -> (N, output_dim).
    """
    alone = tokens.flatten(0, 1).unsqueeze(1).expand(-1, prefix + 1, -1)  # (B, L, W) -> (B L, P + 1, W)
    features: Tensor = pool(alone)
    return features.reshape(*tokens.shape[:2], -1)  # (B L, W') -> (B, L, W')


def _split(tokens: Tensor, heads: int) -> Tensor:
    return tokens.reshape(*tokens.shape[:2], heads, -1).transpose(1, 2)  # (B, L, H D) -> (B, H, L, D)


class TimmVit(DenseView):
    """Timm's plain ViT, also inside of an open_clip tower.

    Args:
        model: timm's `VisionTransformer`.
        head: what follows its own head; None for nothing.
    """

    def __init__(self, model: Any, head: nn.Module | None = None) -> None:
        reads_first = model.global_pool == "token" and model.attn_pool is None
        known = all(isinstance(block, Block) and isinstance(block.attn, Attention) for block in model.blocks)
        super().__init__(list(model.blocks) if known else [], int(model.num_prefix_tokens), reads_first=reads_first)
        self.model, self.head = model, head or nn.Identity()

    def enter(self, image: Tensor) -> tuple[Tensor, int, int]:
        """Normalised float pixels (B, 3, S, S) -> patches with positions and class token (B, L, W)."""
        model = self.model
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(image))))  # (B, 3, S, S) -> (B, L, W)
        if not self.blocks:  # of a kind that is not known: all at once
            x = model.blocks(x)
        rows, columns = (side // patch for side, patch in zip(image.shape[-2:], model.patch_embed.patch_size, strict=True))
        return x, rows, columns

    def parts(self, block: nn.Module) -> BlockParts:
        """A block of timm's `Block`, taken apart."""
        layers: Any = block
        attn = layers.attn
        gate: list[Tensor] = []  # of the tokens that came last through `heads`

        def heads(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x = layers.norm1(x)
            gate[:] = [] if attn.gate is None else [attn.gate(x).sigmoid()]
            query, key, value = (_split(part, attn.num_heads) for part in attn.qkv(x).chunk(3, dim=-1))  # (B, L, 3 W)
            return attn.q_norm(query), attn.k_norm(key), value

        def project(found: Tensor) -> Tensor:
            found = attn.norm(found)
            return layers.ls1(attn.proj(found * gate[0] if gate else found))  # type: ignore[no-any-return]

        return BlockParts(heads, project, lambda x: layers.ls2(layers.mlp(layers.norm2(x))))

    def leave(self, x: Tensor) -> Tensor:
        """The final norm: (B, L, W) -> (B, L, W)."""
        normed: Tensor = self.model.norm(x)
        return normed

    def each(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, output_dim)."""
        return through_pooling(tokens, self.prefix, self.pool)

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, output_dim)."""
        features: Tensor = self.head(self.model.forward_head(tokens))
        return features


class OpenClipVit(DenseView):
    """open_clip's own ViT.

    Args:
        model: open_clip's `VisionTransformer`, without its last matrix.
    """

    def __init__(self, model: Any) -> None:
        blocks = list(model.transformer.resblocks)
        known = all(isinstance(block.attn, nn.MultiheadAttention) and block.attn.batch_first for block in blocks)
        reads_first = model.attn_pool is None and model.pool_type == "tok"
        super().__init__(blocks if known else [], prefix=1, reads_first=reads_first)
        self.model = model

    def enter(self, image: Tensor) -> tuple[Tensor, int, int]:
        """Normalised float pixels (B, 3, S, S) -> patches with positions and class token (B, L, W)."""
        x = self.model._embeds(image)
        rows, columns = self.model.grid_size
        return x if self.blocks else self.model.transformer(x), int(rows), int(columns)

    def parts(self, block: nn.Module) -> BlockParts:
        """A block of open_clip's, taken apart."""
        layers: Any = block
        attn = layers.attn

        def heads(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            qkv = linear(layers.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)  # (B, L, W) -> (B, L, 3 W)
            query, key, value = (_split(part, attn.num_heads) for part in qkv.chunk(3, dim=-1))
            return query, key, value

        return BlockParts(
            heads, lambda found: layers.ls_1(attn.out_proj(found)), lambda x: layers.ls_2(layers.mlp(layers.ln_2(x)))
        )

    def leave(self, x: Tensor) -> Tensor:
        """(B, L, W) as it is: open_clip's norm stands before or behind the pooling, which has it."""
        return x

    def each(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, output_dim)."""
        return through_pooling(tokens, self.prefix, self.pool)

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, output_dim)."""
        features: Tensor = self.model._pool(tokens)[0]
        return features


class TransformersVit(DenseView):
    """CLIP's and SigLIP's ViT of transformers, and others of their form.

    Args:
        model: with `embeddings`, `encoder.layers` and `post_layernorm`.
        pooling: "pooler", "cls" or "mean".
    """

    def __init__(self, model: Any, pooling: str) -> None:
        self.model, self.pooling = model, pooling
        self.head = getattr(model, "head", None) if getattr(model, "use_head", False) else None
        self.normed_first = hasattr(model, "use_head")  # SigLIP normalises all tokens, CLIP its class token
        prefix = int(hasattr(model.embeddings, "class_embedding"))
        first = pooling == "cls" or (pooling == "pooler" and self.head is None)
        super().__init__(list(model.encoder.layers), prefix, reads_first=first)

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether a model of transformers has this form."""
        layers = getattr(getattr(model, "encoder", None), "layers", None)
        if not layers or not hasattr(model, "post_layernorm") or not hasattr(model, "embeddings"):
            return False
        names = ("layer_norm1", "layer_norm2", "mlp", "self_attn")
        projections = ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads")
        return all(hasattr(layers[-1], name) for name in names) and all(
            hasattr(layers[-1].self_attn, name) for name in projections
        )

    def enter(self, image: Tensor) -> tuple[Tensor, int, int]:
        """Normalised float pixels (B, 3, S, S) -> patches with positions (B, L, W)."""
        x = self.model.embeddings(image)
        before = getattr(self.model, "pre_layrnorm", None)  # as transformers spells it
        patch = self.model.config.patch_size
        return x if before is None else before(x), image.shape[-2] // patch, image.shape[-1] // patch

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, W)."""
        out: Any = block(x, None)
        first: Tensor = out[0] if isinstance(out, tuple) else out
        return first

    def parts(self, block: nn.Module) -> BlockParts:
        """A layer of transformers', taken apart."""
        layers: Any = block
        attn = layers.self_attn

        def heads(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x = layers.layer_norm1(x)
            query, key, value = (_split(part(x), attn.num_heads) for part in (attn.q_proj, attn.k_proj, attn.v_proj))
            return query, key, value

        return BlockParts(heads, attn.out_proj, lambda x: layers.mlp(layers.layer_norm2(x)))

    def leave(self, x: Tensor) -> Tensor:
        """The model's last hidden state (B, L, W)."""
        return self.model.post_layernorm(x) if self.normed_first else x

    def each(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, L, output_dim)."""
        return through_pooling(tokens, self.prefix, self.pool)

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, output_dim)."""
        if self.pooling == "mean":
            return tokens.mean(dim=1)
        if self.pooling == "pooler" and self.head is not None:
            pooled: Tensor = self.head(tokens)
            return pooled
        first = tokens[:, 0]
        return first if self.pooling == "cls" or self.normed_first else self.model.post_layernorm(first)
