/*
 * kernels/cuda/sim/symbols.cc - how many bytes of shared variables a kernel declares, for the limit at its launch.
 *
 * The compiler knows and tells nobody, but the symbol table of our own program does: a kernel _ZL3fooPi has its
 * variables as _ZZL3fooPiE..., in the section hs_shared.  Those of device functions that it calls are not counted.
 * Without a symbol table (a stripped program) the answer is 0, and only dynamic shared memory is checked.
 */
#include "kernels/cuda/sim/private.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_KERNELS = 4096, NAME = 400 };

static struct {
    const void *kernel;
    uint64_t bytes;
    char *name;
} known[MAX_KERNELS];
static uint32_t n_known;

struct module {
    uintptr_t address; /* looked for */
    uintptr_t base;    /* found */
    char path[512];
    bool found;
};

static int find_module(struct dl_phdr_info *info, size_t, void *user)
{
    module *m = static_cast<module *>(user);
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD && m->address - info->dlpi_addr - p->p_vaddr < p->p_memsz) {
            const char *path = info->dlpi_name && *info->dlpi_name ? info->dlpi_name : "/proc/self/exe";
            m->base = info->dlpi_addr;
            m->found = strlen(path) < sizeof m->path;
            if (m->found)
                strcpy(m->path, path);
            return 1;
        }
    }
    return 0;
}

/* The file is our own program, so it is trusted as far as its sizes go; one that makes no sense counts 0. */
static uint64_t count(const char *file, size_t bytes, uintptr_t address, char *full_name, size_t room)
{
    const ElfW(Ehdr) *e = reinterpret_cast<const ElfW(Ehdr) *>(file);
    if (bytes < sizeof *e || memcmp(e->e_ident, ELFMAG, SELFMAG) != 0 ||
        e->e_shoff + (uint64_t)e->e_shnum * sizeof(ElfW(Shdr)) > bytes || e->e_shstrndx >= e->e_shnum)
        return 0;
    const ElfW(Shdr) *section = reinterpret_cast<const ElfW(Shdr) *>(file + e->e_shoff);
    const char *section_names = file + section[e->e_shstrndx].sh_offset;
    uint32_t shared = 0, table = 0;
    for (uint32_t i = 1; i < e->e_shnum; i++) {
        if (!strcmp(section_names + section[i].sh_name, "hs_shared"))
            shared = i;
        if (section[i].sh_type == SHT_SYMTAB)
            table = i;
    }
    if (!table || section[table].sh_offset + section[table].sh_size > bytes)
        return 0;

    const ElfW(Sym) *symbol = reinterpret_cast<const ElfW(Sym) *>(file + section[table].sh_offset);
    const char *names = file + section[section[table].sh_link].sh_offset;
    size_t n = section[table].sh_size / sizeof *symbol;
    const char *kernel = nullptr;
    for (size_t i = 0; i < n && !kernel; i++)
        if ((symbol[i].st_info & 15) == STT_FUNC && symbol[i].st_value == address &&
            !strncmp(names + symbol[i].st_name, "_Z", 2))
            kernel = names + symbol[i].st_name + 2;
    if (!kernel)
        return 0;
    snprintf(full_name, room, "_Z%s", kernel);
    uint64_t sum = 0;
    size_t length = strlen(kernel);
    for (size_t i = 0; i < n; i++) {
        const char *name = names + symbol[i].st_name;
        if (shared && symbol[i].st_shndx == shared && !strncmp(name, "_ZZ", 3) && !strncmp(name + 3, kernel, length) &&
            name[3 + length] == 'E')
            sum += symbol[i].st_size;
    }
    return sum;
}

static uint64_t look_up(const void *kernel, char *full_name, size_t room)
{
    module m = {};
    struct stat st;
    m.address = reinterpret_cast<uintptr_t>(kernel);
    dl_iterate_phdr(find_module, &m);
    int fd = m.found ? open(m.path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 0;
    uint64_t bytes = 0;
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        size_t size = (size_t)st.st_size;
        void *file = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file != MAP_FAILED) {
            bytes = count(static_cast<const char *>(file), size, m.address - m.base, full_name, room);
            munmap(file, size);
        }
    }
    close(fd);
    return bytes;
}

static uint32_t find(const void *kernel)
{
    uint32_t i = 0;
    while (i < n_known && known[i].kernel != kernel)
        i++;
    if (i == n_known) {
        n_known += n_known + 1 < MAX_KERNELS; /* the last place is for all the rest */
        free(known[i].name);
        known[i].name = static_cast<char *>(sim_alloc(NAME));
        known[i].kernel = kernel;
        known[i].bytes = look_up(kernel, known[i].name, NAME);
    }
    return i;
}

uint64_t sim_static_shared_of(const void *kernel)
{
    return known[find(kernel)].bytes;
}

/* "_ZL3fooPi"; false if it cannot be known. */
bool sim_symbol_of(const void *kernel, char *name, size_t room)
{
    const char *known_name = known[find(kernel)].name;
    snprintf(name, room, "%s", known_name);
    return known_name[0] != 0;
}
