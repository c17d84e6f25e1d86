

def test_microseconds_taken_for_milliseconds_are_refused(tmp_path):
    """A thousand times slower than memory is a kernel of no engine."""
    kv = 64 * 32768 * 8 * 128 * 2 * 2
    frame = decode(batch_size=64, step=32767, latency=kv / 6e12 * 1e6)
    with pytest.raises(DataError, match="milliseconds"):
        check_rates(read(tmp_path, frame).families, 7.7e12, 126e6)


def test_what_few_rows_cannot_fix_is_named_with_the_rows_it_needs(tmp_path):
    from kvplan.latency.fit.calibrate import calibrate

    frame = pd.concat([gemm("bfloat16"), gemm("fp8", 9)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    profile, _ = calibrate([str(tmp_path / "t.csv")])
    assert [part.labels["gemm_dtype"] for part in profile.kernels] == ["bfloat16"]
    (note,) = profile.notes
    assert "gemm torch_flow fp8" in note
    assert "more than 15" in note


def test_a_device_under_another_name_is_told_the_nearest(tmp_path):
    from kvplan.latency.fit.calibrate import calibrate

    gemm("bfloat16", device="NVIDIA GB200 NVL").to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="has no spec") as caught:
        calibrate([str(tmp_path / "t.csv")])
    assert "gb200" in caught.value.hint
