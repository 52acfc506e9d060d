#!/usr/bin/env python3
"""check_export.py DIR SOURCE: loads what convert --to wrote with the safetensors package, decodes it by the rules of the
format (by the compressed-tensors package too where it is installed), and compares with the weights of SOURCE."""
import json, struct, sys
import numpy as np

out, source = sys.argv[1:3]


def load(path):
    """Also BF16, which numpy does not have."""
    from safetensors import safe_open
    tensors = {}
    raw = open(path, "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    with safe_open(path, framework="np") as f:
        assert set(f.keys()) == set(header) - {"__metadata__"}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        a, b = (8 + n + x for x in t["data_offsets"])
        if t["dtype"] == "BF16":
            v = (np.frombuffer(raw[a:b], np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            v = np.frombuffer(raw[a:b], {"F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8"}[t["dtype"]])
        tensors[name] = v.reshape(t["shape"])
    return tensors


def fields(words, axis):
    """Eight codes a word along an axis, the lowest bits first."""
    w = np.moveaxis(words.view(np.uint32), axis, -1)
    codes = (w[..., None] >> (4 * np.arange(8, dtype=np.uint32)) & 15).reshape(*w.shape[:-1], -1)
    return np.moveaxis(codes, -1, axis).astype(np.float32)


def decode(m, t):
    if m + ".qweight" in t:
        g = t[m + ".g_idx"]
        zeros = fields((t[m + ".qzeros"].view(np.uint32) + np.uint32(0x11111111)).view(np.int32), 1)
        w = t[m + ".scales"].astype(np.float32)[g] * (fields(t[m + ".qweight"], 0) - zeros[g])
        return w.T
    scale = t[m + ".weight_scale"].astype(np.float32)
    rows, cols = t[m + ".weight_shape"]
    g = t.get(m + ".weight_g_idx", np.arange(cols) // (cols // scale.shape[1]))
    zero = fields(t[m + ".weight_zero_point"], 0)[:rows] if m + ".weight_zero_point" in t else np.full_like(scale, 8)
    return scale[:, g] * (fields(t[m + ".weight_packed"], 1) - zero[:, g])


def package(m, t):
    """The same by the compressed-tensors package, None without it."""
    try:
        import torch
        try:
            from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
        except ImportError:  # older releases
            from compressed_tensors.compressors.quantized_compressors.pack_quantized import unpack_from_int32
    except ImportError:
        return None
    torch_of = lambda k: torch.from_numpy(np.array(t[m + k]))
    codes = unpack_from_int32(torch_of(".weight_packed"), 4, torch.Size(t[m + ".weight_shape"].tolist())).float()
    scale = torch_of(".weight_scale").float()
    zero = torch.zeros_like(scale)
    if m + ".weight_zero_point" in t:
        zero = unpack_from_int32(torch_of(".weight_zero_point"), 4, scale.shape, packed_dim=0).float()
    size = codes.shape[1] // scale.shape[1]
    return (scale.repeat_interleave(size, 1) * (codes - zero.repeat_interleave(size, 1))).numpy()


config, t, want = json.load(open(out + "/config.json")), load(out + "/model.safetensors"), load(source + "/model.safetensors")
assert config["quantization_config"]["quant_method"] in ("gptq", "compressed-tensors")
n = by_package = 0
for name in want:
    m = name.removesuffix(".weight")
    if m + ".qweight" not in t and m + ".weight_packed" not in t:
        if not name.startswith("model.visual."):
            assert name in t and np.array_equal(t[name].reshape(-1), want[name].astype(np.float32).reshape(-1)), name
        continue
    w = decode(m, t)
    assert w.shape == want[name].shape, (name, w.shape)
    error = np.sqrt(np.mean((w - want[name]) ** 2) / np.mean(want[name] ** 2))
    assert error < 0.2, (name, error)
    if m + ".weight_packed" in t and (p := package(m, t)) is not None:
        assert np.array_equal(p, w), name
        by_package += 1
    n += 1
assert n > 10
print(f"{n} matrices within what 4 bits cost; {by_package} equal to the compressed-tensors package")
