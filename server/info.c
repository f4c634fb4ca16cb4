/* Routes about the server itself: health, models, plan, metrics, the chat page. */
#include <stdlib.h>
#include <time.h>

#include "handlers.h"
#include "page.h"

static int32_t respond_json(struct exchange *x, json_t *json)
{
    text_put_json(&x->out, json);
    text_puts(&x->out, "\n");
    return 0;
}

/* ---- Health */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A step that does not return, or none although there is work. */
static double stuck_for(const struct sharpi_scheduler_pulse *pulse)
{
    double since = pulse->in_step ? pulse->step_begin : pulse->step_end;
    return (pulse->in_step || pulse->has_work) && since > 0 ? now() - since : 0;
}

int32_t handle_health(struct exchange *x)
{
    struct sharpi_scheduler_pulse pulse;
    double stuck;
    memset(&pulse, 0, sizeof pulse);
    sharpi_scheduler_get_pulse(x->server->scheduler, &pulse);
    stuck = stuck_for(&pulse);
    if (x->server->draining)
        return http_fail(&x->error, 503, "shutting_down", NULL, "the server is shutting down");
    if (pulse.in_step && stuck > x->server->settings->hang_timeout)
        return http_fail(&x->error, 503, "step_hangs", NULL,
                         "a step began %.0f seconds ago and has not returned", stuck);
    return respond_json(x, json_pack("{s:s, s:b, s:b}", "status", "ok", "busy", pulse.has_work != 0,
                                     "in_step", pulse.in_step != 0));
}

/* ---- Models, with the fields of both APIs */

static json_t *model_json(const struct server *server, const char *id, size_t n)
{
    struct sharpi_model_info info = {.size = sizeof info};
    char created[32];
    struct tm parts;
    time_t started = server->started_at;
    sharpi_model_get_info(server->model, &info);
    gmtime_r(&started, &parts);
    strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return json_pack("{s:s%, s:s, s:I, s:s, s:s, s:o, s:s, s:{s:s, s:I, s:I, s:I, s:I, s:I, s:b}}", "id", id,
                     n, "object", "model", "created", (json_int_t)server->started_at, "owned_by", "sharpi",
                     "type", "model", "display_name", json_clean(info.name, strlen(info.name)), "created_at",
                     created, "meta", "architecture", info.arch, "context", (json_int_t)info.context,
                     "context_model", (json_int_t)info.context_model, "vocabulary", (json_int_t)info.n_vocab,
                     "parameters", (json_int_t)info.n_parameters, "bytes", (json_int_t)info.file_bytes,
                     "embeddings", server->embeddings);
}

int32_t handle_models(struct exchange *x)
{
    const char *alias = x->server->settings->alias, *word;
    json_t *data = json_pack("[o]", model_json(x->server, x->server->model_id, strlen(x->server->model_id)));
    uint64_t n;
    while ((word = list_next(&alias, &n)), n) {
        if (*word != '*')
            json_array_append_new(data, model_json(x->server, word, n));
    }
    return respond_json(x, json_pack("{s:s, s:o, s:b, s:s, s:s}", "object", "list", "data", data, "has_more",
                                     0, "first_id", x->server->model_id, "last_id", x->server->model_id));
}

int32_t handle_model(struct exchange *x)
{
    size_t n = strlen(x->path_rest);
    if (strcmp(x->path_rest, x->server->model_id) != 0 &&
        !list_has(x->server->settings->alias, x->path_rest, n))
        return http_fail(&x->error, 404, "model_not_found", NULL,
                         "there is no model '%.100s' here; this server has '%s'", x->path_rest,
                         x->server->model_id);
    return respond_json(x, model_json(x->server, x->path_rest, n));
}

/* ---- The rest */

int32_t handle_plan(struct exchange *x)
{
    struct sharpi_error err = SHARPI_ERROR_INIT;
    char *text = NULL;
    int32_t status;
    if (!x->server->model->plan)
        return http_fail(&x->error, 404, "not_found", NULL, "the model was loaded without a plan");
    status = sharpi_plan_json(x->server->model->plan, &text, &err);
    if (status)
        return http_fail_status(&x->error, status, &err);
    text_puts(&x->out, text);
    free(text);
    return 0;
}

int32_t handle_metrics(struct exchange *x)
{
    metrics_print(x->server, &x->out);
    x->content_type = "text/plain; version=0.0.4; charset=utf-8";
    return 0;
}

int32_t handle_page(struct exchange *x)
{
    x->content_type = PAGE_TYPE;
    return page_print(&x->out, x->nonce)
               ? http_fail(&x->error, 503, NULL, NULL, "the system has no random numbers yet; try again")
               : 0;
}
