/* A plan as text for people. */
#include "plan-internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* 262,144: digits in groups of three; returns buffer. */
static const char *number(uint64_t value, char buffer[32])
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%" PRIu64, value), at = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0)
            buffer[at++] = ',';
        buffer[at++] = digits[i];
    }
    buffer[at] = 0;
    return buffer;
}

static const char *limit_text(const struct sharpi_plan *plan)
{
    switch (plan->context_limit) {
    case SHARPI_CONTEXT_ASKED:
        return "as asked";
    case SHARPI_CONTEXT_MODEL:
        return "the model's own maximum";
    case SHARPI_CONTEXT_CAP:
        return "the automatic limit on a CPU; -c asks for more";
    case SHARPI_CONTEXT_MEMORY:
        return "one more does not fit";
    default:
        return "the least that is of use; it does not fit";
    }
}

static void print_head(const struct sharpi_plan *plan, FILE *out)
{
    char a[32], b[32];
    fprintf(out, "model     %s (%s, %u layers, made for %s positions)\n",
            plan->model_name && *plan->model_name ? plan->model_name
            : plan->model_path                    ? plan->model_path
                                                  : "?",
            plan->model_arch ? plan->model_arch : "?", plan->n_layers, number(plan->context_model, a));
    fprintf(out, "context   %s positions", number(plan->context, a));
    if (plan->max_seqs > 1)
        fprintf(out, " for each of %u sequences", plan->max_seqs);
    if (plan->pool)
        fprintf(out, ", %s for all together", number(plan->pool, b));
    fprintf(out, ": %s\n", limit_text(plan));
    fprintf(out, "chunk     %s tokens; rings keep %s positions beyond their window\n", number(plan->chunk, a),
            plan->full_cache ? "all" : number(plan->headroom, b));
}

static void print_classes(const struct sharpi_plan *plan, FILE *out)
{
    char a[32], b[32], size[24];
    for (uint32_t i = 0; i < plan->n_classes; i++) {
        const struct sharpi_plan_class *c = &plan->classes[i];
        char name[48] = "global";
        if (c->window)
            snprintf(name, sizeof name, "window %s", number(c->window, b));
        fprintf(out, "KV        %-13s %3u layers, %s, %s positions: %s", name, c->n_layers, c->format,
                number(c->ring, a), sharpi_plan_size(c->kv_bytes, size));
        if (c->n_borrowing)
            fprintf(out, " (%u more layers borrow it)", c->n_borrowing);
        fprintf(out, "\n");
    }
}

/* "layers 3 to 7", "layer 3"; returns what snprintf would, 0 for none. */
static size_t put_layers(char *text, size_t n, const char *before, uint32_t first, uint32_t end)
{
    if (first >= end || n == 0)
        return 0;
    if (first + 1 == end)
        return (size_t)snprintf(text, n, "%slayer %u", before, first);
    return (size_t)snprintf(text, n, "%slayers %u to %u", before, first, end - 1);
}

const char *sharpi_plan_describe_part(const struct sharpi_plan *plan, const struct sharpi_plan_part *p,
                                      char text[SHARPI_PLAN_PART_TEXT])
{
    const size_t n = SHARPI_PLAN_PART_TEXT;
    const uint32_t first = p->first_segment ? p->first_segment - 1 : 0;
    const uint32_t experts = p->n_expert_layers < plan->n_layers ? p->n_expert_layers : plan->n_layers;
    size_t at = 0;
    text[0] = 0;
    if (p->first_segment < p->end_segment) {
        at = put_layers(text, n, "", first,
                        p->end_segment > plan->n_layers ? plan->n_layers : p->end_segment - 1);
        if (p->end_segment == plan->n_segments)
            at += (size_t)snprintf(text + at, n - at, "%soutput", at ? ", " : "");
    }
    put_layers(text + at, n - at, at ? ", experts of " : "experts of ", 0, experts);
    return text;
}

