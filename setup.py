"""Packaging. The folders patches/ and data/shapes stand at the top and travel inside the package."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
NAME = "yolov5_prune_plugin"
VERSION = next(
    line.split('"')[1]
    for line in (HERE / NAME / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)
DATA = ["shapes/shapes.yaml", "shapes/images/*/*.jpg", "shapes/labels/*/*.txt", "shapes-yolov5n.pt", "README.md"]

setup(
    name="yolov5-prune-plugin",
    version=VERSION,
    description="Model compression for a stock YOLOv5: val.py --prune 0.3, no fork",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="AGPL-3.0-or-later",
    python_requires=">=3.9",
    packages=[*find_packages(include=[NAME, f"{NAME}.*"]), f"{NAME}.patches", f"{NAME}.data"],
    package_dir={f"{NAME}.patches": "patches", f"{NAME}.data": "data"},
    package_data={
        f"{NAME}.patches": ["*.yaml"],
        f"{NAME}.data": DATA,
        f"{NAME}.core.library": ["detector.c", "detector.h", "web/*"],
    },
    install_requires=[
        "torch>=2.1",
        "torchvision",
        "opencv-python",
        "pyyaml",
        "pycocotools",
        "pandas",
        "pluggy>=1.3",
        "packaging",
        "rich",
        "matplotlib",
        "filelock",
        "safetensors",
        "constriction>=0.4.2",
    ],
    extras_require={
        "demo": ["yolov5>=7.0.13,<7.1", "llvmlite>=0.44; python_version >= '3.10'"],
        "test": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "onnx",
            "build",
            "ultralytics",
            "ray>=2",
            "torch-pruning>=1.6",
            "onnxruntime",
            "openvino",
            "zstandard",
            "llvmlite>=0.44",
            "ziglang",
            "shtab",
        ],
        "completion": ["shtab"],
        "slim": ["torch-pruning>=1.6"],
        "runtime": ["llvmlite>=0.44"],
        "compile": ["llvmlite>=0.44", "ziglang"],
        "int8": ["onnx", "onnxruntime", "openvino", "nncf"],
        "bench": ["onnx", "onnxruntime", "openvino"],
        "ray": ["ray>=2"],
        "lint": ["ruff", "mypy"],
        "docs": ["mkdocs-material>=9", "latex2mathml"],
    },
    entry_points={"console_scripts": ["yolov5-prune = yolov5_prune_plugin.cli:main"]},
    classifiers=["Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Artificial Intelligence"],
)
