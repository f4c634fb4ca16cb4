/* The layout of everything that a compiled plugin relies on, number by number. A change here breaks plugins.
 *
 * Allowed: a line for a member appended at the end of its struct, with the struct's new size; a line for a new enum value. A
 * changed number of an existing line is a new SHARPI_ABI_MAJOR. Structs without `size` (sharpi_layer_desc,
 * sharpi_batch_seq, sharpi_batch_class, sharpi_type_info, sharpi_builder, sharpi_cuda_step, sharpi_kv_cuda_heads) may not grow
 * either.
 */
#include <CUnit/Basic.h>
#include <stddef.h>
#include <string.h>

#include <sharpi/cuda/kv-cuda.h>
#include <sharpi/plugin/arch.h>
#include <sharpi/plugin/backend.h>
#include <sharpi/plugin/plugin.h>

struct fact {
    const char *what;
    size_t is, frozen;
};

#define SIZE(table, n)                                                                                       \
    {                                                                                                        \
        "size of " #table, sizeof(struct table), n                                                           \
    }
#define AT(table, member, n)                                                                                 \
    {                                                                                                        \
#table "." #member, offsetof(struct table, member), n                                                \
    }

/* clang-format off: one fact a line */
static const struct fact layout[] = {
    SIZE(sharpi_error, 1024),
    AT(sharpi_error, size, 0),
    AT(sharpi_error, code, 4),
    AT(sharpi_error, text, 8),

    SIZE(sharpi_type_info, 16),
    AT(sharpi_type_info, name, 0),
    AT(sharpi_type_info, block_elems, 8),
    AT(sharpi_type_info, block_bytes, 12),

    SIZE(sharpi_tensor, 72),
    AT(sharpi_tensor, size, 0),
    AT(sharpi_tensor, type, 4),
    AT(sharpi_tensor, n_dims, 8),
    AT(sharpi_tensor, reserved, 12),
    AT(sharpi_tensor, ne, 16),
    AT(sharpi_tensor, n_bytes, 48),
    AT(sharpi_tensor, name, 56),
    AT(sharpi_tensor, data, 64),

    SIZE(sharpi_plugin, 72),
    AT(sharpi_plugin, magic, 0),
    AT(sharpi_plugin, abi_major, 4),
    AT(sharpi_plugin, abi_minor, 8),
    AT(sharpi_plugin, size, 12),
    AT(sharpi_plugin, name, 16),
    AT(sharpi_plugin, version, 24),
    AT(sharpi_plugin, license, 32),
    AT(sharpi_plugin, summary, 40),
    AT(sharpi_plugin, init, 48),
    AT(sharpi_plugin, fini, 56),
    AT(sharpi_plugin, config_keys, 64),

    SIZE(sharpi_host, 192),
    AT(sharpi_host, size, 0),
    AT(sharpi_host, abi_minor, 4),
    AT(sharpi_host, version, 8),
    AT(sharpi_host, log, 16),
    AT(sharpi_host, alloc, 24),
    AT(sharpi_host, free, 32),
    AT(sharpi_host, register_backend, 40),
    AT(sharpi_host, register_arch, 48),
    AT(sharpi_host, register_kv, 56),
    AT(sharpi_host, config_get, 64),
    AT(sharpi_host, file_u64, 72),
    AT(sharpi_host, file_f64, 80),
    AT(sharpi_host, file_string, 88),
    AT(sharpi_host, file_array_u64, 96),
    AT(sharpi_host, file_array_f64, 104),
    AT(sharpi_host, file_tensor, 112),
    AT(sharpi_host, file_alloc, 120),
    AT(sharpi_host, file_arch, 128),
    AT(sharpi_host, file_path, 136),
    AT(sharpi_host, graph_add, 144),
    AT(sharpi_host, pool_create, 152),
    AT(sharpi_host, pool_destroy, 160),
    AT(sharpi_host, pool_threads, 168),
    AT(sharpi_host, pool_run, 176),
    AT(sharpi_host, pool_barrier, 184),

    SIZE(sharpi_embed_attr, 8),
    AT(sharpi_embed_attr, size, 0),
    AT(sharpi_embed_attr, scale, 4),

    SIZE(sharpi_row_gather_attr, 16),
    AT(sharpi_row_gather_attr, size, 0),
    AT(sharpi_row_gather_attr, first, 4),
    AT(sharpi_row_gather_attr, width, 8),
    AT(sharpi_row_gather_attr, scale, 12),

    SIZE(sharpi_rms_norm_attr, 16),
    AT(sharpi_rms_norm_attr, size, 0),
    AT(sharpi_rms_norm_attr, group, 4),
    AT(sharpi_rms_norm_attr, eps, 8),
    AT(sharpi_rms_norm_attr, add_one, 12),

    SIZE(sharpi_linear_attr, 8),
    AT(sharpi_linear_attr, size, 0),
    AT(sharpi_linear_attr, split, 4),

    SIZE(sharpi_rope_attr, 64),
    AT(sharpi_rope_attr, size, 0),
    AT(sharpi_rope_attr, mode, 4),
    AT(sharpi_rope_attr, n_heads, 8),
    AT(sharpi_rope_attr, head_dim, 12),
    AT(sharpi_rope_attr, n_rot, 16),
    AT(sharpi_rope_attr, theta, 20),
    AT(sharpi_rope_attr, freq_scale, 24),
    AT(sharpi_rope_attr, yarn_ext, 28),
    AT(sharpi_rope_attr, yarn_attn, 32),
    AT(sharpi_rope_attr, yarn_beta_fast, 36),
    AT(sharpi_rope_attr, yarn_beta_slow, 40),
    AT(sharpi_rope_attr, original_context, 44),
    AT(sharpi_rope_attr, sections, 48),

    SIZE(sharpi_attention_attr, 40),
    AT(sharpi_attention_attr, size, 0),
    AT(sharpi_attention_attr, layer, 4),
    AT(sharpi_attention_attr, kv_layer, 8),
    AT(sharpi_attention_attr, n_heads, 12),
    AT(sharpi_attention_attr, n_kv_heads, 16),
    AT(sharpi_attention_attr, head_dim, 20),
    AT(sharpi_attention_attr, scale, 24),
    AT(sharpi_attention_attr, softcap, 28),
    AT(sharpi_attention_attr, window, 32),
    AT(sharpi_attention_attr, causal, 36),

    SIZE(sharpi_glu_attr, 12),
    AT(sharpi_glu_attr, size, 0),
    AT(sharpi_glu_attr, activation, 4),
    AT(sharpi_glu_attr, clamp, 8),

    SIZE(sharpi_moe_attr, 32),
    AT(sharpi_moe_attr, size, 0),
    AT(sharpi_moe_attr, n_experts, 4),
    AT(sharpi_moe_attr, n_used, 8),
    AT(sharpi_moe_attr, n_ff, 12),
    AT(sharpi_moe_attr, activation, 16),
    AT(sharpi_moe_attr, softmax_after, 20),
    AT(sharpi_moe_attr, renormalize, 24),
    AT(sharpi_moe_attr, weight_scale, 28),

    SIZE(sharpi_scale_attr, 8),
    AT(sharpi_scale_attr, size, 0),
    AT(sharpi_scale_attr, scale, 4),

    SIZE(sharpi_softcap_attr, 8),
    AT(sharpi_softcap_attr, size, 0),
    AT(sharpi_softcap_attr, cap, 4),

    SIZE(sharpi_logits_attr, 8),
    AT(sharpi_logits_attr, size, 0),
    AT(sharpi_logits_attr, softcap, 4),

    SIZE(sharpi_slice_attr, 12),
    AT(sharpi_slice_attr, size, 0),
    AT(sharpi_slice_attr, first, 4),
    AT(sharpi_slice_attr, width, 8),

    SIZE(sharpi_activation_attr, 8),
    AT(sharpi_activation_attr, size, 0),
    AT(sharpi_activation_attr, activation, 4),

    SIZE(sharpi_tap_attr, 16),
    AT(sharpi_tap_attr, size, 0),
    AT(sharpi_tap_attr, reserved, 4),
    AT(sharpi_tap_attr, name, 8),

    SIZE(sharpi_custom_attr, 32),
    AT(sharpi_custom_attr, size, 0),
    AT(sharpi_custom_attr, out_width, 4),
    AT(sharpi_custom_attr, name, 8),
    AT(sharpi_custom_attr, compute, 16),
    AT(sharpi_custom_attr, user, 24),

    SIZE(sharpi_op, 104),
    AT(sharpi_op, size, 0),
    AT(sharpi_op, kind, 4),
    AT(sharpi_op, layer, 8),
    AT(sharpi_op, in, 12),
    AT(sharpi_op, out, 28),
    AT(sharpi_op, w, 32),
    AT(sharpi_op, attr, 96),

    SIZE(sharpi_value, 20),
    AT(sharpi_value, size, 0),
    AT(sharpi_value, width, 4),
    AT(sharpi_value, rows, 8),
    AT(sharpi_value, producer, 12),
    AT(sharpi_value, last_use, 16),

    SIZE(sharpi_graph_view, 32),
    AT(sharpi_graph_view, size, 0),
    AT(sharpi_graph_view, n_ops, 4),
    AT(sharpi_graph_view, n_values, 8),
    AT(sharpi_graph_view, n_layers, 12),
    AT(sharpi_graph_view, ops, 16),
    AT(sharpi_graph_view, values, 24),

    SIZE(sharpi_builder, 32),
    AT(sharpi_builder, host, 0),
    AT(sharpi_builder, graph, 8),
    AT(sharpi_builder, layer, 16),
    AT(sharpi_builder, status, 20),
    AT(sharpi_builder, err, 24),

    SIZE(sharpi_kv, 64),
    AT(sharpi_kv, size, 0),
    AT(sharpi_kv, reserved, 4),
    AT(sharpi_kv, name, 8),
    AT(sharpi_kv, summary, 16),
    AT(sharpi_kv, row_bytes, 24),
    AT(sharpi_kv, check, 32),
    AT(sharpi_kv, encode, 40),
    AT(sharpi_kv, decode, 48),
    AT(sharpi_kv, kernels, 56),

    SIZE(sharpi_kv_cpu, 40),
    AT(sharpi_kv_cpu, size, 0),
    AT(sharpi_kv_cpu, reserved, 4),
    AT(sharpi_kv_cpu, append, 8),
    AT(sharpi_kv_cpu, load, 16),
    AT(sharpi_kv_cpu, score, 24),
    AT(sharpi_kv_cpu, accumulate, 32),

    SIZE(sharpi_kv_layer, 56),
    AT(sharpi_kv_layer, size, 0),
    AT(sharpi_kv_layer, class_index, 4),
    AT(sharpi_kv_layer, kv, 8),
    AT(sharpi_kv_layer, kv_ctx, 16),
    AT(sharpi_kv_layer, n_kv_heads, 24),
    AT(sharpi_kv_layer, head_dim, 28),
    AT(sharpi_kv_layer, ring, 32),
    AT(sharpi_kv_layer, n_pages, 36),
    AT(sharpi_kv_layer, k, 40),
    AT(sharpi_kv_layer, v, 48),

    SIZE(sharpi_device_info, 104),
    AT(sharpi_device_info, size, 0),
    AT(sharpi_device_info, integrated, 4),
    AT(sharpi_device_info, name, 8),
    AT(sharpi_device_info, total_bytes, 72),
    AT(sharpi_device_info, free_bytes, 80),
    AT(sharpi_device_info, max_threads, 88),
    AT(sharpi_device_info, reserved, 92),
    AT(sharpi_device_info, granularity, 96),

    SIZE(sharpi_device_options, 24),
    AT(sharpi_device_options, size, 0),
    AT(sharpi_device_options, n_threads, 4),
    AT(sharpi_device_options, memory_limit, 8),
    AT(sharpi_device_options, repack, 16),
    AT(sharpi_device_options, reserved, 20),

    SIZE(sharpi_batch_seq, 16),
    AT(sharpi_batch_seq, first_token, 0),
    AT(sharpi_batch_seq, n_tokens, 4),
    AT(sharpi_batch_seq, length, 8),
    AT(sharpi_batch_seq, slot, 12),

    SIZE(sharpi_batch_class, 16),
    AT(sharpi_batch_class, pages, 0),
    AT(sharpi_batch_class, stride, 8),
    AT(sharpi_batch_class, ring, 12),

    SIZE(sharpi_batch, 80),
    AT(sharpi_batch, size, 0),
    AT(sharpi_batch, n_tokens, 4),
    AT(sharpi_batch, n_seqs, 8),
    AT(sharpi_batch, n_logits, 12),
    AT(sharpi_batch, n_classes, 16),
    AT(sharpi_batch, reserved, 20),
    AT(sharpi_batch, tokens, 24),
    AT(sharpi_batch, positions, 32),
    AT(sharpi_batch, seqs_of, 40),
    AT(sharpi_batch, seqs, 48),
    AT(sharpi_batch, classes, 56),
    AT(sharpi_batch, logit_rows, 64),
    AT(sharpi_batch, embeddings, 72),

    SIZE(sharpi_run_io, 72),
    AT(sharpi_run_io, size, 0),
    AT(sharpi_run_io, n_taps, 4),
    AT(sharpi_run_io, carry_in, 8),
    AT(sharpi_run_io, carry_out, 16),
    AT(sharpi_run_io, logits, 24),
    AT(sharpi_run_io, taps, 32),
    AT(sharpi_run_io, n_best, 40),
    AT(sharpi_run_io, reserved, 44),
    AT(sharpi_run_io, best_ids, 48),
    AT(sharpi_run_io, best_logits, 56),
    AT(sharpi_run_io, best_log_sum, 64),

    SIZE(sharpi_compile, 80),
    AT(sharpi_compile, size, 0),
    AT(sharpi_compile, first_op, 4),
    AT(sharpi_compile, end_op, 8),
    AT(sharpi_compile, max_tokens, 12),
    AT(sharpi_compile, max_seqs, 16),
    AT(sharpi_compile, max_logits, 20),
    AT(sharpi_compile, graph, 24),
    AT(sharpi_compile, kv_layers, 32),
    AT(sharpi_compile, n_classes, 40),
    AT(sharpi_compile, n_carry_in, 44),
    AT(sharpi_compile, n_carry_out, 48),
    AT(sharpi_compile, n_taps, 52),
    AT(sharpi_compile, carry_in, 56),
    AT(sharpi_compile, carry_out, 64),
    AT(sharpi_compile, taps, 72),

    SIZE(sharpi_program_memory, 32),
    AT(sharpi_program_memory, size, 0),
    AT(sharpi_program_memory, n_fallback_ops, 4),
    AT(sharpi_program_memory, weight_bytes, 8),
    AT(sharpi_program_memory, mapped_bytes, 16),
    AT(sharpi_program_memory, scratch_bytes, 24),

    SIZE(sharpi_rates, 40),
    AT(sharpi_rates, size, 0),
    AT(sharpi_rates, reserved, 4),
    AT(sharpi_rates, read_bytes_per_s, 8),
    AT(sharpi_rates, int8_ops_per_s, 16),
    AT(sharpi_rates, f32_ops_per_s, 24),
    AT(sharpi_rates, bf16_ops_per_s, 32),

    SIZE(sharpi_backend, 160),
    AT(sharpi_backend, size, 0),
    AT(sharpi_backend, reserved, 4),
    AT(sharpi_backend, name, 8),
    AT(sharpi_backend, summary, 16),
    AT(sharpi_backend, device_count, 24),
    AT(sharpi_backend, device_info, 32),
    AT(sharpi_backend, device_open, 40),
    AT(sharpi_backend, device_close, 48),
    AT(sharpi_backend, alloc, 56),
    AT(sharpi_backend, free, 64),
    AT(sharpi_backend, copy, 72),
    AT(sharpi_backend, write, 80),
    AT(sharpi_backend, read, 88),
    AT(sharpi_backend, supports, 96),
    AT(sharpi_backend, compile, 104),
    AT(sharpi_backend, program_memory, 112),
    AT(sharpi_backend, load, 120),
    AT(sharpi_backend, program_destroy, 128),
    AT(sharpi_backend, run, 136),
    AT(sharpi_backend, measure, 144),
    AT(sharpi_backend, max_best, 152),

    SIZE(sharpi_layer_desc, 24),
    AT(sharpi_layer_desc, n_kv_heads, 0),
    AT(sharpi_layer_desc, head_dim, 4),
    AT(sharpi_layer_desc, window, 8),
    AT(sharpi_layer_desc, kv_source, 12),
    AT(sharpi_layer_desc, k_eq_v, 16),
    AT(sharpi_layer_desc, n_ff, 20),

    SIZE(sharpi_model_desc, 64),
    AT(sharpi_model_desc, size, 0),
    AT(sharpi_model_desc, n_layers, 4),
    AT(sharpi_model_desc, width, 8),
    AT(sharpi_model_desc, n_heads, 12),
    AT(sharpi_model_desc, n_vocab, 16),
    AT(sharpi_model_desc, context_length, 20),
    AT(sharpi_model_desc, n_experts, 24),
    AT(sharpi_model_desc, n_experts_used, 28),
    AT(sharpi_model_desc, n_ff_expert, 32),
    AT(sharpi_model_desc, ple_width, 36),
    AT(sharpi_model_desc, mask_known, 40),
    AT(sharpi_model_desc, n_layers_described, 44),
    AT(sharpi_model_desc, layer_size, 48),
    AT(sharpi_model_desc, reserved, 52),
    AT(sharpi_model_desc, layers, 56),

    SIZE(sharpi_arch, 56),
    AT(sharpi_arch, size, 0),
    AT(sharpi_arch, reserved, 4),
    AT(sharpi_arch, name, 8),
    AT(sharpi_arch, summary, 16),
    AT(sharpi_arch, probe, 24),
    AT(sharpi_arch, describe, 32),
    AT(sharpi_arch, build, 40),
    AT(sharpi_arch, kv_reserve_bytes, 48),

    SIZE(sharpi_cuda_step, 16),
    AT(sharpi_cuda_step, n_tokens, 0),
    AT(sharpi_cuda_step, n_seqs, 4),
    AT(sharpi_cuda_step, n_logits, 8),
    AT(sharpi_cuda_step, reserved, 12),

    SIZE(sharpi_kv_cuda_heads, 24),
    AT(sharpi_kv_cuda_heads, weight, 0),
    AT(sharpi_kv_cuda_heads, eps, 8),
    AT(sharpi_kv_cuda_heads, has_norm, 12),
    AT(sharpi_kv_cuda_heads, turns, 16),
    AT(sharpi_kv_cuda_heads, reserved, 20),

    SIZE(sharpi_kv_cuda_args, 320),
    AT(sharpi_kv_cuda_args, size, 0),
    AT(sharpi_kv_cuda_args, n_heads, 4),
    AT(sharpi_kv_cuda_args, n_kv_heads, 8),
    AT(sharpi_kv_cuda_args, head_dim, 12),
    AT(sharpi_kv_cuda_args, window, 16),
    AT(sharpi_kv_cuda_args, causal, 20),
    AT(sharpi_kv_cuda_args, scale, 24),
    AT(sharpi_kv_cuda_args, softcap, 28),
    AT(sharpi_kv_cuda_args, ring, 32),
    AT(sharpi_kv_cuda_args, page_stride, 36),
    AT(sharpi_kv_cuda_args, k_cache, 40),
    AT(sharpi_kv_cuda_args, v_cache, 48),
    AT(sharpi_kv_cuda_args, pages, 56),
    AT(sharpi_kv_cuda_args, step, 64),
    AT(sharpi_kv_cuda_args, seqs, 72),
    AT(sharpi_kv_cuda_args, seqs_of, 80),
    AT(sharpi_kv_cuda_args, q, 88),
    AT(sharpi_kv_cuda_args, k, 96),
    AT(sharpi_kv_cuda_args, v, 104),
    AT(sharpi_kv_cuda_args, sinks, 112),
    AT(sharpi_kv_cuda_args, out, 120),
    AT(sharpi_kv_cuda_args, q_stride, 128),
    AT(sharpi_kv_cuda_args, k_stride, 136),
    AT(sharpi_kv_cuda_args, v_stride, 144),
    AT(sharpi_kv_cuda_args, out_stride, 152),
    AT(sharpi_kv_cuda_args, max_tokens, 160),
    AT(sharpi_kv_cuda_args, max_seqs, 164),
    AT(sharpi_kv_cuda_args, max_seq_tokens, 168),
    AT(sharpi_kv_cuda_args, max_length, 172),
    AT(sharpi_kv_cuda_args, n_sms, 176),
    AT(sharpi_kv_cuda_args, compute_major, 180),
    AT(sharpi_kv_cuda_args, scratch, 184),
    AT(sharpi_kv_cuda_args, overlaps, 192),
    AT(sharpi_kv_cuda_args, out_q8, 200),
    AT(sharpi_kv_cuda_args, out_q8_stride, 208),
    AT(sharpi_kv_cuda_args, has_heads, 216),
    AT(sharpi_kv_cuda_args, is_neox, 220),
    AT(sharpi_kv_cuda_args, heads, 224),
    AT(sharpi_kv_cuda_args, table, 296),
    AT(sharpi_kv_cuda_args, table_stride, 304),
    AT(sharpi_kv_cuda_args, shared_bytes, 312),

    SIZE(sharpi_kv_cuda, 64),
    AT(sharpi_kv_cuda, size, 0),
    AT(sharpi_kv_cuda, reserved, 4),
    AT(sharpi_kv_cuda, check, 8),
    AT(sharpi_kv_cuda, scratch_bytes, 16),
    AT(sharpi_kv_cuda, attention, 24),
    AT(sharpi_kv_cuda, page_to_rows, 32),
    AT(sharpi_kv_cuda, page_from_rows, 40),
    AT(sharpi_kv_cuda, quantizes, 48),
    AT(sharpi_kv_cuda, makes_heads, 56),
};

