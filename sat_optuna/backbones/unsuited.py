"""Networks people ask for in which attention has no place, and the nearest one that has it."""

import re

__all__ = ["instead_of"]

_NO_BLOCK = "it has no residual block with a branch and a shortcut, and the nearest that has is"
_ELSEWHERE = "its like that works is"

# By what a name begins with: why it cannot be taken, and what can be.
_INSTEAD = {
    "alexnet": (_NO_BLOCK, "resnet18"),
    "deit": (_NO_BLOCK, "timm:convnext_tiny"),
    "densenet": (_NO_BLOCK, "resnet50"),
    "googlenet": (_NO_BLOCK, "resnet18"),
    "inception": (_NO_BLOCK, "resnet50"),
    "squeezenet": (_NO_BLOCK, "resnet18"),
    "swin": (_NO_BLOCK, "timm:convnext_tiny"),
    "vgg": (_NO_BLOCK, "resnet18"),
    "vision_transformer": (_NO_BLOCK, "timm:convnext_tiny"),
    "vit": (_NO_BLOCK, "timm:convnext_tiny"),
    "convnext": (_ELSEWHERE, "timm:convnext_tiny"),
    "efficientnet": (_ELSEWHERE, "timm:efficientnet_b0"),
    "mnasnet": (_ELSEWHERE, "timm:efficientnet_b0"),
    "mobilenet": (_ELSEWHERE, "timm:mobilenetv3_large_100"),
    "regnet": (_ELSEWHERE, "timm:regnety_016"),
}


def instead_of(name: str) -> str:
    """Return why a network cannot be taken and which can be; the empty text where none is known.

    >>> instead_of("torchvision.models.efficientnet.EfficientNet")
    "; its like that works is 'timm:efficientnet_b0',"
    >>> instead_of("timm:vgg16") != "", instead_of("resnet21")
    (True, '')

    Args:
        name: of a backbone, or the full name of a network's type.
    """
    words = re.split(r"[.:]", name.lower())
    for begin, (reason, other) in _INSTEAD.items():
        if any(word.startswith(begin) for word in words):
            return f"; {reason} {other!r},"
    return ""
