/* Preloaded into sharpi serve: while the file that FAIL_MALLOC_FILE names holds a number N, every N-th allocation fails.
 *
 * The file is looked at every 256 allocations. (Memory that the C library takes for itself is not counted.)
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t n);

static _Atomic unsigned long count, every;

/* Without allocating itself. */
static void look(void)
{
    const char *path = getenv("FAIL_MALLOC_FILE");
    char text[16] = "";
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n;
    if (fd < 0)
        return;
    n = read(fd, text, sizeof text - 1);
    close(fd);
    every = n > 0 ? strtoul(text, NULL, 10) : 0;
}

static int fails(void)
{
    unsigned long number = ++count, n;
    int saved = errno;
    if (number % 256 == 0)
        look();
    errno = saved;
    n = every;
    if (!n || number % n != 0)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t __size)
{
    return fails() ? NULL : __libc_malloc(__size);
}

void *calloc(size_t __nmemb, size_t __size)
{
    return fails() ? NULL : __libc_calloc(__nmemb, __size);
}

void *realloc(void *__ptr, size_t __size)
{
    return fails() ? NULL : __libc_realloc(__ptr, __size);
}
