"""Law: a named device is that device or an error that says what is missing; ``auto`` says what it chose and why."""

from __future__ import annotations

import pytest
import torch

from skillaxes import devices
from skillaxes.errors import DeviceError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs that answer, for the arithmetic of indices."""
    monkeypatch.setattr(devices, "missing_for_cuda", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")


def test_the_cpu_is_always_there() -> None:
    assert devices.resolve("cpu") == (torch.device("cpu"), "asked for")


def test_auto_without_a_gpu_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "missing_for_cuda", lambda: "torch 9 is not a CUDA build")
    monkeypatch.setattr(devices, "driver_version", lambda: "570.1")
    assert devices.resolve("auto") == (torch.device("cpu"), "torch 9 is not a CUDA build")
    monkeypatch.setattr(devices, "driver_version", lambda: None)
    assert devices.resolve("auto").reason == "no NVIDIA driver"


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_missing_gpu_is_an_error_that_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(devices, "driver_version", lambda: None)
    with pytest.raises(DeviceError, match=rf"--device {name}: .*not a CUDA build and no NVIDIA driver.*--device cpu"):
        devices.resolve(name)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(DeviceError, match="no NVIDIA driver is loaded"):
        devices.resolve(name)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(devices, "driver_version", lambda: "570.1")
    with pytest.raises(DeviceError, match=r"--device [^:]+(:\d)?: torch \S+ is not a CUDA build;"):
        devices.resolve(name)


def test_a_hidden_gpu_is_told_from_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(devices, "driver_version", lambda: "470.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.missing_for_cuda() == "no GPU is visible (CUDA_VISIBLE_DEVICES='')"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "470.1" in str(devices.missing_for_cuda())


@pytest.mark.usefixtures("gpus")
def test_processes_share_the_gpus_in_turn() -> None:
    assert [devices.resolve("auto", local_rank=i).device.index for i in range(4)] == [0, 1, 0, 1]
    assert devices.resolve("cuda", local_rank=3) == (torch.device("cuda", 1), "card 1")
    assert devices.resolve("cuda:1").device == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="cuda:0 to cuda:1"):
        devices.resolve("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "auto:1", "", "CUDA"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(DeviceError, match="use auto, cpu, cuda or cuda:N"):
        devices.resolve(name)
