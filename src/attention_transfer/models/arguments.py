"""What may stand in the parentheses behind a model's name: what shapes a network.

Names travel: in run folders of other people, in scripts that are copied. So an argument passes only if it is listed
here, and only as a plain value. What loads code, weights or files (`trust_remote_code`, `checkpoint_path`,
`pretrained_cfg`), reaches the network (`cache_dir`, `revision`), or changes what a network gives (`features_only`,
`out_indices`, `aux_logits`) is not, and need not be known to be kept out.
"""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any, cast

from attention_transfer.errors import InputError

# What is said elsewhere: by the data, by what follows the @, or by nobody.
_RESERVED = frozenset({"num_classes", "num_labels", "pretrained", "weights"})

_TIMM_NAMES = """
aa_layer abs_win_pos_embed act_layer always_partition attn_act_layer attn_drop_rate attn_groups
attn_head_dim_reduction attn_layer attn_mlp attn_mlp_ratio attn_only_layer_scale attn_pool_mlp_ratio
attn_pool_num_heads attn_ratio attn_stage attn_type attn_types attn_upsample avg_down base_dim base_dims base_width
basic bidirectional block_config block_reduce_first block_type bn_eps bn_momentum bn_size bn_tf bottle_ratio
bottleneck_width_ratio cardinality ch_div channel_attention channel_attn_v2 channel_multiplier channels class_token
cls_attn_layers cls_ratio conv_bias conv_init conv_mlp conv_ratio cpe_act crop_scale crpe_window d2_scales
deepen_factor depth depth_list depth_mult depth_token_only depths dim dim_mul dims distillation distillation_token
distilled down_kernel_size down_op down_ops down_pad down_patch_size down_stride downsample downsample_block
downsample_expand_ratios downsample_kernel_size downsample_padding downsample_ratio downsamples drop_block_rate
drop_block_size drop_connect_rate drop_path_rate drop_rate dw_act_layer dynamic_img_pad dynamic_img_size embed_dim
embed_dims embed_norm_layer encoder_pool eta expand_groups expand_ratio expansion_ratio extra_norm_period
extra_norm_stage fc_act_layer fc_norm feature_dim ffn ffn_ratio final_chs final_norm first_stride fix_init fix_stem
focal_levels focal_windows fused_conv fused_downsample global_att_blocks global_attn_indexes global_block_counts
global_pool global_pos_size group groups growth_rate growth_rates head head_bias head_dim head_hidden_size
head_init_scale head_mul head_norm head_norm_first head_widths heads hidden_sizes img_scale img_size in_chans inc_sec
inference_mode init_channels init_values initial_chs inner_dim inplanes input_3x3 intermediate_size
is_downsample_block k_r k_sec kernel_size kernel_sizes kernels key_dim layer_scale layer_scale_init_value
layer_scale_init_values layers layerscale_value legacy levels linear lkc_use_act local_conv_size local_mbconv_norm
local_up_to_layer locality_strength ls_init_value mask_unit_attn mask_unit_size mbconv_expand_ratio memory_efficient
merge_size mix_block_ratio mlp_bias mlp_ratio mlp_ratio_token_only mlp_ratios msfa_indices msfa_output_resolution
multi_conv n_div neck_chans nlhb no_embed_class norm_eps norm_layer norm_layer_cl normalize_modulator num_blocks
num_blocks_list num_features num_heads num_heads_inner num_heads_outer num_init_features num_kv_heads num_levels
num_reg_tokens num_rnn_layers num_vit outlook_attention output_stride pad_type parallel_depth partial_dim
patch_drop_rate patch_kernel patch_norm patch_padding patch_size patch_sizes patch_stride pconv_fw_type
pool_include_prefix pool_size pooling_kernel_size pooling_scale pos_drop_rate pos_embed pos_embed_grid_size
position_embedding_size post_layers pre_norm preact pretrained_strict pretrained_window_sizes proj_bias proj_drop_rate
q_pool q_stride qk_dim qk_norm qkv_bias qkv_fused reduction ref_feat_shape reg_tokens rel_pos_dim rel_pos_type reparam
replace_stem_pool repmixer_kernel_size res_scale_init_values rope_grid_indexing rope_grid_offset rope_jitter_coords
rope_mrope_section rope_rescale_coords rope_rotate_half rope_shift_coords rope_temperature rope_theta rope_type scale
scale_attn_inner scale_attn_norm scale_mlp scale_mlp_norm se_downsamples se_from_exp se_layer se_ratio sep_pos_embed
sequential_attn serial_depths shared_rel_pos shortcut_root small small_kernels spatial_conv sr_ratios ssd_expand
stages standardize state_dim stem_bias stem_chs stem_expand_ratio stem_hidden_dim stem_kernel_size stem_mid_norm
stem_norm stem_size stem_stride stem_type stem_use_scale_branch stem_width strict_img_size stride strides
swiglu_align_to swiglu_mlp token_mixers tokens_norm transformer_depths transformer_drop_path
transition_compression_ratio types union use_abs_pos use_abs_pos_emb use_checkpoint use_clipped_linears use_conv
use_expand_proj use_fc_norm use_grn use_lab use_layer_scale use_mlp_head use_msfa use_overlap_down use_pos_emb
use_pos_embed use_post_norm use_post_norm_in_modulation use_post_transformer_norm use_pre_transformer_norm use_rel_pos
use_rel_pos_bias use_rope use_rot_pos_emb use_shared_rel_pos_bias v2 version vit_stem weight_init widen_factor width
width_factor width_list width_mult widths window_ratio window_size window_sizes window_spec with_fc wss zero_init_last
"""
_TIMM = frozenset(_TIMM_NAMES.split())
_TORCHVISION_NAMES = """
alpha attention_dropout block_channels block_config block_layers bn_size depths drop_rate dropout dropout_aux
embed_dim expansion_ratio groups growth_rate head_dim hidden_dim image_size in_channels init_weights input_size
inverted_residual_setting last_channel layer_scale layers memory_efficient mlp_dim mlp_dropout mlp_ratio num_heads
num_init_features num_layers partition_size patch_size replace_stride_with_dilation representation_size round_nearest
squeeze_ratio stages_out_channels stages_repeats stem_channels stem_width stochastic_depth_prob transform_input
version width width_mult width_per_group window_size zero_init_residual
"""
_TORCHVISION = frozenset(_TORCHVISION_NAMES.split())
_LISTED = {"timm": _TIMM, "torchvision": _TORCHVISION}