static const struct {
    const char *name;
    int is, frozen;
} values[] = {
    {"SHARPI_OK", SHARPI_OK, 0},
    {"SHARPI_EINVAL", SHARPI_EINVAL, -1},
    {"SHARPI_ENOMEM", SHARPI_ENOMEM, -2},
    {"SHARPI_EIO", SHARPI_EIO, -3},
    {"SHARPI_EFORMAT", SHARPI_EFORMAT, -4},
    {"SHARPI_ENOTSUP", SHARPI_ENOTSUP, -5},
    {"SHARPI_ENOENT", SHARPI_ENOENT, -6},
    {"SHARPI_EABI", SHARPI_EABI, -7},
    {"SHARPI_EFULL", SHARPI_EFULL, -8},
    {"SHARPI_ECANCELLED", SHARPI_ECANCELLED, -9},
    {"SHARPI_EDEVICE", SHARPI_EDEVICE, -10},
    {"SHARPI_EBUG", SHARPI_EBUG, -11},

    {"SHARPI_TYPE_F32", SHARPI_TYPE_F32, 0},
    {"SHARPI_TYPE_F16", SHARPI_TYPE_F16, 1},
    {"SHARPI_TYPE_Q4_0", SHARPI_TYPE_Q4_0, 2},
    {"SHARPI_TYPE_Q4_1", SHARPI_TYPE_Q4_1, 3},
    {"SHARPI_TYPE_Q5_0", SHARPI_TYPE_Q5_0, 6},
    {"SHARPI_TYPE_Q5_1", SHARPI_TYPE_Q5_1, 7},
    {"SHARPI_TYPE_Q8_0", SHARPI_TYPE_Q8_0, 8},
    {"SHARPI_TYPE_Q2_K", SHARPI_TYPE_Q2_K, 10},
    {"SHARPI_TYPE_Q3_K", SHARPI_TYPE_Q3_K, 11},
    {"SHARPI_TYPE_Q4_K", SHARPI_TYPE_Q4_K, 12},
    {"SHARPI_TYPE_Q5_K", SHARPI_TYPE_Q5_K, 13},
    {"SHARPI_TYPE_Q6_K", SHARPI_TYPE_Q6_K, 14},
    {"SHARPI_TYPE_IQ4_NL", SHARPI_TYPE_IQ4_NL, 20},
    {"SHARPI_TYPE_IQ4_XS", SHARPI_TYPE_IQ4_XS, 23},
    {"SHARPI_TYPE_BF16", SHARPI_TYPE_BF16, 30},
    {"SHARPI_TYPE_MXFP4", SHARPI_TYPE_MXFP4, 39},

    {"SHARPI_LOG_ERROR", SHARPI_LOG_ERROR, 0},
    {"SHARPI_LOG_WARN", SHARPI_LOG_WARN, 1},
    {"SHARPI_LOG_INFO", SHARPI_LOG_INFO, 2},
    {"SHARPI_LOG_DEBUG", SHARPI_LOG_DEBUG, 3},

    {"SHARPI_OP_EMBED", SHARPI_OP_EMBED, 1},
    {"SHARPI_OP_ROW_GATHER", SHARPI_OP_ROW_GATHER, 2},
    {"SHARPI_OP_RMS_NORM", SHARPI_OP_RMS_NORM, 3},
    {"SHARPI_OP_LINEAR", SHARPI_OP_LINEAR, 4},
    {"SHARPI_OP_ROPE", SHARPI_OP_ROPE, 5},
    {"SHARPI_OP_ATTENTION", SHARPI_OP_ATTENTION, 6},
    {"SHARPI_OP_GLU", SHARPI_OP_GLU, 7},
    {"SHARPI_OP_MOE_FFN", SHARPI_OP_MOE_FFN, 8},
    {"SHARPI_OP_ADD", SHARPI_OP_ADD, 9},
    {"SHARPI_OP_MUL", SHARPI_OP_MUL, 10},
    {"SHARPI_OP_SCALE", SHARPI_OP_SCALE, 11},
    {"SHARPI_OP_SOFTCAP", SHARPI_OP_SOFTCAP, 12},
    {"SHARPI_OP_SELECT_ROWS", SHARPI_OP_SELECT_ROWS, 13},
    {"SHARPI_OP_LOGITS", SHARPI_OP_LOGITS, 14},
    {"SHARPI_OP_TAP", SHARPI_OP_TAP, 15},
    {"SHARPI_OP_CUSTOM", SHARPI_OP_CUSTOM, 16},
    {"SHARPI_OP_SLICE", SHARPI_OP_SLICE, 17},
    {"SHARPI_OP_ACTIVATION", SHARPI_OP_ACTIVATION, 18},

    {"SHARPI_ACT_SILU", SHARPI_ACT_SILU, 1},
    {"SHARPI_ACT_GELU_TANH", SHARPI_ACT_GELU_TANH, 2},
    {"SHARPI_ACT_GELU_ERF", SHARPI_ACT_GELU_ERF, 3},
    {"SHARPI_ACT_RELU2", SHARPI_ACT_RELU2, 4},

    {"SHARPI_SPLIT_NONE", SHARPI_SPLIT_NONE, 0},
    {"SHARPI_SPLIT_OUTPUT", SHARPI_SPLIT_OUTPUT, 1},
    {"SHARPI_SPLIT_INPUT", SHARPI_SPLIT_INPUT, 2},

    {"SHARPI_ROPE_NORM", SHARPI_ROPE_NORM, 1},
    {"SHARPI_ROPE_NEOX", SHARPI_ROPE_NEOX, 2},

    {"SHARPI_MOE_ROUTER", SHARPI_MOE_ROUTER, 0},
    {"SHARPI_MOE_ROUTER_BIAS", SHARPI_MOE_ROUTER_BIAS, 1},
    {"SHARPI_MOE_GATE", SHARPI_MOE_GATE, 2},
    {"SHARPI_MOE_UP", SHARPI_MOE_UP, 3},
    {"SHARPI_MOE_GATE_UP", SHARPI_MOE_GATE_UP, 4},
    {"SHARPI_MOE_DOWN", SHARPI_MOE_DOWN, 5},
    {"SHARPI_MOE_EXPERT_SCALE", SHARPI_MOE_EXPERT_SCALE, 6},

    {"SHARPI_ROWS_TOKENS", SHARPI_ROWS_TOKENS, 0},
    {"SHARPI_ROWS_SELECTED", SHARPI_ROWS_SELECTED, 1},
};
/* clang-format on */

