/* Fetching with libcurl: see download.h.
 *
 * A file arrives in attempts. Each asks for what is missing (Range), and If-Range makes the server send the whole again when
 * it has another version now. Attempts follow one another as long as bytes arrive; `retries` fruitless ones end it.
 */
#include "download.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/statvfs.h>
#include <time.h>

#include "catalogue.h"
#include "command.h"
#include "partial.h"
#include "progress.h"

enum { MAX_REDIRECTS = 10, CONNECT_SECONDS = 20, STALL_SECONDS = 60, STALL_BYTES = 500, MAX_WAIT = 30 };

/* One file; the fields of the answer belong to the running attempt. */
struct transfer {
    const struct download *d;
    struct partial partial;
    struct progress progress;
    struct sharpi_error *err;
    int32_t status;                 /* why a callback stopped the attempt */
    char sha256[SHA256_DIGITS + 1]; /* what the server says of the file */
    uint64_t total;                 /* bytes of the whole file; 0 = not known */
    char etag[VALIDATOR_MAX], date[VALIDATOR_MAX];
    uint64_t range_first, range_total; /* of Content-Range; total 0 = not said */
    int has_range, body_began;
};

int32_t download_init(struct sharpi_error *err)
{
    CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
    return code ? sharpi_fail(err, SHARPI_EIO, "libcurl: %s", curl_easy_strerror(code)) : SHARPI_OK;
}

void download_fini(void)
{
    curl_global_cleanup();
}

/* ---- Requests */

static void restrict_protocols(CURL *curl, const char *url)
{
    const int secure = strncasecmp(url, "https:", 6) == 0; /* stays so through redirections */
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
#else
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS,
                     (long)(secure ? CURLPROTO_HTTPS : CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

static int stop_if_interrupted(void *user, curl_off_t total, curl_off_t now, curl_off_t up_total,
                               curl_off_t up)
{
    (void)user, (void)total, (void)now, (void)up_total, (void)up;
    return interrupted();
}

static CURL *new_request(const char *url, const char *token, char *error, struct sharpi_error *err)
{
    CURL *curl = curl_easy_init();
    char agent[64];
    if (!curl) {
        sharpi_fail(err, SHARPI_ENOMEM, "no memory for a request");
        return NULL;
    }
    snprintf(agent, sizeof agent, "sharpi/%s", sharpi_version());
    *error = '\0';
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, agent);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)MAX_REDIRECTS);
    curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, (long)STALL_BYTES);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)STALL_SECONDS);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, stop_if_interrupted);
    restrict_protocols(curl, url);
    if (token) {
        curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, token);
    }
    return curl;
}

/* ---- What the server says */

/* The value of a header line if it is `name`'s: in `value`, shortened to fit. */
static int header_is(const char *line, size_t n, const char *name, char *value, size_t value_size)
{
    size_t n_name = strlen(name);
    if (n <= n_name || line[n_name] != ':' || strncasecmp(line, name, n_name) != 0)
        return 0;
    for (n_name++; n_name < n && (line[n_name] == ' ' || line[n_name] == '\t'); n_name++)
        ;
    while (n > n_name && (line[n - 1] == '\r' || line[n - 1] == '\n' || line[n - 1] == ' '))
        n--;
    snprintf(value, value_size, "%.*s", (int)(n - n_name < value_size ? n - n_name : value_size - 1),
             line + n_name);
    return 1;
}

static size_t take_header(char *line, size_t size, size_t n, void *user)
{
    struct transfer *t = user;
    char value[VALIDATOR_MAX];
    unsigned long long first, last, total;
    (void)size;                                    /* is 1 */
    if (n > 5 && strncmp(line, "HTTP/", 5) == 0) { /* a new answer: after a redirection, say */
        t->etag[0] = t->date[0] = '\0';
        t->has_range = 0;
        t->range_total = 0;
    } else if (header_is(line, n, "etag", value, sizeof value)) {
        if (value[0] == '"') /* weak ones cannot tell whether bytes are the same */
            memcpy(t->etag, value, sizeof value);
    } else if (header_is(line, n, "last-modified", value, sizeof value)) {
        memcpy(t->date, value, sizeof value);
    } else if (header_is(line, n, "content-range", value, sizeof value)) {
        if (sscanf(value, "bytes %llu-%llu/%llu", &first, &last, &total) == 3) {
            t->has_range = 1;
            t->range_first = first;
            t->range_total = total;
        } else if (sscanf(value, "bytes */%llu", &total) == 1) {
            t->range_total = total;
        }
    } else if (header_is(line, n, "x-linked-etag", value, sizeof value)) { /* hubs say the file's sha256 so */
        size_t quote = value[0] == '"';
        value[quote + strcspn(value + quote, "\"")] = '\0';
        if (is_sha256(value + quote))
            memcpy(t->sha256, value + quote, sizeof t->sha256);
    }
    return n;
}

