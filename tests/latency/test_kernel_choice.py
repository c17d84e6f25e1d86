

def test_without_a_graph_the_fastest_collective_runs(document: dict[str, Any]) -> None:
    bundled = json.loads(profile_path("h100-sxm").read_text(encoding="utf-8"))
    sums = [part for part in bundled["kernels"] if part["op"] == "all_reduce"]
    nccl = next(part for part in sums if part["labels"]["kernel_source"] == "NCCL")
    custom = next(part for part in sums if part["labels"]["kernel_source"].endswith("graph"))
    plain = copied(custom, labels={"kernel_source": "TRTLLM"})
    document["kernels"] += [nccl, plain]
    found = KernelSet(ProfileFile.model_validate(document), "p.json").all_reduce()
    assert found is not None
    assert found.high["bytes"] == plain["high"]["bytes"]
    assert float(found.values[0]) == pytest.approx(plain["parameters"]["launch_s"])
