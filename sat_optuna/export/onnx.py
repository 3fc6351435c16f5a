"""Networks as ONNX files, and onnxruntime to run them."""

import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sat_optuna.export import ExportError
from sat_optuna.export.program import BATCH, quiet, reason

__all__ = ["check_onnx", "read_onnx", "write_onnx"]

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_KEY = "sat_optuna"
# Loggers that tell in several lines what becomes one sentence here.
_TALKATIVE = ("torch.onnx", "onnxscript")


def check_onnx() -> None:
    """Make sure that the packages of the extra `onnx` are there.

    Raises:
        ExportError: one is missing.
    """
    if not all(importlib.util.find_spec(name) for name in _PACKAGES):
        raise ExportError(
            "export --to onnx needs onnx, onnxscript and onnxruntime; install them with: "
            "pip install 'sat_optuna[onnx]'"
        )


def write_onnx(
    network: nn.Module,
    record: Mapping[str, Any],
    path: Path,
    *,
    example: Tensor,
    opset: int | None,
) -> int:
    """Write a network as one ONNX file with the record among its metadata.

    Args:
        network: in eval mode.
        record: JSON values.
        path: the file.
        example: (N, C, H, W) images, two at least: a dimension of 1 would be taken for fixed.
        opset: of the operators; None for torch's own choice.

    Returns:
        The opset of the file.

    Raises:
        ExportError: torch cannot write the network, or not in that opset.
    """
    with quiet(), _silent_loggers():
        try:
            program = cast(
                "torch.onnx.ONNXProgram",
                torch.onnx.export(
                    network,
                    (example,),
                    input_names=["images"],
                    output_names=["logits"],
                    dynamic_shapes=BATCH,
                    opset_version=opset,
                    dynamo=True,
                    verbose=False,
                ),
            )
        except Exception as error:  # torch has no common type for what stops a trace
            raise ExportError(
                f"torch.onnx cannot write this network ({reason(error)}); write safetensors or "
                "torch-export"
            ) from error
    written = int(program.model.opset_imports[""])
    # Where an operator is missing, torch falls back on another opset with a mere remark.
    if opset not in (None, written):
        raise ExportError(
            f"ONNX opset {opset} lacks an operator of this network, or torch cannot write it; "
            f"leave the opset out, or give {written}"
        )
    program.model.metadata_props[_KEY] = json.dumps(record)
    path.write_bytes(program.model_proto.SerializeToString())
    return written


def read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the network of an ONNX file, run by onnxruntime on the CPU.

    Raises:
        ExportError: onnxruntime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has no common type either
        raise ExportError(
            f"onnxruntime cannot run this network ({reason(error)}); choose another --opset, or "
            "write safetensors or torch-export"
        ) from error

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


@contextmanager
def _silent_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
