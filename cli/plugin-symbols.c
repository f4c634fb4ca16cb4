/* See plugin-symbols.h. 64-bit ELF of this machine's byte order; every offset is checked against the file. */
#include "cli/plugin-symbols.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 30 };

/* The file in memory. */
struct image {
    const char *path;
    char *bytes;
    uint64_t n;
    Elf64_Ehdr head;
    struct sharpi_error *err;
};

static int32_t broken(const struct image *image, const char *what)
{
    return sharpi_fail(image->err, SHARPI_EFORMAT, "%s: %s", image->path, what);
}

static int32_t read_file(struct image *image)
{
    FILE *file = fopen(image->path, "rbe");
    long end;
    int32_t status = SHARPI_OK;
    if (!file)
        return sharpi_fail(image->err, SHARPI_EIO, "%s: %s", image->path, strerror(errno));
    if (fseek(file, 0, SEEK_END) != 0 || (end = ftell(file)) < 0 || end > MAX_FILE) {
        fclose(file);
        return broken(image, "not a file of at most 1 GiB");
    }
    rewind(file);
    image->bytes = malloc((size_t)end + 1);
    if (!image->bytes)
        status = sharpi_fail(image->err, SHARPI_ENOMEM, "%s: no memory to read it", image->path);
    else if ((image->n = fread(image->bytes, 1, (size_t)end, file)) != (size_t)end)
        status = sharpi_fail(image->err, SHARPI_EIO, "%s: cannot be read", image->path);
    fclose(file);
    return status;
}

static int32_t check_head(struct image *image)
{
    const uint16_t one = 1;
    const int order = *(const uint8_t *)&one ? ELFDATA2LSB : ELFDATA2MSB;
    if (image->n < sizeof image->head || memcmp(image->bytes, ELFMAG, SELFMAG) != 0)
        return broken(image, "not an ELF file");
    memcpy(&image->head, image->bytes, sizeof image->head);
    if (image->head.e_ident[EI_CLASS] != ELFCLASS64 || image->head.e_ident[EI_DATA] != order)
        return broken(image, "not a 64-bit ELF file of this machine's byte order");
    if (image->head.e_type != ET_DYN)
        return broken(image, "an ELF file, but not a shared object");
    if (image->head.e_shentsize != sizeof(Elf64_Shdr) || image->head.e_shnum == 0)
        return broken(image, "has no section table, so its symbols cannot be checked");
    return SHARPI_OK;
}

/* Section header `index`, with its bytes inside the file; 0 if it is not. */
static int get_section(const struct image *image, uint32_t index, Elf64_Shdr *section)
{
    uint64_t at, end;
    if (index >= image->head.e_shnum ||
        __builtin_add_overflow(image->head.e_shoff, (uint64_t)index * sizeof *section, &at) ||
        __builtin_add_overflow(at, sizeof *section, &end) || end > image->n)
        return 0;
    memcpy(section, image->bytes + at, sizeof *section);
    return section->sh_type == SHT_NOBITS ||
           (!__builtin_add_overflow(section->sh_offset, section->sh_size, &end) && end <= image->n);
}

/* String `offset` of string section `index`, NULL if it does not end inside. */
static const char *get_string(const struct image *image, uint32_t index, uint64_t offset)
{
    Elf64_Shdr strings;
    if (!get_section(image, index, &strings) || strings.sh_type != SHT_STRTAB || offset >= strings.sh_size)
        return NULL;
    const char *text = image->bytes + strings.sh_offset + offset;
    return memchr(text, '\0', strings.sh_size - offset) ? text : NULL;
}

static int32_t each_symbol(const struct image *image, const Elf64_Shdr *section, plugin_symbol_fn *symbol,
                           void *user)
{
    for (uint64_t at = sizeof(Elf64_Sym); at + sizeof(Elf64_Sym) <= section->sh_size;
         at += sizeof(Elf64_Sym)) {
        Elf64_Sym entry;
        const char *name;
        memcpy(&entry, image->bytes + section->sh_offset + at, sizeof entry);
        name = get_string(image, section->sh_link, entry.st_name);
        if (!name)
            return broken(image, "has a symbol whose name is outside of the string table");
        if (ELF64_ST_BIND(entry.st_info) != STB_LOCAL && *name &&
            ELF64_ST_VISIBILITY(entry.st_other) != STV_HIDDEN)
            symbol(user, name, entry.st_shndx != SHN_UNDEF);
    }
    return SHARPI_OK;
}

static int32_t each_needed(const struct image *image, const Elf64_Shdr *section, plugin_needed_fn *needed,
                           void *user)
{
    for (uint64_t at = 0; at + sizeof(Elf64_Dyn) <= section->sh_size; at += sizeof(Elf64_Dyn)) {
        Elf64_Dyn entry;
        const char *name;
        memcpy(&entry, image->bytes + section->sh_offset + at, sizeof entry);
        if (entry.d_tag == DT_NULL)
            break;
        if (entry.d_tag != DT_NEEDED)
            continue;
        name = get_string(image, section->sh_link, entry.d_un.d_val);
        if (!name)
            return broken(image, "needs a library whose name is outside of the string table");
        needed(user, name);
    }
    return SHARPI_OK;
}

int32_t plugin_symbols(const char *path, plugin_symbol_fn *symbol, plugin_needed_fn *needed, void *user,
                       struct sharpi_error *err)
{
    struct image image = {.path = path, .err = err};
    int32_t status = read_file(&image), found = 0;
    if (!status)
        status = check_head(&image);
    for (uint32_t i = 0; !status && i < image.head.e_shnum; i++) {
        Elf64_Shdr section;
        if (!get_section(&image, i, &section)) {
            status = broken(&image, "has a section outside of the file");
        } else if (section.sh_type == SHT_DYNSYM) {
            found = 1;
            status = each_symbol(&image, &section, symbol, user);
        } else if (section.sh_type == SHT_DYNAMIC) {
            status = each_needed(&image, &section, needed, user);
        }
    }
    if (!status && !found)
        status = broken(&image, "has no dynamic symbols");
    free(image.bytes);
    return status;
}
