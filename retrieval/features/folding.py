"""A model's features with less to compute: what they do not need is taken out, the rest put in quicker terms."""

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

QUICK_GELU = 1.702  # of OpenAI's models: x sigmoid(1.702 x)


def lighten(model: nn.Module) -> None:
    """Do all below to a model in eval mode, in place: its pooled features stay, of CLIP's tokens the first alone.

    Some weights are float32 afterwards, whatever they were: `to` a dtype brings all to one.
    """
    fold_batch_norms(model)
    remove_open_gates(model)
    activate_in_place(model)
    fold_quick_gelu(model)
    multiply_patches(model)
    pool_first_token(model)


def fold_batch_norms(model: nn.Module) -> int:
    """Fold the batch norms of a model that is in eval mode, in place; return how many there were to fold.

    A convolution w x + b before a normalisation g (y - m) / s + h is the convolution (g w / s) x + g (b - m) / s + h
    (Jacob et al., "Quantization and Training of Neural Networks", 2018, section 3.2). Only of a pair that stands side
    by side in a module, with as many channels.
    """
    folded = 0
    for module in list(model.modules()):
        for (before, convolution), (after, norm) in pairwise(list(module.named_children())):
            if (
                isinstance(convolution, nn.Conv2d)
                and isinstance(norm, nn.BatchNorm2d)
                # Children of these classes that do more have a forward of their own.
                and type(convolution).forward is nn.Conv2d.forward
                and type(norm).forward is nn.BatchNorm2d.forward
                and norm.track_running_stats
                and convolution.out_channels == norm.num_features
            ):
                with torch.no_grad():
                    fused = fuse_conv_bn_eval(convolution.float(), norm.float())
                setattr(module, before, fused)
                setattr(module, after, nn.Identity())
                folded += 1
    return folded


def remove_open_gates(model: nn.Module) -> int:
    """Take out squeeze-and-excitation that multiplies by 1 whatever it sees, in place; return how many there were.

    EfficientNet-Lite has none of these gates (M. Tan, "EfficientNet-Lite", 2020), the class of transformers always
    has: then their last convolution is nought but for a bias whose sigmoid is 1, exactly.
    """
    from transformers.models.efficientnet.modeling_efficientnet import EfficientNetSqueezeExciteLayer

    removed = 0
    for module in list(model.modules()):
        for name, gate in list(module.named_children()):
            if isinstance(gate, EfficientNetSqueezeExciteLayer):
                weight, bias = gate.expand.weight, gate.expand.bias
                if bias is not None and not weight.any() and bool((bias.float().sigmoid() == 1).all()):
                    setattr(module, name, nn.Identity())
                    removed += 1
    return removed


def activate_in_place(model: nn.Module) -> int:
    """Let the activations of an EfficientNet overwrite what they are given, in place; return how many there were.

    Each of them has a convolution before it, whose result nobody else wants: a tenth of a picture's time went into
    fresh memory for the second one.
    """
    from transformers import EfficientNetModel

    found = {
        part
        for module in model.modules()
        if isinstance(module, EfficientNetModel)
        for part in module.modules()
        if isinstance(part, nn.Hardtanh | nn.ReLU | nn.SiLU)
    }
    for part in found:
        part.inplace = True
    return len(found)


def fold_quick_gelu(model: nn.Module) -> int:
    """Turn the activations of OpenAI's CLIP into SiLU, in place; return how many there were.

    x sigmoid(c x) is silu(c x) / c: with c in the weights before and 1 / c in those after it, one pass over memory in
    place does what three into fresh memory did.
    """
    from transformers.activations import QuickGELUActivation
    from transformers.models.clip.modeling_clip import CLIPMLP

    folded = 0
    for module in model.modules():
        if (
            isinstance(module, CLIPMLP)
            and type(module).forward is CLIPMLP.forward
            and isinstance(module.activation_fn, QuickGELUActivation)
            and type(module.fc1) is type(module.fc2) is nn.Linear
        ):
            with torch.no_grad():
                for values in module.fc1.float().parameters():
                    values.mul_(QUICK_GELU)
                module.fc2.float().weight.div_(QUICK_GELU)
            module.activation_fn = nn.SiLU(inplace=True)
            folded += 1
    return folded


def multiply_patches(model: nn.Module) -> int:
    """Turn convolutions whose windows lie side by side into matrix products, in place; return how many there were.

    So vision transformers embed their patches (A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, section
    3.1), and a matrix product takes two thirds of the time or half.
    """
    found = 0
    for module in list(model.modules()):
        for name, convolution in list(module.named_children()):
            if (
                isinstance(convolution, nn.Conv2d)
                and type(convolution).forward is nn.Conv2d.forward
                and convolution.kernel_size == convolution.stride != (1, 1)
                and convolution.padding in ((0, 0), "valid")
                and convolution.dilation == (1, 1)
                and convolution.groups == 1
            ):
                setattr(module, name, _PatchProduct(convolution))
                found += 1
    return found


class _PatchProduct(nn.Module):
    """A convolution of windows side by side, shape (n, channels, height, width) to (n, d, rows, columns)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.height, self.width = convolution.kernel_size
        # Rows, then columns, then channels of a window, as pictures lie in memory in the layout channels_last.
        self.weight = nn.Parameter(convolution.weight.permute(0, 2, 3, 1).flatten(1), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        rows, columns = pictures.shape[2] // self.height, pictures.shape[3] // self.width
        whole = pictures[:, :, : rows * self.height, : columns * self.width].permute(0, 2, 3, 1)
        windows = whole.reshape(len(pictures), rows, self.height, columns, self.width, pictures.shape[1]).transpose(
            2, 3
        )
        product = functional.linear(windows.flatten(3), self.weight, self.bias)
        return product.permute(0, 3, 1, 2)


def pool_first_token(model: nn.Module) -> int:
    """Let the last layer of CLIP's vision transformers compute their first token alone; return how many there were.

    What is pooled is that token (A. Radford et al., "Learning Transferable Visual Models From Natural Language
    Supervision", 2021, section 2.4). The others matter to it as keys and values alone. Only in models of which it is
    known that they take nothing else from the tower.
    """
    from transformers import CLIPModel, CLIPVisionModel, VisionTextDualEncoderModel
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

    found = 0
    for module in list(model.modules()):
        tower = module.vision_model if isinstance(module, CLIPModel | VisionTextDualEncoderModel) else None
        if isinstance(tower, CLIPVisionModel) and type(tower).forward is CLIPVisionModel.forward:
            layers = tower.encoder.layers
            if type(layers[-1]).forward is CLIPEncoderLayer.forward:
                layers[-1] = _FirstTokenLayer(layers[-1])
                found += 1
    return found


class _FirstTokenLayer(nn.Module):
    """A layer of CLIP's vision transformer, shape (n, tokens, d) to (n, 1, d)."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: torch.Tensor, attention_mask: None = None, **_: Any) -> torch.Tensor:
        layer, attention = self.layer, self.layer.self_attn

        def heads(values: torch.Tensor) -> torch.Tensor:
            return values.view(*values.shape[:-1], attention.num_heads, attention.head_dim).transpose(1, 2)

        normed = layer.layer_norm1(tokens)
        query, key, value = attention.q_proj(normed[:, :1]), attention.k_proj(normed), attention.v_proj(normed)
        seen = functional.scaled_dot_product_attention(heads(query), heads(key), heads(value), scale=attention.scale)
        first = tokens[:, :1] + attention.out_proj(seen.transpose(1, 2).flatten(-2))
        result: torch.Tensor = first + layer.mlp(layer.layer_norm2(first))
        return result
