"""A GPU is found however its name is spelt, and none is found that is another one."""

from __future__ import annotations

import pytest

from kvplan.errors import UnknownName
from kvplan.specs.catalog import entries, load_gpu
from kvplan.specs.gpu_names import Called, meant
from kvplan.specs.instances import _AWS, _GOOGLE, gpu_of_instance

GPUS = [entry for entry in entries("gpu") if entry.origin == "bundled"]


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("H100 PCIe", "h100-pcie"),
        ("H100-SXM5-80GB", "h100-sxm"),
        ("h100 80 GB", "h100-sxm"),
        ("nvidia-h100-80gb-hbm3", "h100-sxm"),
        ("NVIDIA_H100_80GB_HBM3", "h100-sxm"),
        ("NVIDIA H100", "h100-sxm"),
        ("h100 nvl 94gb", "h100-nvl"),
        ("DGX H100", "h100-sxm"),
        ("A100-SXM-80GB", "a100-80g"),
        ("a100 40gb", "a100-40g"),
        ("A100 40GB PCIe", "a100-40g-pcie"),
        ("A100 PCIe", "a100-80g-pcie"),
        ("H200 141GB", "h200-sxm"),
        ("h200 sxm5 141gb", "h200-sxm"),
        ("b200 192gb", "b200"),
        ("B200 180GB", "b200"),
        ("GB200 NVL72", "gb200"),
        ("gh200 480gb", "gh200-96g"),
        ("GH200 144GB", "gh200-144g"),
        ("H20 141GB", "h20-141g"),
        ("rtx4090", "rtx-4090"),
        ("RTX 4090 24GB", "rtx-4090"),
        ("RTX 4070 Ti SUPER", "rtx-4070-ti-super"),
        ("rtx_a6000", "rtx-a6000"),
        ("RTX 6000 Ada", "rtx-6000-ada"),
        ("RTX PRO 5000 Blackwell 72GB", "rtx-pro-5000-72g"),
        ("L40S PCIe", "l40s"),
        ("v100 pcie 16gb", "v100-16g-pcie"),
        ("AMD_Instinct_MI300X", "mi300x"),
        ("AMD Instinct MI300X OAM", "mi300x"),
        ("AMD_Radeon_RX7900XTX", "rx-7900-xtx"),
        ("DGX Spark", "gb10"),
    ],
)
def test_spellings(spelt: str, name: str) -> None:
    assert load_gpu(spelt).name == name


@pytest.mark.parametrize(
    "name",
    [
        "A100-SXM-64GB",  # a special edition
        "RTX 4090 48GB",  # with more memory than NVIDIA sells
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "RTX 6000",  # there are three
        "H100 PCIe 94GB",
        "H20 PCIe",
        "A10 0",
        "nvidia",
        "80GB",
        "",
    ],
)
def test_what_is_another_gpu_or_none_is_not_guessed(name: str) -> None:
    with pytest.raises(UnknownName):
        load_gpu(name)


def test_no_two_gpus_have_a_name_of_the_same_parts() -> None:
    owners: dict[Called, set[str]] = {}
    for entry in GPUS:
        for spelt in (entry.name, *entry.aliases()):
            owners.setdefault(Called.read(spelt), set()).add(entry.name)
    assert not {called: own for called, own in owners.items() if len(own) > 1}


def test_device_names_are_read_as_clusters_and_engines_write_them() -> None:
    for entry in GPUS:
        for device in entry.aliases():
            assert Called.read(device.replace(" ", "_")) == Called.read(device)
            assert Called.read(device.replace(" ", "-").lower()) == Called.read(device)


def test_of_several_the_bare_name_is_meant() -> None:
    names = {"x1-sxm": ("x1-sxm", "x1"), "x1-pcie": ("x1-pcie",)}
    sizes = {"x1-sxm": 80, "x1-pcie": 80}
    assert meant("x1 80gb", names, sizes.__getitem__) == "x1-sxm"
    assert meant("x1 pcie 80gb", names, sizes.__getitem__) == "x1-pcie"
    assert meant("x1 40gb", names, sizes.__getitem__) is None
    names["x1-sxm"] = ("x1-sxm",)
    assert meant("x1 80gb", names, sizes.__getitem__) is None  # which of the two?
    del names["x1-sxm"]
    assert meant("x1 80gb", names, sizes.__getitem__) == "x1-pcie"


@pytest.mark.parametrize(
    ("instance", "gpu"),
    [
        ("p5.48xlarge", "h100-sxm"),
        ("g5.xlarge", "a10g"),
        ("p6-b200.48xlarge", "b200"),
        ("a3-highgpu-8g", "h100-sxm"),
    ],
)
def test_an_instance_says_which_gpu_it_has(instance: str, gpu: str) -> None:
    with pytest.raises(UnknownName, match=f"{instance} is an instance with {gpu}"):
        load_gpu(instance)


def test_instances_have_gpus_that_are_known() -> None:
    assert {*_AWS.values(), *_GOOGLE.values()} <= {entry.name for entry in GPUS}
    assert gpu_of_instance("m7i.large") is None
    assert gpu_of_instance("h100") is None