static int32_t check_space(const struct transfer *t, uint64_t needed)
{
    struct statvfs fs;
    char a[SIZE_TEXT], b[SIZE_TEXT];
    uint64_t available;
    if (statvfs(t->partial.path, &fs) ||
        __builtin_mul_overflow((uint64_t)fs.f_bavail, fs.f_frsize, &available) || needed <= available)
        return SHARPI_OK;
    return sharpi_fail(
        t->err, SHARPI_EFULL,
        "%s needs %s more, its file system has %s: free some, or choose another place with --dir",
        t->d->target, size_text((double)needed, a), size_text((double)available, b));
}

/* At the first bytes of an answer: do they continue what is there? */
static int32_t begin_body(struct transfer *t, CURL *curl)
{
    struct partial *p = &t->partial;
    curl_off_t length = -1;
    long code = 0;
    int32_t status = SHARPI_OK;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    curl_easy_getinfo(curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (code == 206 && (!t->has_range || t->range_first != p->n))
        return sharpi_fail(t->err, SHARPI_EFORMAT, "%s: the server sent another part than the one asked for",
                           t->d->url);
    if (code != 206)
        status = partial_restart(p, t->etag[0] ? t->etag : t->date, t->err);
    t->total = code == 206 ? t->range_total : length > 0 ? (uint64_t)length : 0;
    if (!status && t->d->bytes && t->total && t->total != t->d->bytes)
        status = sharpi_fail(t->err, SHARPI_EFORMAT, "%s has %llu bytes, the file that is wanted %llu",
                             t->d->url, (unsigned long long)t->total, (unsigned long long)t->d->bytes);
    if (!t->total)
        t->total = t->d->bytes;
    if (!status && t->total > p->n)
        status = check_space(t, t->total - p->n);
    t->body_began = 1;
    return status;
}

struct sink {
    struct transfer *transfer;
    CURL *curl;
};

static size_t take_body(char *data, size_t size, size_t n, void *user)
{
    struct sink *sink = user;
    struct transfer *t = sink->transfer;
    (void)size; /* is 1 */
    if (!t->body_began)
        t->status = begin_body(t, sink->curl);
    if (!t->status && t->total && n > t->total - t->partial.n)
        t->status = sharpi_fail(t->err, SHARPI_EFORMAT, "%s: more arrives than the %llu bytes that it has",
                                t->d->url, (unsigned long long)t->total);
    if (!t->status)
        t->status = partial_write(&t->partial, data, n, t->err);
    if (t->status)
        return 0;
    progress_show(&t->progress, t->partial.n, t->total);
    return n;
}

/* ---- Attempts */

enum outcome { DONE, AGAIN, FATAL };

static int can_pass(CURLcode code, long http)
{
    switch (code) {
    case CURLE_HTTP_RETURNED_ERROR:
        return http == 408 || http == 425 || http == 429 || http >= 500;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return 1;
    default:
        return 0;
    }
}

static int32_t fail_http(const char *url, long http, struct sharpi_error *err)
{
    if (http == 401 || http == 403)
        return sharpi_fail(
            err, SHARPI_EIO,
            "%s: the server refuses (%ld). The model may be private, or want its licence accepted "
            "on its page first; then put your token into the environment variable HF_TOKEN",
            url, http);
    if (http == 404)
        return sharpi_fail(err, SHARPI_ENOENT, "%s: no such file (404)", url);
    return sharpi_fail(err, SHARPI_EIO, "%s: the server answers %ld", url, http);
}

/* 416: there is nothing behind what we have. Complete, or a partial file of something else. */
static enum outcome nothing_left(struct transfer *t)
{
    const uint64_t whole = t->range_total ? t->range_total : t->d->bytes;
    if (whole && t->partial.n == whole)
        return DONE;
    t->status = partial_restart(&t->partial, "", t->err);
    return t->status ? FATAL : AGAIN;
}

static enum outcome judge(struct transfer *t, CURLcode code, long http, const char *error)
{
    if (t->status)
        return FATAL;
    if (interrupted()) {
        t->status = sharpi_fail(t->err, SHARPI_ECANCELLED, "stopped; the same command goes on where it was");
        return FATAL;
    }
    if (code == CURLE_OK) {
        if (!t->body_began) /* an empty file: nothing called take_body */
            t->status = partial_restart(&t->partial, "", t->err);
        if (!t->status && t->d->bytes && t->partial.n != t->d->bytes)
            t->status =
                sharpi_fail(t->err, SHARPI_EFORMAT, "%s: %llu bytes arrived, the file has %llu", t->d->url,
                            (unsigned long long)t->partial.n, (unsigned long long)t->d->bytes);
        return t->status ? FATAL : DONE;
    }
    if (code == CURLE_HTTP_RETURNED_ERROR && http == 416 && t->partial.n)
        return nothing_left(t);
    if (code == CURLE_HTTP_RETURNED_ERROR)
        t->status = fail_http(t->d->url, http, t->err);
    else
        t->status =
            sharpi_fail(t->err, SHARPI_EIO, "%s: %s", t->d->url, *error ? error : curl_easy_strerror(code));
    return can_pass(code, http) ? AGAIN : FATAL;
}

static enum outcome attempt(struct transfer *t)
{
    char error[CURL_ERROR_SIZE], range[32], if_range[VALIDATOR_MAX + 16];
    CURL *curl = new_request(t->d->url, t->d->token, error, t->err);
    struct sink sink = {t, curl};
    struct curl_slist *headers = NULL;
    enum outcome outcome;
    CURLcode code;
    long http = 0;
    if (!curl) {
        t->status = SHARPI_ENOMEM;
        return FATAL;
    }
    t->status = SHARPI_OK;
    t->body_began = 0;
    if (t->partial.n) {
        snprintf(range, sizeof range, "%llu-", (unsigned long long)t->partial.n);
        curl_easy_setopt(curl, CURLOPT_RANGE, range);
        snprintf(if_range, sizeof if_range, "If-Range: %s", t->partial.validator);
        if (t->partial.validator[0])
            headers = curl_slist_append(NULL, if_range);
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    }
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &sink);
    code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &http);
    outcome = judge(t, code, http, error);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return outcome;
}

