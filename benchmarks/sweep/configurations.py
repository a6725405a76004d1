"""What the configurations of the architectures share: small sizes, by family."""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]

CLASSES = 5
PAD, EOS = 0, 2

LABELS: Settings = {"num_labels": CLASSES}
TOKENS: Settings = {"vocab_size": 64, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS, **LABELS}
TEXT: Settings = {
    **TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
GROUPED: Settings = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
GPT2: Settings = {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
D_MODEL: Settings = {
    **TOKENS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": EOS,
}
T5: Settings = {
    **TOKENS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": EOS,
}
EXPERTS: Settings = {**GROUPED, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
VIT: Settings = {
    **LABELS,
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
SWIN: Settings = {
    **LABELS,
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
STAGES: Settings = {**LABELS, "hidden_sizes": [16, 32], "depths": [1, 1]}
SPEECH: Settings = {
    **LABELS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
}