static void layout_is_the_frozen_one(void)
{
    for (size_t i = 0; i < sizeof layout / sizeof *layout; i++) {
        if (layout[i].is != layout[i].frozen)
            printf("\n    %s is %zu, frozen as %zu", layout[i].what, layout[i].is, layout[i].frozen);
        CU_ASSERT_EQUAL(layout[i].is, layout[i].frozen);
    }
}

static void enum_values_are_the_frozen_ones(void)
{
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (values[i].is != values[i].frozen)
            printf("\n    %s is %d, frozen as %d", values[i].name, values[i].is, values[i].frozen);
        CU_ASSERT_EQUAL(values[i].is, values[i].frozen);
    }
}

static void constants_are_the_frozen_ones(void)
{
    CU_ASSERT_EQUAL(SHARPI_PLUGIN_MAGIC, 0x49505253);
    CU_ASSERT_EQUAL(memcmp(&(uint32_t){SHARPI_PLUGIN_MAGIC}, "SRPI", 4), 0);
    CU_ASSERT_EQUAL(SHARPI_ABI_MAJOR, 1);
    CU_ASSERT_EQUAL(SHARPI_KV_PAGE, 64);
    CU_ASSERT_EQUAL(SHARPI_OP_MAX_INPUTS, 4);
    CU_ASSERT_EQUAL(SHARPI_OP_MAX_WEIGHTS, 8);
    CU_ASSERT_EQUAL(SHARPI_CUDA_COUNTER_BYTES, 4096);
}

