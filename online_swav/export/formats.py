"""The formats by name."""

from __future__ import annotations

from online_swav.export.format import Format
from online_swav.export.official import FORMAT as OFFICIAL
from online_swav.export.onnx_program import FORMAT as ONNX
from online_swav.export.safetensors_trunk import FORMAT as SAFETENSORS
from online_swav.export.torch_program import FORMAT as TORCH_EXPORT
from online_swav.export.torchvision_weights import FORMAT as TORCHVISION

FORMATS: dict[str, Format] = {
    format.name: format for format in (TORCHVISION, SAFETENSORS, ONNX, TORCH_EXPORT, OFFICIAL)
}
