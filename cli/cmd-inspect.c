/* sharpi inspect: what a GGUF file holds (metadata, tensors) and how its forward pass is stated (--graph). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "core/model.h"

struct inspect {
    struct common common;
    uint32_t graph, tensors, metadata, full;
};

/* Prints text with control characters and bytes that are not ASCII as they are if valid in a terminal, else escaped. */
static void print_string(struct sharpi_str s, uint64_t limit)
{
    uint64_t i;
    putchar('"');
    for (i = 0; i < s.n && i < limit; i++) {
        unsigned char c = (unsigned char)s.data[i];
        if (c == '\n')
            printf("\\n");
        else if (c < 0x20 || c == 0x7f)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    printf(i < s.n ? "\"... (%" PRIu64 " bytes)" : "\"", s.n);
}

/* A scalar is looked up by its key, an array's element through the array. */
static void print_element(const struct sharpi_gguf *gguf, const struct sharpi_gguf_value *v, const char *key,
                          uint64_t i)
{
    const uint32_t is_array = v->type == SHARPI_GGUF_ARRAY, type = is_array ? v->elem_type : v->type;
    uint64_t u = 0;
    double f = 0;
    int32_t status =
        is_array ? sharpi_gguf_array_u64(gguf, v, i, &u, NULL) : sharpi_gguf_u64(gguf, key, &u, NULL);
    if (status == SHARPI_OK) {
        if (type == SHARPI_GGUF_BOOL)
            printf("%s", u ? "true" : "false");
        else
            printf("%" PRIu64, u);
        return;
    }
    status = is_array ? sharpi_gguf_array_f64(gguf, v, i, &f, NULL) : sharpi_gguf_f64(gguf, key, &f, NULL);
    if (status)
        printf("?");
    else if (type == SHARPI_GGUF_F32 || type == SHARPI_GGUF_F64)
        printf("%g", f);
    else
        printf("%.0f", f); /* a negative integer */
}

static void print_strings(const struct sharpi_gguf *gguf, const char *key, uint64_t limit,
                          uint64_t characters)
{
    struct sharpi_str *strings;
    uint64_t n, i;
    if (sharpi_gguf_strings(gguf, key, &strings, &n, NULL))
        return;
    for (i = 0; i < n && i < limit; i++) {
        printf(i ? ", " : "");
        print_string(strings[i], characters);
    }
    free(strings);
}

static void print_value(const struct inspect *o, const struct sharpi_gguf *gguf,
                        const struct sharpi_gguf_value *v)
{
    uint64_t limit = o->full ? UINT64_MAX : 6, characters = o->full ? UINT64_MAX : 60, i;
    char key[512];
    snprintf(key, sizeof key, "%.*s", v->key.n < 500 ? (int)v->key.n : 500, v->key.data);
    printf("  %-45s ", key);
    if (v->type == SHARPI_GGUF_STRING) {
        print_string((struct sharpi_str){v->data, v->n_bytes}, characters);
    } else if (v->type != SHARPI_GGUF_ARRAY) {
        print_element(gguf, v, key, 0);
    } else {
        printf("[%" PRIu64 "] ", v->n);
        if (v->elem_type == SHARPI_GGUF_STRING)
            print_strings(gguf, key, limit, characters);
        else if (v->elem_type == SHARPI_GGUF_ARRAY)
            printf("arrays");
        else
            for (i = 0; i < v->n && i < limit; i++) {
                printf(i ? ", " : "");
                print_element(gguf, v, key, i);
            }
        printf(v->n > limit ? ", ..." : "");
    }
    printf("\n");
}

static void print_tensor(const struct sharpi_tensor *t)
{
    uint32_t d;
    printf("  %-45s %-7s [", t->name, sharpi_type_info(t->type)->name);
    for (d = 0; d < t->n_dims; d++)
        printf("%s%" PRIu64, d ? ", " : "", t->ne[d]);
    printf("]  %" PRIu64 " bytes\n", t->n_bytes);
}

static void print_file(const struct inspect *o, const struct sharpi_gguf *gguf)
{
    uint64_t i;
    int all = !o->tensors && !o->metadata;
    printf("%s: GGUF v%u, %" PRIu64 " bytes, %" PRIu64 " metadata values, %" PRIu64 " tensors\n",
           sharpi_gguf_path(gguf), sharpi_gguf_version(gguf), sharpi_gguf_file_bytes(gguf),
           sharpi_gguf_n_values(gguf), sharpi_gguf_n_tensors(gguf));
    for (i = 0; (all || o->metadata) && i < sharpi_gguf_n_values(gguf); i++)
        print_value(o, gguf, sharpi_gguf_value_at(gguf, i));
    for (i = 0; (all || o->tensors) && i < sharpi_gguf_n_tensors(gguf); i++)
        print_tensor(sharpi_gguf_tensor_at(gguf, i));
}

static int32_t print_graph(const struct inspect *o, const char *path, struct sharpi_error *err)
{
    struct sharpi_engine *engine = NULL;
    struct sharpi_model *model = NULL;
    char line[1024];
    uint32_t i;
    int32_t status = open_engine(&o->common, &engine, err);
    if (!status)
        status = sharpi_model_open(engine, path, SHARPI_GGUF_HEADER_ONLY, &model, err);
    if (!status) {
        printf("%s: %s, %u layers, width %u, %u heads, vocabulary %u, context %u\n", path,
               model->arch_offer->name, model->desc.n_layers, model->desc.width, model->desc.n_heads,
               model->desc.n_vocab, model->desc.context_length);
        for (i = 0; i < sharpi_graph_view(model->graph)->n_ops; i++) {
            sharpi_graph_describe_op(model->graph, i, line, sizeof line);
            puts(line);
        }
    }
    sharpi_model_free(model);
    sharpi_engine_close(engine);
    return status;
}

static int inspect_command(int argc, char **argv)
{
    struct inspect o = {.graph = 0};
    struct sharpi_gguf *gguf = NULL;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    const char *args[1] = {NULL};
    uint32_t n_args;
    int32_t status;
    int code;
    const struct option own[] = {
        {"model", 'm', OPTION_STRING, "FILE", "GGUF file (or as the one argument)", &o.common.model, NULL},
        {"metadata", 0, OPTION_FLAG, NULL, "metadata only", &o.metadata, NULL},
        {"tensors", 0, OPTION_FLAG, NULL, "tensors only", &o.tensors, NULL},
        {"full", 0, OPTION_FLAG, NULL, "whole arrays and strings", &o.full, NULL},
        {"graph", 0, OPTION_FLAG, NULL, "the forward pass as the architecture plugin states it", &o.graph,
         NULL},
        {NULL, 0, 0, NULL, NULL, NULL, NULL}};
    const struct option *tables[] = {own, o.common.engine_options, NULL};
    common_init(&o.common);
    code = parse_command("inspect", "sharpi inspect [OPTIONS] FILE", "Shows what a GGUF file holds.", tables,
                         argc, argv, args, 1, &n_args);
    if (code >= 0)
        return code;
    if (n_args)
        o.common.model = args[0];
    if (!o.common.model) {
        sharpi_fail(&err, SHARPI_EINVAL, "no file given");
        return fail_usage("inspect", &err);
    }
    if (o.graph) {
        status = print_graph(&o, o.common.model, &err);
    } else {
        status = sharpi_gguf_open(o.common.model, SHARPI_GGUF_HEADER_ONLY, &gguf, &err);
        if (!status)
            print_file(&o, gguf);
        sharpi_gguf_close(gguf);
    }
    return status ? fail("inspect", &err) : EXIT_OK;
}

const struct command command_inspect = {"inspect", "metadata, tensors and graph of a file", inspect_command};