/* Block geometry is part of the file format, and inline in plugins. */
static void block_geometry_is_the_frozen_one(void)
{
    static const struct {
        int32_t type;
        const char *name;
        uint32_t elems, bytes;
    } types[] = {{SHARPI_TYPE_F32, "f32", 1, 4},           {SHARPI_TYPE_F16, "f16", 1, 2},
                 {SHARPI_TYPE_BF16, "bf16", 1, 2},         {SHARPI_TYPE_Q4_0, "q4_0", 32, 18},
                 {SHARPI_TYPE_Q4_1, "q4_1", 32, 20},       {SHARPI_TYPE_Q5_0, "q5_0", 32, 22},
                 {SHARPI_TYPE_Q5_1, "q5_1", 32, 24},       {SHARPI_TYPE_Q8_0, "q8_0", 32, 34},
                 {SHARPI_TYPE_Q2_K, "q2_k", 256, 84},      {SHARPI_TYPE_Q3_K, "q3_k", 256, 110},
                 {SHARPI_TYPE_Q4_K, "q4_k", 256, 144},     {SHARPI_TYPE_Q5_K, "q5_k", 256, 176},
                 {SHARPI_TYPE_Q6_K, "q6_k", 256, 210},     {SHARPI_TYPE_IQ4_NL, "iq4_nl", 32, 18},
                 {SHARPI_TYPE_IQ4_XS, "iq4_xs", 256, 136}, {SHARPI_TYPE_MXFP4, "mxfp4", 32, 17}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const struct sharpi_type_info *info = sharpi_type_info(types[i].type);
        CU_ASSERT_PTR_NOT_NULL_FATAL(info);
        CU_ASSERT_STRING_EQUAL(info->name, types[i].name);
        CU_ASSERT_EQUAL(info->block_elems, types[i].elems);
        CU_ASSERT_EQUAL(info->block_bytes, types[i].bytes);
        CU_ASSERT_EQUAL(sharpi_row_bytes(types[i].type, 512), 512 / types[i].elems * types[i].bytes);
    }
    CU_ASSERT_PTR_NULL(sharpi_type_info(-1));
    CU_ASSERT_EQUAL(sharpi_row_bytes(SHARPI_TYPE_Q8_0, 33), 0);
}

