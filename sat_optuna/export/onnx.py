"""Networks as ONNX files; onnxruntime runs them."""

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
from sat_optuna.export.program import BATCH, quiet, root_cause

__all__ = ["check_onnx", "read_onnx", "write_onnx"]

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_KEY = "sat_optuna"
# Loggers that print many lines about what becomes one sentence here.
_TALKATIVE = ("torch.onnx", "onnxscript")


def check_onnx(opset: int | None = None) -> None:
    """Make sure that the packages of the extra `onnx` are installed and know an opset.

    Args:
        opset: version of the ONNX operators; None for torch's choice.

    Raises:
        ExportError: a package is missing, or there is no such opset.
    """
    if not all(importlib.util.find_spec(name) for name in _PACKAGES):
        raise ExportError(
            "export --to onnx needs onnx, onnxscript and onnxruntime; install them with: "
            "pip install 'sat_optuna[onnx]'"
        )
    if opset is None:
        return
    import onnx

    latest = onnx.defs.onnx_opset_version()
    if not 1 <= opset <= latest:
        raise ExportError(
            f"opset {opset} given and the installed onnx knows 1 to {latest}; give one of them, "
            "or leave it out"
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
        example: (N, C, H, W) images with N at least 2; torch takes a dimension of 1 as fixed.
        opset: version of the ONNX operators; None for torch's choice.

    Returns:
        The opset of the file.

    Raises:
        ExportError: torch cannot write the network, or not in that opset.
    """
    program = _program(network, example, opset)
    written = int(program.model.opset_imports[""])
    _check_opset(opset, written)
    program.model.metadata_props[_KEY] = json.dumps(record)
    path.write_bytes(program.model_proto.SerializeToString())
    return written


def _program(network: nn.Module, example: Tensor, opset: int | None) -> "torch.onnx.ONNXProgram":
    with quiet(), _silent_loggers():
        try:
            return cast(
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
        except Exception as error:  # torch raises any type of error here
            raise ExportError(
                f"torch.onnx cannot write this network ({root_cause(error)}); write safetensors "
                "or torch-export"
            ) from error


def _check_opset(asked: int | None, written: int) -> None:
    """Refuse another opset than was asked for; torch itself only logs that it took another."""
    if asked is None or asked == written:
        return
    if asked > written:
        raise ExportError(
            f"torch.onnx cannot write this network in opset {asked} yet; leave the opset out, or "
            f"give {written}"
        )
    raise ExportError(
        f"ONNX opset {asked} lacks an operator of this network, or torch cannot write it; leave "
        f"the opset out, or give {written}"
    )


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
    except Exception as error:  # onnxruntime raises any type of error
        raise ExportError(
            f"onnxruntime cannot run this network ({root_cause(error)}); choose another --opset, "
            "or write safetensors or torch-export"
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
