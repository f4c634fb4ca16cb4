/* Progress bars and lines: see progress.h. A bar appears only when something takes a while, at most ten times a second. */
#include "progress.h"

#include <stdio.h>
#include <string.h>

#include "command.h"

void progress_begin(struct progress *p, const char *what, int quiet, int lines)
{
    const int terminal = stderr_is_terminal();
    *p = (struct progress){.what = what,
                           .bar = terminal && !quiet,
                           .lines = lines && !terminal && !quiet,
                           .start = now_seconds()};
}

const char *size_text(double bytes, char text[SIZE_TEXT])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    uint32_t unit = 0;
    for (; bytes >= 1024 && unit < 4; unit++)
        bytes /= 1024;
    snprintf(text, SIZE_TEXT, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}

/* " 120.0 MiB of 241.4 MiB, 8.1 MiB/s, 0:15 left" */
static void print_amount(const struct progress *p, uint64_t done, uint64_t total, double seconds)
{
    const double rate = seconds > 0 ? (double)(done - p->first) / seconds : 0;
    char a[SIZE_TEXT], b[SIZE_TEXT], c[SIZE_TEXT];
    fprintf(stderr, " %s", size_text((double)done, a));
    if (total)
        fprintf(stderr, " of %s", size_text((double)total, b));
    fprintf(stderr, ", %s/s", size_text(rate, c));
    if (total > done && rate > 0) {
        uint64_t left = (uint64_t)((double)(total - done) / rate);
        if (left < 360000)
            fprintf(stderr, ", %u:%02u left", (uint32_t)(left / 60), (uint32_t)(left % 60));
    }
}

static void draw_bar(const struct progress *p, uint64_t done, uint64_t total, double seconds)
{
    enum { WIDTH = 24 };
    uint64_t filled = total ? done * WIDTH / total : 0;
    fprintf(stderr, "\r%s [", p->what);
    for (uint64_t i = 0; i < WIDTH; i++)
        fputc(i < filled ? '#' : '.', stderr);
    fprintf(stderr, "] %3u%%", total ? (uint32_t)(done * 100 / total) : 0);
    print_amount(p, done, total, seconds);
    fputs("\033[K", stderr);
}

void progress_show(struct progress *p, uint64_t done, uint64_t total)
{
    const double now = now_seconds(), seconds = now - p->start;
    if (total && done > total)
        done = total;
    if (!p->first || done < p->first)
        p->first = done;
    if (p->bar && seconds >= 0.3 && (now - p->last >= 0.1 || done == total)) {
        draw_bar(p, done, total, seconds);
        p->last = now;
        p->shown = 1;
    } else if (p->lines && (total ? done * 10 / total > p->tenths : now - p->last >= 10 && p->last > 0)) {
        p->tenths = total ? done * 10 / total : 0;
        fprintf(stderr, "%s", p->what);
        print_amount(p, done, total, seconds);
        fputc('\n', stderr);
        p->last = now;
    } else if (p->last == 0) {
        p->last = now;
    }
}

void progress_end(struct progress *p)
{
    if (p->shown)
        fprintf(stderr, "\r\033[K");
    p->shown = 0;
}
