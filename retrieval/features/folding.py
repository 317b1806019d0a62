"""Batch norms folded into the convolutions before them: the same vectors but for rounding, with less to do."""

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
