"""What a model computes without need, taken out of it: the same vectors but for rounding, with less to do."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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
