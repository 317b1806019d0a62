"""EfficientNet-Lite2 of the package registry as transformers' `EfficientNetModel`, with channels to spare.

Lite has no squeeze-and-excitation, and its first and last stages and its stem do not grow. transformers always has the
former (it is made the identity) and lets the top grow with the width: 1,408 channels instead of 1,280. Of the 128 that
are left over the last is the constant 1, a bias for the projection, which has none of its own; the others are 0.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import EfficientNetConfig, EfficientNetModel

from retrieval.features.encoder import best_dtype

PIXELS = 256  # trained at 260; at a multiple of 32 all paddings are as transformers has them
PUBLISHED = 1280
CHANNELS = 1408
CONSTANT = CHANNELS - 1
CUT = 15  # the blocks from here on, of 21, are trained further: those of 8 x 8
ALWAYS_ONE = 30.0  # a bias whose sigmoid is 1 in every floating-point type
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def dtype() -> torch.dtype:
    """Return what this processor computes in fastest: bfloat16 where it has that in hardware, else float32."""
    found: torch.dtype = getattr(torch, best_dtype("cpu"))
    return found


def mixed() -> torch.autocast:
    """Return a context in which layers compute in bfloat16 where the processor has it, and change nothing elsewhere."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype() == torch.bfloat16)


def settings() -> EfficientNetConfig:
    """Return the settings of Lite2 in transformers' terms."""
    return EfficientNetConfig(
        width_coefficient=1.1,
        depth_coefficient=1.0,
        num_block_repeats=[1, 3, 3, 4, 4, 5, 1],
        image_size=PIXELS,
        hidden_act="relu6",
        hidden_dim=CHANNELS,
        hidden_size=CHANNELS,
        squeeze_expansion_ratio=1e-6,
        batch_norm_eps=1e-3,
        pooling_type="mean",
        dropout_rate=0.3,
    )


def load(weights: Path) -> tuple[EfficientNetModel, torch.Tensor, torch.Tensor]:
    """Return the model in eval mode, and weight (1000, 1280) and bias (1000,) of the ImageNet classifier.

    Raises:
        RuntimeError: the file does not hold the weights of EfficientNet-Lite2.
    """
    published = torch.load(weights, map_location="cpu", weights_only=True)
    model = EfficientNetModel(settings()).eval()
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}

    def norm(source: str, target: str) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            value = published[f"{source}.{part}"]
            state[f"{target}.{part}"][: len(value)] = value

    state["embeddings.convolution.weight"] = published["_conv_stem.weight"]
    norm("_bn0", "embeddings.batchnorm")
    for number in range(len(model.encoder.blocks)):
        source, target = f"_blocks.{number}", f"encoder.blocks.{number}"
        if f"{source}._expand_conv.weight" in published:
            state[f"{target}.expansion.expand_conv.weight"] = published[f"{source}._expand_conv.weight"]
            norm(f"{source}._bn0", f"{target}.expansion.expand_bn")
        state[f"{target}.depthwise_conv.depthwise_conv.weight"] = published[f"{source}._depthwise_conv.weight"]
        norm(f"{source}._bn1", f"{target}.depthwise_conv.depthwise_norm")
        state[f"{target}.squeeze_excite.expand.bias"] += ALWAYS_ONE
        state[f"{target}.projection.project_conv.weight"] = published[f"{source}._project_conv.weight"]
        norm(f"{source}._bn2", f"{target}.projection.project_bn")
    state["encoder.top_conv.weight"][:PUBLISHED] = published["_conv_head.weight"]
    state["encoder.top_bn.running_var"] += 1.0
    norm("_bn1", "encoder.top_bn")
    state["encoder.top_bn.bias"][CONSTANT] = 1.0
    model.load_state_dict(state)
    return model, published["_fc.weight"], published["_fc.bias"]


def unfold(folded: nn.Conv2d, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Write a convolution with a bias as one without and a batch norm that adds it and does nothing else."""
    assert folded.bias is not None
    with torch.no_grad():
        convolution.weight.copy_(folded.weight)
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)  # rounds to less than a weight of sqrt(1 + eps) would, in float16
        norm.weight.fill_(1.0)
        norm.bias.copy_(folded.bias)


def mean_of_photos(model: EfficientNetModel) -> torch.Tensor:
    """Return the pooled published features, shape (1280,), of the average ImageNet photo, without any photo.

    Before its activation a channel of the last batch norm has the mean `bias` and the deviation `weight` over all
    training pictures; for a normal distribution the mean of min(max(x, 0), 6) follows.
    """
    norm = model.encoder.top_bn
    mean, deviation = norm.bias[:PUBLISHED].detach().double(), norm.weight[:PUBLISHED].detach().abs().double() + 1e-9
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.double), torch.ones((), dtype=torch.double))

    def rectified(threshold: float) -> torch.Tensor:
        """E[max(x - threshold, 0)] of a normal x."""
        z = (mean - threshold) / deviation
        return deviation * normal.log_prob(z).exp() + (mean - threshold) * normal.cdf(z)

    return (rectified(0.0) - rectified(6.0)).float()