# Words as libraries call layers, poolings and initialisations; no path, no address, no name on a hub.
_WORD = re.compile(r"[\w.+-]*", re.ASCII)
_DEEPEST = 6
# Libraries count up to what they are given, and keep lists as long, before they make any layer.
_LARGEST = 2**20
# These are no sizes of anything.
_NO_SIZES = re.compile(r"theta|temperature|token_id|_index$|^ignore|labels$")


def check_arguments(library: str, inner: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that do more than shape a network.

    Those of `hf` change a model's configuration: which there are is for its class to say, see `configuration`.

    Args:
        library: before the colon; empty for networks of ours.
        inner: the name in that library.
        arguments: by name.

    Raises:
        ValueError: for an argument that is not listed, or a value that is not plain.
    """
    name = f"{library}:{inner}" if library else inner
    for key, value in arguments.items():
        if key in _RESERVED:
            raise InputError(f"{key} cannot be an argument in {name!r}: the data and what follows an @ decide it")
        listed = _LISTED.get(library)
        if listed is not None and key not in listed:
            raise InputError(_not_listed(key, name, listed))
        refuse_loading({key: value}, repr(name))
        refuse_huge({key: value}, repr(name), _LARGEST)
        if not _is_plain(value):
            raise InputError(
                f"{key}={str(value)[:80]!r} of {name!r} is no value that shapes a network: give a number, True, False, "
                "None, a word, or a list of these"
            )


# What makes transformers fetch or run something: code, kernels, quantisers, other networks.
_LOADING_NAMES = """
auto_map backbone backbone_config backbone_kwargs base_model_name_or_path checkpoint_path code_revision
custom_pipelines kernel_config quantization_config trust_remote_code use_kernels use_pretrained_backbone
use_timm_backbone
"""
_LOADING = frozenset(_LOADING_NAMES.split())
# Their keys are names of classes, which may be called anything.
_LABELS = ("id2label", "label2id", "label_names", "label_descriptions")
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_OWN_IMPLEMENTATIONS = (None, "eager", "sdpa")


def refuse_loading(config: Mapping[str, Any], source: str) -> None:
    """Refuse settings, at any depth, that make transformers or timm load code, kernels or other networks.

    Args:
        config: as JSON holds it.
        source: whose it is, for messages.

    Raises:
        ValueError: naming the first.
    """
    for key, value in _flat(config, source):
        if key in _LOADING and value not in (None, False, {}, []):
            raise InputError(
                f"{key!r} of {source} is refused: with it a library loads code or files. Build such a network in "
                "Python, where you trust it"
            )
        if key in _IMPLEMENTATIONS and value not in _OWN_IMPLEMENTATIONS:
            raise InputError(
                f"{key}={str(value)[:80]!r} of {source} is refused: it may fetch a kernel and run it. Leave it out, or "
                "give 'eager' or 'sdpa'"
            )


def refuse_huge(config: Mapping[str, Any], source: str, largest: int) -> None:
    """Refuse numbers, at any depth, that are larger than any size that a network has.

    Args:
        config: as JSON holds it.
        source: whose it is, for messages.
        largest: number that is accepted.

    Raises:
        ValueError: naming the first.
    """
    for key, value in _flat(config, source):
        several = cast("list[Any]", value) if isinstance(value, (list, tuple)) else [value]
        huge = [each for each in several if isinstance(each, (int, float)) and not abs(each) <= largest]
        if huge and not _NO_SIZES.search(key):
            raise InputError(
                f"{key}={repr(huge[0])[:40]} of {source} is no size that a network has: they go up to {largest:,}"
            )


def _flat(tree: Any, source: str, depth: int = 0) -> list[tuple[str, Any]]:
    if depth > _DEEPEST:
        raise InputError(f"the settings of {source} are nested more than {_DEEPEST} deep, which no network needs")
    if isinstance(tree, Mapping):
        pairs = [(str(key), value) for key, value in cast("Mapping[Any, Any]", tree).items()]
        deeper = [value for key, value in pairs if key not in _LABELS]
        return pairs + [pair for value in deeper for pair in _flat(value, source, depth + 1)]
    if isinstance(tree, (list, tuple)):
        return [pair for value in cast("list[Any]", tree) for pair in _flat(value, source, depth + 1)]
    return []


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if isinstance(value, (list, tuple)):
        return depth < _DEEPEST and all(_is_plain(each, depth + 1) for each in cast("list[Any]", value))
    if isinstance(value, dict):
        pairs = cast("dict[Any, Any]", value).items()
        return depth < _DEEPEST and all(_is_plain(key) and _is_plain(each, depth + 1) for key, each in pairs)
    return value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))


def _not_listed(key: str, name: str, listed: frozenset[str]) -> str:
    close = difflib.get_close_matches(key, listed, n=3)
    meant = f" (close to it: {', '.join(close)})" if close else ""
    return (
        f"{key!r} cannot be an argument of {name!r}: only what shapes a network can{meant}. Build it in Python where "
        "it needs more"
    )
