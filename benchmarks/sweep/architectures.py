"""The architectures of the sweep, as data: small configurations of the models of transformers and timm.

Random weights, no file is fetched. Each is small enough that its Fisher and a float64 loop over its samples take a
second or two. Everything that a user gets without asking is left on, such as the caches of decoders.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from configurations import (
    CLASSES,
    D_MODEL,
    EXPERTS,
    GPT2,
    GROUPED,
    LABELS,
    SPEECH,
    STAGES,
    SWIN,
    T5,
    TEXT,
    TOKENS,
    VIT,
    Settings,
)

__all__ = ["ARCHITECTURES", "FEW", "LARGE", "Architecture"]


class Architecture(NamedTuple):
    """One model of a library.

    Attributes:
        family: What kind of network it is.
        model: The class in transformers, or the name in timm.
        settings: Of its configuration.
        inputs: What it is given: "text", "text pair" (encoder-decoder; with ", full" unpadded), "image", "video",
            "waveform", "features", "series".
        size: Tokens, side of the images, or number of values.
        task: "classes", "tokens" (a label per token) or "pixels".
        samples: N.
    """

    family: str
    model: str
    settings: Settings
    inputs: str = "image"
    size: int = 32
    task: str = "classes"
    samples: int = 3

    @property
    def library(self) -> str:
        """Which library has it."""
        return "transformers" if self.model[0].isupper() else "timm"


def _text(family: str, base: Settings, *models: str, task: str = "classes", **more: Any) -> list[Architecture]:
    return [Architecture(family, model, {**base, **more}, "text", 12, task) for model in models]


def _pair(base: Settings, *models: str, task: str = "tokens", **more: Any) -> list[Architecture]:
    return [Architecture("encoder-decoder", model, {**base, **more}, "text pair", 10, task) for model in models]


def _image(family: str, size: int, *models: str, task: str = "classes", **settings: Any) -> list[Architecture]:
    return [Architecture(family, model, settings, "image", size, task) for model in models]


def _other(
    family: str, inputs: str, size: int, base: Settings, *models: str, task: str = "classes", **more: Any
) -> list[Architecture]:
    return [Architecture(family, model, {**base, **more}, inputs, size, task) for model in models]


_ALL: list[Architecture] = [
    # text encoders
    *_text(
        "text encoder", TEXT,
        "BertForSequenceClassification", "RobertaForSequenceClassification", "ElectraForSequenceClassification",
        "XLMRobertaForSequenceClassification", "ErnieForSequenceClassification", "MPNetForSequenceClassification",
        "RemBertForSequenceClassification", "RoFormerForSequenceClassification",
            "NystromformerForSequenceClassification",
        "Data2VecTextForSequenceClassification", "MegatronBertForSequenceClassification",
    ),
    *_text("text encoder", TEXT, "AlbertForSequenceClassification", embedding_size=16),
    *_text("text encoder", TEXT, "ConvBertForSequenceClassification", embedding_size=16, conv_kernel_size=3),
    *_text("text encoder", TEXT, "EsmForSequenceClassification", mask_token_id=3, position_embedding_type="rotary"),
    *_text("text encoder", TEXT, "SqueezeBertForSequenceClassification", embedding_size=32),
    *_text("text encoder", TEXT, "IBertForSequenceClassification"),
    *_text("text encoder", TEXT, "FNetForSequenceClassification"),
    *_text("text encoder", TEXT, "LongformerForSequenceClassification", attention_window=[4, 4]),
    *_text("text encoder", TEXT, "BigBirdForSequenceClassification", attention_type="original_full"),
    *_text("text encoder", TEXT, "MobileBertForSequenceClassification", intra_bottleneck_size=16, embedding_size=16,
           true_hidden_size=16, num_feedforward_networks=2),
    *_text("text encoder", TOKENS, "DistilBertForSequenceClassification", dim=32, n_layers=2, n_heads=4, hidden_dim=48,
           max_position_embeddings=64),
    *_text("text encoder", TEXT, "DebertaForSequenceClassification", "DebertaV2ForSequenceClassification",
           relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False),
    *_text("text encoder", TOKENS, "XLNetForSequenceClassification", d_model=32, n_layer=2, n_head=4, d_inner=48),
    *_text("text encoder", TOKENS, "XLMForSequenceClassification", "FlaubertForSequenceClassification", emb_dim=32,
           n_layers=2, n_heads=4, max_position_embeddings=64),
    *_text("text encoder", TOKENS, "FunnelForSequenceClassification", d_model=32, n_head=4, d_head=8, d_inner=48,
           block_sizes=[1, 1]),
    *_text("text encoder", TEXT, "ModernBertForSequenceClassification", "EuroBertForSequenceClassification",
           num_key_value_heads=4),
    *_text("token labels", TEXT, "BertForTokenClassification", "BertForMaskedLM", "ModernBertForTokenClassification",
           task="tokens"),
    *_text("token labels", TEXT, "DebertaV2ForTokenClassification", relative_attention=True,
           pos_att_type=["c2p", "p2c"], position_biased_input=False, task="tokens"),
    # decoders
    *_text("decoder", GPT2, "GPT2ForSequenceClassification", "OpenAIGPTForSequenceClassification",
           "CTRLForSequenceClassification", dff=48),
    *_text("decoder", GPT2, "GPTJForSequenceClassification", rotary_dim=4),
    *_text("decoder", GPT2, "GPTBigCodeForSequenceClassification"),
    *_text("decoder", TEXT, "GPTNeoForSequenceClassification", num_layers=2, num_heads=4,
            attention_types=[[["global", "local"], 1]], window_size=4),
    *_text("decoder", TEXT, "GPTNeoXForSequenceClassification"),
    *_text("decoder", TEXT, "OPTForSequenceClassification", ffn_dim=48, word_embed_proj_dim=16),
    *_text("decoder", TOKENS, "BloomForSequenceClassification", hidden_size=32, n_layer=2, n_head=4),
    *_text("decoder", TOKENS, "MptForSequenceClassification", d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    *_text("decoder", TEXT, "FalconForSequenceClassification", new_decoder_architecture=True, num_kv_heads=2),
    *_text("decoder", TEXT, "BioGptForSequenceClassification"),
    *_text("decoder", GROUPED, "LlamaForSequenceClassification", "MistralForSequenceClassification",
           "Qwen2ForSequenceClassification", "Qwen3ForSequenceClassification", "GemmaForSequenceClassification",
           "Gemma2ForSequenceClassification", "Gemma3TextForSequenceClassification", "PhiForSequenceClassification",
           "Phi3ForSequenceClassification", "StableLmForSequenceClassification", "SmolLM3ForSequenceClassification",
           "PersimmonForSequenceClassification"),
    *_text("decoder", GROUPED, "Olmo2ForCausalLM", "CohereForCausalLM", "GraniteForCausalLM", task="tokens"),
    *_text("token labels", GPT2, "GPT2ForTokenClassification", "GPT2LMHeadModel", task="tokens"),
    *_text("token labels", GROUPED, "LlamaForTokenClassification", task="tokens"),
    # mixture of experts
    *_text("mixture of experts", EXPERTS, "MixtralForSequenceClassification", "GptOssForSequenceClassification",
           "PhimoeForSequenceClassification"),
    *_text("mixture of experts", EXPERTS, "Qwen2MoeForSequenceClassification", "Qwen3MoeForSequenceClassification",
           moe_intermediate_size=24, shared_expert_intermediate_size=24),
    *_text("mixture of experts", EXPERTS, "OlmoeForCausalLM", "GraniteMoeForCausalLM", task="tokens"),
    *_text("mixture of experts", TEXT, "DeepseekV3ForSequenceClassification", num_key_value_heads=4, q_lora_rank=16,
           kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_group=2,
           topk_group=1, num_experts_per_tok=2, moe_intermediate_size=24, first_k_dense_replace=1),
    # state-space and recurrent models
    *_text("state space", TOKENS, "MambaForCausalLM", hidden_size=32, num_hidden_layers=2, state_size=4,
            task="tokens"),
    *_text("state space", TOKENS, "FalconMambaForCausalLM", hidden_size=32, num_hidden_layers=2, state_size=4,
            task="tokens"),
    *_text("state space", TOKENS, "Mamba2ForCausalLM", hidden_size=32, num_hidden_layers=2, state_size=4,
            head_dim=8, num_heads=8,
           expand=2, n_groups=1, chunk_size=4, task="tokens"),
    *_text("state space", TEXT, "RwkvForCausalLM", context_length=64, attention_hidden_size=32, use_cache=False,
            task="tokens"),
    *_text("hybrid text", EXPERTS, "JambaForSequenceClassification", mamba_d_state=4, mamba_dt_rank=4,
            attn_layer_period=2,
           attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, use_mamba_kernels=False),
    *_text("hybrid text", GROUPED, "RecurrentGemmaForCausalLM", lru_width=32, attention_window_size=8,
            num_hidden_layers=3,
           task="tokens"),
    *_text("hybrid text", GROUPED, "BambaForCausalLM", mamba_n_heads=8, mamba_d_head=8, mamba_d_state=4,
            mamba_n_groups=1,
           mamba_chunk_size=4, attn_layer_indices=[1], task="tokens"),
    *_text("hybrid text", GROUPED, "Lfm2ForCausalLM", layer_types=["conv", "full_attention"], task="tokens"),
    # encoder-decoders
    *_pair(D_MODEL, "BartForSequenceClassification", "MBartForSequenceClassification", task="classes"),
    *_pair(D_MODEL, "BartForConditionalGeneration", "MarianMTModel", "PegasusForConditionalGeneration",
           "M2M100ForConditionalGeneration", "BlenderbotSmallForConditionalGeneration"),
    # Its own gradient is NaN where a window of attention is all padding: texts of one length.
    *_other("encoder-decoder", "text pair, full", 10, D_MODEL, "LEDForConditionalGeneration", task="tokens",
            attention_window=[16, 16], max_encoder_position_embeddings=64,
           max_decoder_position_embeddings=64),
    *_pair(T5, "T5ForSequenceClassification", task="classes"),
    *_pair(T5, "T5ForConditionalGeneration", "MT5ForConditionalGeneration", "UMT5ForConditionalGeneration"),
    *_pair(T5, "SwitchTransformersForConditionalGeneration", num_experts=4, num_sparse_encoder_layers=1,
           num_sparse_decoder_layers=1, expert_capacity=64),
    # vision transformers
    *_image("vision transformer", 32, "ViTForImageClassification", "DeiTForImageClassification",
            "Dinov2ForImageClassification",
            "Dinov2WithRegistersForImageClassification", "ViTMSNForImageClassification",
            "BeitForImageClassification", **VIT),
    *_image("vision transformer", 32, "SwinForImageClassification", "Swinv2ForImageClassification", **SWIN),
    *_image("vision transformer", 32, "PvtV2ForImageClassification", **{**LABELS, "image_size": 32,
            "hidden_sizes": [8, 16, 16, 32],
            "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]}),
    *_image("vision transformer", 32, "SiglipForImageClassification", "CLIPForImageClassification", **LABELS,
            vision_config={
        key: value for key, value in VIT.items() if key != "num_labels"}),
    *_image("vision transformer", 32, "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224",
            "eva02_tiny_patch14_224",
            "vit_relpos_small_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=4),
    *_image("vision transformer", 32, "beit_base_patch16_224", "beitv2_base_patch16_224", img_size=32, patch_size=8,
            depth=2, embed_dim=48,
            num_heads=4),
    *_image("vision transformer", 32, "cait_xxs24_224", "xcit_nano_12_p8_224", img_size=32, patch_size=8, depth=2,
            embed_dim=48, num_heads=4),
    *_image("vision transformer", 64, "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", img_size=64,
            window_size=4,
            embed_dim=24, depths=(2, 2, 2), num_heads=(2, 2, 4)),
    *_image("vision transformer", 64, "hiera_tiny_224", img_size=64, embed_dim=24, stages=(1, 1, 1, 1)),
    *_image("vision transformer", 64, "pit_ti_224", img_size=64),
    *_image("vision transformer", 64, "pvt_v2_b0", "davit_tiny", "focalnet_tiny_srf"),
    *_image("vision transformer", 64, "convit_tiny", "coat_lite_tiny", img_size=64),
    *_image("vision transformer", 240, "crossvit_tiny_240"),
    *_image("vision transformer", 64, "mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224", img_size=64),
    # convolutions
    *_image("CNN", 32, "ResNetForImageClassification", "RegNetForImageClassification", **{**STAGES,
            "embedding_size": 8, "groups_width": 4}),
    *_image("CNN", 32, "ConvNextForImageClassification", "ConvNextV2ForImageClassification", **STAGES, num_stages=2),
    *_image("CNN", 32, "BitForImageClassification", **{**STAGES, "embedding_size": 8, "num_groups": 4}),
    *_image("CNN", 64, "MobileNetV2ForImageClassification", **LABELS, image_size=64, depth_multiplier=0.25),
    *_image("CNN", 64, "resnet10t", "resnext26ts", "seresnext26d_32x4d", "skresnet18", "efficientnet_b0",
            "mobilenetv3_small_050",
            "mobilenetv4_conv_small", "regnetx_002", "regnety_002", "convnext_atto", "convnextv2_atto",
            "densenet121", "repvgg_a0",
            "ghostnet_050", "hrnet_w18_small", "ese_vovnet19b_dw", "resnest14d", "inception_next_atto", "starnet_s1",
            "mambaout_femto"),
    *_image("CNN", 64, "nf_resnet26", "eca_nfnet_l0", "resnetv2_50"),
    # hybrids of both
    *_image("hybrid", 64, "MobileViTForImageClassification", "MobileViTV2ForImageClassification", **LABELS,
            image_size=64),
    *_image("hybrid", 64, "LevitForImageClassification", **LABELS, image_size=64, hidden_sizes=[16, 24, 32],
            num_attention_heads=[2, 2, 4],
            depths=[1, 1, 1], key_dim=[8, 8, 8]),
    *_image("hybrid", 64, "PoolFormerForImageClassification", **{**LABELS, "hidden_sizes": [8, 16, 16, 32],
            "depths": [1, 1, 1, 1]}),
    *_image("hybrid", 32, "FocalNetForImageClassification", **{**LABELS, "image_size": 32, "embed_dim": 16,
            "depths": [1, 1],
            "focal_levels": [2, 2], "focal_windows": [3, 3], "hidden_sizes": [16, 32]}),
    *_image("hybrid", 64, "mobilevit_xxs", "mobilevitv2_050", "edgenext_xx_small", "fastvit_t8", "efficientvit_b0",
            "poolformer_s12",
            ),
    *_image("hybrid", 224, "efficientformer_l1", "levit_128s"),
    *_image("hybrid", 64, "coatnet_nano_rw_224", "visformer_tiny", "botnet26t_256", img_size=64),
    # a label per pixel
    *_image("segmentation", 64, "SegformerForSemanticSegmentation", task="pixels", **{**LABELS, "hidden_sizes": [8,
            16, 16, 32],
            "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16}),
    *_image("segmentation", 64, "MobileViTForSemanticSegmentation", task="pixels", **LABELS, image_size=64),
    *_image("segmentation", 64, "MobileNetV2ForSemanticSegmentation", task="pixels", **LABELS, image_size=64,
            depth_multiplier=0.25),
    *_image("segmentation", 64, "BeitForSemanticSegmentation", task="pixels", **{**VIT, "image_size": 64,
            "patch_size": 16,
            "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "use_auxiliary_head": False, "pool_scales": [1, 2]}),
    *_image("segmentation", 64, "DPTForSemanticSegmentation", task="pixels", **{**VIT, "image_size": 64,
            "patch_size": 16,
            "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 16, 16, 32],
            "fusion_hidden_size": 16, "use_auxiliary_head": False, "is_hybrid": False}),
    # audio, video, series
    *_other("audio", "waveform", 1600, SPEECH, "Wav2Vec2ForSequenceClassification", "HubertForSequenceClassification",
            "WavLMForSequenceClassification", "UniSpeechSatForSequenceClassification",
            "Data2VecAudioForSequenceClassification",
            "Wav2Vec2ConformerForSequenceClassification"),
    *_other("audio", "waveform", 1600, SPEECH, "SEWForSequenceClassification", squeeze_factor=2),
    *_other("audio", "spectrogram", 64, VIT, "ASTForAudioClassification", max_length=64, num_mel_bins=16,
            frequency_stride=8,
            time_stride=8),
    *_other("audio", "features", 40, D_MODEL, "WhisperForAudioClassification", num_mel_bins=16,
            max_source_positions=20,
            classifier_proj_size=16),
    *_other("video", "video", 32, VIT, "VideoMAEForVideoClassification", "TimesformerForVideoClassification",
            num_frames=4, tubelet_size=2),
    *_other("video", "video", 32, VIT, "VivitForVideoClassification", num_frames=4, tubelet_size=[2, 8, 8]),
    *_other("series", "series", 32, {"num_targets": CLASSES, "num_input_channels": 2, "context_length": 32,
            "patch_length": 4, "patch_stride": 4},
            "PatchTSTForClassification", "PatchTSMixerForTimeSeriesClassification", d_model=16, num_hidden_layers=2,
            num_layers=2,
            num_attention_heads=4, ffn_dim=32, use_cls_token=True),
]  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {architecture.model: architecture for architecture in _ALL}

# What runs in every build, of each family one.
FEW = (
    "BertForSequenceClassification",
    "DebertaV2ForTokenClassification",
    "LlamaForSequenceClassification",
    "MixtralForSequenceClassification",
    "MambaForCausalLM",
    "T5ForSequenceClassification",
    "BeitForImageClassification",
    "SwinForImageClassification",
    "SegformerForSemanticSegmentation",
    "Wav2Vec2ForSequenceClassification",
    "resnet10t",
    "xcit_nano_12_p8_224",
    "hiera_tiny_224",
    "mobilevit_xxs",
)

_BATCH = 16
_LONG = 64  # tokens
_WIDE: Settings = {
    **TEXT,
    "vocab_size": 1000,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}
_WIDE_T5: Settings = {**T5, "vocab_size": 1000, "d_model": 256, "d_kv": 64, "d_ff": 1024}
_WIDE_VIT: Settings = {**VIT, "image_size": 64, "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024}

# What the bar for time is about: hidden size 256 and more, batches of 16.
LARGE: dict[str, Architecture] = {
    architecture.model: architecture._replace(
        samples=_BATCH, size=_LONG if architecture.inputs.startswith("text") else architecture.size
    )
    for architecture in (
        *_text("text encoder", _WIDE, "BertForSequenceClassification", "RobertaForSequenceClassification"),
        *_text("text encoder", _WIDE, "DebertaV2ForSequenceClassification", relative_attention=True,
               pos_att_type=["c2p", "p2c"], position_biased_input=False),
        *_text("decoder", _WIDE, "LlamaForSequenceClassification", "Qwen2ForSequenceClassification",
            num_key_value_heads=2),
        *_text("decoder", {**GPT2, "vocab_size": 1000, "n_embd": 256, "n_layer": 4}, "GPT2ForSequenceClassification"),
        *_pair(_WIDE_T5, "T5ForConditionalGeneration"),
        *_image("vision transformer", 64, "ViTForImageClassification", "BeitForImageClassification", **_WIDE_VIT),
        *_image("vision transformer", 64, "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=64),
        *_image("CNN", 64, "resnet18", "convnext_atto", "eca_nfnet_l0"),
    )
}  # fmt: skip
