#!/usr/bin/env python3
"""Writes the GGUF fixtures with the gguf package: a small model as llama.cpp's converter would, and blocks with their values.

    make_gguf.py DIR OUT [TYPE]  DIR: the tiny model of tests/support/tiny_model.h as safetensors, dense or a mixture, or any
                               other; TYPE of the matrices: F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
    make_gguf.py --blocks OUT  random blocks of every type, and what the package makes of them
"""
import json, sys
import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as T
from gguf.quants import quantize, dequantize
from safetensors.numpy import save_file

DIRECT = {
    "self_attn.q_proj.weight": "attn_q.weight", "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight", "self_attn.o_proj.weight": "attn_output.weight",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight", "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
}
NORMS = {
    "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "post_attention_norm.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.k_norm.weight": "attn_k_norm.weight",
}


def blocks(out):
    rng, tensors = np.random.default_rng(7), {}
    for t, size, halves in [(T.Q4_0, 18, [0]), (T.Q4_1, 20, [0, 2]), (T.Q5_0, 22, [0]), (T.Q5_1, 24, [0, 2]),
                            (T.Q8_0, 34, [0]), (T.Q4_K, 144, [0, 2]), (T.Q5_K, 176, [0, 2]), (T.Q6_K, 210, [208])]:
        raw = rng.integers(0, 256, (4, size), dtype=np.uint8)
        for at in halves:
            raw[:, at:at + 2] = rng.normal(0, 0.05, 4).astype(np.float16).view(np.uint8).reshape(4, 2)
        tensors[f"{int(t)}.raw"] = raw
        tensors[f"{int(t)}.f32"] = np.ascontiguousarray(dequantize(raw, t).astype(np.float32))
    save_file(tensors, out)


def load_file(path):
    """As the safetensors package does, BF16 too."""
    raw = np.memmap(path, np.uint8)
    n = int(raw[:8].view(np.uint64)[0])
    types, tensors = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}, {}
    for name, t in json.loads(bytes(raw[8:8 + n])).items():
        if name != "__metadata__":
            a, b = (8 + n + x for x in t["data_offsets"])
            v = np.array(raw[a:b]).view(types[t["dtype"]]).reshape(t["shape"])
            tensors[name] = (v.astype(np.uint32) << 16).view(np.float32) if t["dtype"] == "BF16" else v
    return tensors


def tokenizer(g, source, vocab):
    """Tokens, their kinds (3: control) and merges of tokenizer.json, where there is one."""
    try:
        t = json.load(open(f"{source}/tokenizer.json"))
    except FileNotFoundError:
        return
    names, kinds = [f"[PAD{i}]" for i in range(vocab)], [5] * vocab
    for name, i in t["model"]["vocab"].items():
        names[i], kinds[i] = name, 1
    for a in t["added_tokens"]:
        names[a["id"]], kinds[a["id"]] = a["content"], 3
    g.add_tokenizer_model("gpt2"); g.add_tokenizer_pre("qwen35")
    g.add_token_list(names); g.add_token_types(kinds)
    g.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in t["model"]["merges"]])


