/* What the operating system says about cores and memory: affinity, cgroup (version 2) limits, /proc and /sys.
 *
 * Every file may be missing or say nonsense; then the next best answer counts.
 */
#include "device.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* First line of a file without its newline; 0 if there is none. */
static int read_line(const char *path, char *line, int n)
{
    FILE *file = fopen(path, "re");
    char *got;
    if (!file)
        return 0;
    got = fgets(line, n, file);
    fclose(file);
    if (got)
        line[strcspn(line, "\n")] = 0;
    return got != NULL;
}

/* True if `cpu` is the first of the CPUs that share its core, so that each core counts once. Siblings that we may not run
 * on do not count against it: the caller passes the set. */
static int leads_core(int cpu, const cpu_set_t *allowed)
{
    char path[96], line[256];
    char *at = line;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    if (!read_line(path, line, sizeof line))
        return 1;
    while (*at) { /* "0,64" or "0-1" */
        char *end;
        long first = strtol(at, &end, 10), last = first;
        if (end == at)
            break;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        for (long c = first; c <= last && c < CPU_SETSIZE && c < cpu; c++) {
            if (c >= 0 && CPU_ISSET((int)c, allowed))
                return 0;
        }
        at = *end == ',' ? end + 1 : end;
        if (*end != ',')
            break;
    }
    return 1;
}

uint32_t machine_cores(void)
{
    cpu_set_t allowed;
    char line[64];
    uint64_t quota, period;
    uint32_t n = 0;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            n += CPU_ISSET(cpu, &allowed) && leads_core(cpu, &allowed);
    } else {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        n = online > 0 ? (uint32_t)online : 1;
    }
    if (read_line("/sys/fs/cgroup/cpu.max", line, sizeof line) &&
        sscanf(line, "%" SCNu64 " %" SCNu64, &quota, &period) == 2 && period && quota) {
        uint64_t cores = (quota + period - 1) / period;
        n = cores < n ? (uint32_t)cores : n;
    }
    return n ? n : 1;
}

static uint64_t read_bytes(const char *path)
{
    char line[64];
    uint64_t value;
    return read_line(path, line, sizeof line) && sscanf(line, "%" SCNu64, &value) == 1 ? value : 0;
}

void machine_memory(uint64_t *total, uint64_t *available)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    uint64_t value, limit, used;
    *total = *available = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "MemTotal: %" SCNu64, &value) == 1)
            *total = value << 10;
        if (sscanf(line, "MemAvailable: %" SCNu64, &value) == 1)
            *available = value << 10;
    }
    if (file)
        fclose(file);
    limit = read_bytes("/sys/fs/cgroup/memory.max"); /* "max" reads as 0 */
    used = read_bytes("/sys/fs/cgroup/memory.current");
    if (limit && limit < *total)
        *total = limit;
    if (limit && limit - (used < limit ? used : limit) < *available)
        *available = limit - (used < limit ? used : limit);
}

void machine_name(char *name, uint64_t n)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];
    const char *colon;
    snprintf(name, n, "CPU");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon || !colon[1])
            continue;
        snprintf(name, n, "%s", colon + 2);
        break;
    }
    if (file)
        fclose(file);
}