/* SHARPI_HAS must see a member only when the table reaches past its end and it is set. */
static void has_looks_at_size_and_value(void)
{
    struct sharpi_kv kv = {.size = sizeof kv, .name = "x"};
    CU_ASSERT(SHARPI_HAS(&kv, name));
    CU_ASSERT(!SHARPI_HAS(&kv, summary));
    kv.size = offsetof(struct sharpi_kv, name) + sizeof kv.name;
    CU_ASSERT(SHARPI_HAS(&kv, name));
    kv.size--;
    CU_ASSERT(!SHARPI_HAS(&kv, name));
}

static const CU_TestInfo tests[] = {
    {"layout_is_the_frozen_one", layout_is_the_frozen_one},
    {"enum_values_are_the_frozen_ones", enum_values_are_the_frozen_ones},
    {"constants_are_the_frozen_ones", constants_are_the_frozen_ones},
    {"block_geometry_is_the_frozen_one", block_geometry_is_the_frozen_one},
    {"has_looks_at_size_and_value", has_looks_at_size_and_value},
    CU_TEST_INFO_NULL,
};

int main(void)
{
    CU_SuiteInfo suites[] = {{"abi", NULL, NULL, NULL, NULL, (CU_TestInfo *)tests}, CU_SUITE_INFO_NULL};
    unsigned failures;
    if (sizeof(void *) != 8) {
        puts("skipped: the numbers are those of 64-bit systems");
        return 77;
    }
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