def model(source, out, kind_name=None):
    c = json.load(open(f"{source}/config.json"))
    w = {k.removeprefix("model."): v for k, v in load_file(f"{source}/model.safetensors").items()}
    moe = "num_experts" in c
    arch = "qwen35moe" if moe else "qwen35"
    g = GGUFWriter(out, arch)
    hk, hv, dk, dv = (c[f"linear_{n}"] for n in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim"))
    kind = T[kind_name] if kind_name else T.Q8_0 if moe else T.F16
    tokenizer(g, source, c["vocab_size"])
    if kind_name:  # llama.cpp's own programs want it
        g.add_rope_dimension_sections([11, 11, 10, 0])
    u = lambda key, value: g.add_uint32(f"{arch}.{key}", value)
    g.add_block_count(c["num_hidden_layers"]); g.add_context_length(512); g.add_embedding_length(c["hidden_size"])
    g.add_head_count(c["num_attention_heads"]); g.add_head_count_kv(c["num_key_value_heads"])
    g.add_key_length(c["head_dim"]); g.add_value_length(c["head_dim"]); g.add_layer_norm_rms_eps(c["rms_norm_eps"])
    g.add_rope_freq_base(1e7); g.add_rope_dimension_count(c["head_dim"] // 4)
    u("full_attention_interval", 4); u("ssm.conv_kernel", 4); u("ssm.state_size", dk); u("ssm.group_count", hk)
    u("ssm.time_step_rank", hv); u("ssm.inner_size", hv * dv)
    if moe:
        u("expert_count", c["num_experts"]); u("expert_used_count", c["num_experts_per_tok"])
        u("expert_feed_forward_length", c["moe_intermediate_size"])
        u("expert_shared_feed_forward_length", c["shared_expert_intermediate_size"])
    else:
        u("feed_forward_length", c["intermediate_size"])


    def put(name, a):
        a = np.ascontiguousarray(a, dtype=np.float32)
        # llama.cpp keeps vectors, routers and rows that are no whole blocks as they are
        if a.ndim < 2 or "conv1d" in name or "gate_inp" in name:
            g.add_tensor(name, a)
        elif kind == T.F16 or a.shape[-1] % 32 and kind != T.BF16:
            g.add_tensor(name, a.astype(np.float16))
        else:
            g.add_tensor(name, quantize(a, kind), raw_dtype=kind)

    def tiled(a, size, first=0, axis=0):
        """Value heads [hk][hv / hk] become [hv / hk][hk]."""
        a = np.moveaxis(a, axis, 0)
        v = a[first:].reshape(hk, hv // hk, size, *a.shape[1:]).swapaxes(0, 1).reshape(a[first:].shape)
        return np.moveaxis(np.concatenate([a[:first], v]), 0, axis)

    keys = 2 * hk * dk
    put("token_embd.weight", w["embed_tokens.weight"]); put("output.weight", w["lm_head.weight"])
    put("output_norm.weight", w["norm.weight"] + np.float32(1))
    for name, a in w.items():
        if not name.startswith("layers."):
            continue
        _, i, rest = name.split(".", 2)
        b = f"blk.{i}."
        if rest in DIRECT: put(b + DIRECT[rest], a)
        elif rest in NORMS: put(b + NORMS[rest], a + np.float32(1))
        elif rest == "linear_attn.in_proj_qkv.weight": put(b + "attn_qkv.weight", tiled(a, dv, keys))
        elif rest == "linear_attn.in_proj_z.weight": put(b + "attn_gate.weight", tiled(a, dv))
        elif rest == "linear_attn.in_proj_a.weight": put(b + "ssm_alpha.weight", tiled(a, 1))
        elif rest == "linear_attn.in_proj_b.weight": put(b + "ssm_beta.weight", tiled(a, 1))
        elif rest == "linear_attn.conv1d.weight": put(b + "ssm_conv1d.weight", tiled(a[:, 0], dv, keys))
        elif rest == "linear_attn.A_log": put(b + "ssm_a", -np.exp(tiled(a, 1)))
        elif rest == "linear_attn.dt_bias": put(b + "ssm_dt.bias", tiled(a, 1))
        elif rest == "linear_attn.out_proj.weight": put(b + "ssm_out.weight", tiled(a, dv, axis=1))
        elif rest == "mlp.shared_expert_gate.weight": put(b + "ffn_gate_inp_shexp.weight", a[0])
        elif rest == "mlp.experts.gate_up_proj":
            half = a.shape[1] // 2
            put(b + "ffn_gate_exps.weight", a[:, :half]); put(b + "ffn_up_exps.weight", a[:, half:])
        else: sys.exit(f"no name for {name}")
    g.write_header_to_file(); g.write_kv_data_to_file(); g.write_tensors_to_file(); g.close()


if sys.argv[1] == "--blocks":
    blocks(sys.argv[2])
else:
    model(*sys.argv[1:4])
