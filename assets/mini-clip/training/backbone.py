"""Convert the published EfficientNet-Lite2 to transformers' `EfficientNetModel`.

Lite models have no squeeze-and-excitation, and their stem, first and last stages do not scale with the width.
transformers always has squeeze-and-excitation, which is made the identity here. Its top layer scales with the width: it
has 1,408 channels instead of 1,280. Of the 128 additional channels, the last one is the constant 1, which serves as the
bias of the projection; the others are 0.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import EfficientNetConfig, EfficientNetModel

from retrieval.features.encoder import best_dtype

PIXELS = 256  # the published model was trained at 260; only for multiples of 32 do transformers' paddings match
PUBLISHED = 1280
CHANNELS = 1408
CONSTANT = CHANNELS - 1
CUT = 15  # the first of the 21 blocks that is trained further; from here on, maps are 8 x 8
ALWAYS_ONE = 30.0  # a bias whose sigmoid is 1 in every floating-point type
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def dtype() -> torch.dtype:
    """Return this processor's fastest dtype: bfloat16 if it supports it in hardware, otherwise float32."""
    found: torch.dtype = getattr(torch, best_dtype("cpu"))
    return found


def mixed() -> torch.autocast:
    """Return a context that runs layers in bfloat16 if the processor supports it, and has no effect otherwise."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype() == torch.bfloat16)


def settings() -> EfficientNetConfig:
    """Return the configuration of Lite2 for transformers."""
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
        RuntimeError: the file does not contain the weights of EfficientNet-Lite2.
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
    """Convert a convolution with a bias to one without a bias and a batch norm that only adds the bias."""
    assert folded.bias is not None
    with torch.no_grad():
        convolution.weight.copy_(folded.weight)
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)  # smaller rounding error in float16 than a weight of sqrt(1 + eps)
        norm.weight.fill_(1.0)
        norm.bias.copy_(folded.bias)


def mean_of_photos(model: EfficientNetModel) -> torch.Tensor:
    """Return the pooled features, shape (1280,), of the average ImageNet photo, estimated without any photo.

    Over all training images, a channel of the last batch norm has the mean `bias` and the standard deviation `weight`
    before its activation. The mean of min(max(x, 0), 6) follows under the assumption of a normal distribution.
    """
    norm = model.encoder.top_bn
    mean, deviation = norm.bias[:PUBLISHED].detach().double(), norm.weight[:PUBLISHED].detach().abs().double() + 1e-9
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.double), torch.ones((), dtype=torch.double))

    def rectified(threshold: float) -> torch.Tensor:
        """E[max(x - threshold, 0)] of a normal x."""
        z = (mean - threshold) / deviation
        return deviation * normal.log_prob(z).exp() + (mean - threshold) * normal.cdf(z)

    return (rectified(0.0) - rectified(6.0)).float()
