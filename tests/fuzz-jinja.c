/* Fuzz target of chat templates: the input is a template, optionally a zero byte and a context in JSON. Everything
 * is bounded, so a run that takes long is a finding too. Build with clang -fsanitize=fuzzer,address,undefined; seeds
 * are tests/data/templates/ *.jinja. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/jinja/jinja.h"

static const char standard_context[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"hi \\u00e9\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"abcdefghi\",\"type\":\"function\","
    "\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,null,true]}}}]},{\"role\":\"tool\",\"content\":"
    "\"3\"}],"
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":"
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"array\"}},\"required\":[\"a\"]}}}],"
    "\"add_generation_prompt\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"n\":5,\"f\":2.5,\"s\":\"a "
    "b\","
    "\"l\":[3,1,2],\"d\":{\"b\":1,\"a\":2}}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct sharpi_template_limits limits = {.max_steps = 200000,
                                                         .max_output_bytes = 1 << 20,
                                                         .max_memory_bytes = 16 << 20,
                                                         .has_time = 1,
                                                         .time = 1753600000};
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n_source = zero ? (size_t)(zero - data) : size;
    struct sharpi_template_text text = {0};
    struct sharpi_template_failure failure;
    struct sharpi_error err = SHARPI_ERROR_INIT;
    struct sharpi_template *tmpl;
    json_t *context = NULL;

    if (sharpi_template_compile((const char *)data, n_source, &tmpl, &failure, &err) != SHARPI_OK)
        return 0;
    if (zero)
        context = json_loadb((const char *)zero + 1, size - n_source - 1, JSON_ALLOW_NUL, NULL);
    if (!context)
        context = json_loads(standard_context, 0, NULL);
    sharpi_template_render(tmpl, context, &limits, &text, &failure, &err);
    sharpi_template_text_free(&text);
    sharpi_template_destroy(tmpl);
    json_decref(context);
    return 0;
}