static void wait_seconds(double seconds)
{
    const double end = now_seconds() + seconds;
    while (!interrupted() && now_seconds() < end)
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
}

static int32_t attempts(struct transfer *t)
{
    uint32_t fruitless = 0;
    for (;;) {
        const uint64_t before = t->partial.n;
        enum outcome outcome = attempt(t);
        double wait;
        char size[SIZE_TEXT];
        if (outcome == DONE)
            return SHARPI_OK;
        fruitless = t->partial.n > before ? 0 : fruitless + 1;
        if (outcome == FATAL || fruitless > t->d->retries)
            return t->status;
        wait = fruitless < 6 ? 0.5 * (double)(1u << fruitless) : MAX_WAIT;
        progress_end(&t->progress);
        if (!t->d->quiet)
            fprintf(stderr, "%s\nagain from %s in %.1f s\n",
                    t->status ? t->err->text : "the server has another file now",
                    size_text((double)t->partial.n, size), wait);
        wait_seconds(wait);
    }
}

int32_t download_file(const struct download *d, struct sharpi_error *err)
{
    struct sharpi_error own = SHARPI_ERROR_INIT;
    struct transfer t = {.d = d, .err = &own};
    const char *name = strrchr(d->target, '/');
    int32_t status = partial_open(&t.partial, d->target, d->sha256 != NULL, &own);
    if (!status) {
        progress_begin(&t.progress, name ? name + 1 : d->target, (int)d->quiet, 1);
        if (!d->bytes || t.partial.n != d->bytes) /* else a run ended just before the last step */
            status = attempts(&t);
        progress_end(&t.progress);
        if (!status)
            status = partial_finish(&t.partial, d->sha256 ? d->sha256 : t.sha256[0] ? t.sha256 : NULL, &own);
        partial_close(&t.partial);
    }
    return status ? sharpi_fail(err, status, "%s", own.text) : SHARPI_OK;
}

/* ---- Small texts */

struct text {
    char *data;
    uint64_t n, limit;
};

static size_t take_text(char *data, size_t size, size_t n, void *user)
{
    struct text *t = user;
    char *bigger;
    (void)size;
    if (n > t->limit - t->n || !(bigger = realloc(t->data, t->n + n + 1)))
        return 0;
    memcpy(bigger + t->n, data, n);
    t->data = bigger;
    t->n += n;
    bigger[t->n] = '\0';
    return n;
}

int32_t download_text(const char *url, const char *token, uint64_t limit, char **text, long *http_status,
                      struct sharpi_error *err)
{
    char error[CURL_ERROR_SIZE];
    struct text t = {.limit = limit};
    CURL *curl = new_request(url, token, error, err);
    CURLcode code;
    int32_t status = SHARPI_OK;
    *http_status = 0;
    if (!curl)
        return SHARPI_ENOMEM;
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_text);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &t);
    code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, http_status);
    curl_easy_cleanup(curl);
    if (code == CURLE_HTTP_RETURNED_ERROR)
        status = fail_http(url, *http_status, err);
    else if (code || !t.data)
        status = sharpi_fail(err, SHARPI_EIO, "%s: %s", url, *error ? error : curl_easy_strerror(code));
    if (status)
        free(t.data);
    else
        *text = t.data;
    return status;
}