static void print_range(const struct sharpi_plan *plan, const struct sharpi_plan_part *p, FILE *out)
{
    char text[SHARPI_PLAN_PART_TEXT];
    sharpi_plan_describe_part(plan, p, text);
    fprintf(out, "%s", *text ? text : p->host ? "looks up embeddings" : "not used");
}

static const char *reserve_text(const struct sharpi_plan *plan, const struct sharpi_plan_part *p, char *text,
                                size_t n)
{
    const char *inside = p->runtime_bytes ? "scratch and runtime inside" : "scratch inside";
    if (plan->reserve.mode == SHARPI_RESERVE_EXACT)
        return "safety margin, as everything else is counted";
    if (plan->reserve.mode == SHARPI_RESERVE_BYTES)
        snprintf(text, n, "kept free as asked, %s", inside);
    else if (p->reserve_bytes == sharpi_reserve_dense(p->total_bytes))
        snprintf(text, n, "kept free, %s: max(total / 3, 2 GiB), as KV without windows grows into any room",
                 inside);
    else
        snprintf(text, n, "kept free, %s: the architecture's rule; windowed KV stops growing", inside);
    return text;
}

static void print_bytes(FILE *out, const char *what, uint64_t n_bytes, const char *why)
{
    char size[24];
    if (n_bytes)
        fprintf(out, "            %10s  %s%s%s\n", sharpi_plan_size(n_bytes, size), what, *why ? ": " : "",
                why);
}

static void print_part(const struct sharpi_plan *plan, const struct sharpi_plan_part *p, FILE *out)
{
    char total[24], free_text[24], why[128];
    fprintf(out, "%-9s %s: ", p->host ? "host" : "device", p->name);
    print_range(plan, p, out);
    if (p->total_bytes)
        fprintf(out, "\n            %10s  in all, %s of it free", sharpi_plan_size(p->total_bytes, total),
                sharpi_plan_size(p->free_bytes, free_text));
    fprintf(out, "\n");
    print_bytes(out, "weights", p->weight_bytes, "");
    print_bytes(out, "weights used in the file mapping", p->mapped_bytes, "");
    print_bytes(out, "KV", p->kv_bytes, "");
    print_bytes(out, "activations between devices", p->carried_bytes, "");
    print_bytes(out, "scratch", p->scratch_bytes, "");
    print_bytes(out, "runtime", p->runtime_bytes, "what the driver keeps for this process");
    print_bytes(out, "reserve", p->reserve_bytes, reserve_text(plan, p, why, sizeof why));
    if (p->runtime_bytes && p->scratch_bytes)
        print_bytes(out, "in use once loaded",
                    p->weight_bytes + p->kv_bytes + p->scratch_bytes + p->runtime_bytes, "");
    if (p->short_bytes)
        print_bytes(out, "TOO LITTLE", p->short_bytes, "it does not fit");
    else if (p->total_bytes)
        print_bytes(out, "left over", p->free_bytes - p->needed_bytes, "");
}

static void print_list(FILE *out, const char *title, const struct sharpi_plan_text *text)
{
    for (uint32_t i = 0; i < text->n; i++)
        fprintf(out, "%s  - %s\n", i ? "" : title, text->lines[i]);
}

int32_t sharpi_plan_text(const struct sharpi_plan *plan, char **out, struct sharpi_error *err)
{
    size_t n = 0;
    FILE *stream = open_memstream(out, &n);
    if (!stream)
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to print a plan");
    print_head(plan, stream);
    print_classes(plan, stream);
    for (uint32_t i = 0; i < plan->n_parts; i++)
        print_part(plan, &plan->parts[i], stream);
    print_list(stream, "note\n", &plan->notes);
    print_list(stream, "not chosen\n", &plan->rejected);
    if (fclose(stream))
        return sharpi_fail(err, SHARPI_ENOMEM, "no memory to print a plan");
    return SHARPI_OK;
}
