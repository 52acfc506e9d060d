/*
 * kernels/cuda/sim/ptx_load.cc - which PTX runs: the files of hs_sim_options.ptx, kernels by name, their parameters.
 *
 * The folder has one of each architecture, "75", "80", ..; the newest that is not beyond sim_options.arch counts, as
 * with a program's own code.  All files are read at the first launch.  nvcc calls a static kernel _Z3fooPi, GCC
 * _ZL3fooPi.
 */
#include "kernels/cuda/sim/ptx.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static ptx_module *modules;
static ptx_function *functions;
static char loaded[512]; /* from where */
static char trouble[900];

bool ptx_is_on(void)
{
    return sim_options.ptx != nullptr;
}

const ptx_math *ptx_math_find(ptx_span opcode)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        return ptx_math_find_fma(opcode);
#endif
    return ptx_math_find_base(opcode);
}

static void drop_all(void)
{
    while (functions) {
        ptx_function *f = functions;
        functions = f->next;
        ptx_function_free(f);
    }
    while (modules) {
        ptx_module *m = modules;
        modules = m->next;
        ptx_module_free(m);
    }
    ptx_forget_functions();
    loaded[0] = trouble[0] = 0;
}

static bool read_whole(const char *path, char **text, size_t *bytes)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    *text = static_cast<char *>(sim_alloc((size_t)st.st_size + 1));
    *bytes = 0;
    for (ssize_t got; *bytes < (size_t)st.st_size && (got = read(fd, *text + *bytes, (size_t)st.st_size - *bytes)) > 0;)
        *bytes += (size_t)got;
    close(fd);
    return *bytes == (size_t)st.st_size;
}

static void add_file(const char *path, const char *name)
{
    char *text = nullptr;
    size_t bytes;
    if (!read_whole(path, &text, &bytes)) {
        snprintf(trouble, sizeof trouble, "%s cannot be read", path);
        free(text);
        return;
    }
    ptx_module *m = ptx_module_read(text, bytes, name);
    free(text);
    m->next = modules;
    modules = m;
    if (m->trouble[0])
        snprintf(trouble, sizeof trouble, "%s", m->trouble);
}

static int best_arch(const char *folder)
{
    int best = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        int arch = atoi(e->d_name);
        if (arch > best && arch <= sim_options.arch)
            best = arch;
    }
    if (d)
        closedir(d);
    return best;
}

static void load_all(void)
{
    char folder[480], path[800];
    int arch = best_arch(sim_options.ptx);
    snprintf(folder, sizeof folder, "%s/%d", sim_options.ptx, arch);
    if (!strcmp(folder, loaded))
        return;
    drop_all();
    snprintf(loaded, sizeof loaded, "%s", folder);
    DIR *d = arch ? opendir(folder) : nullptr;
    if (!d)
        snprintf(trouble, sizeof trouble, "%s has no folder for sm_%d or before", sim_options.ptx, sim_options.arch);
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n > 4 && !strcmp(e->d_name + n - 4, ".ptx")) {
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
            add_file(path, e->d_name);
        }
    }
    if (d)
        closedir(d);
}

/* "product.ptx" is of ".../product.cu" and of ".../product.cc". */
static bool is_of(const ptx_module *m, const char *file)
{
    const char *slash = strrchr(file, '/');
    const char *name = slash ? slash + 1 : file, *dot = strrchr(name, '.');
    size_t n = dot ? (size_t)(dot - name) : strlen(name);
    return strlen(m->file) == n + 4 && !memcmp(m->file, name, n);
}

const ptx_function *ptx_find(const char *symbol, const char *file, char *why, size_t room)
{
    load_all();
    if (trouble[0]) {
        snprintf(why, room, "%s", trouble);
        return nullptr;
    }
    char name[512];
    bool local = !strncmp(symbol, "_ZL", 3);
    snprintf(name, sizeof name, "_Z%s", symbol + (local ? 3 : 2));
    for (ptx_module *m = modules; m; m = m->next) {
        if (!is_of(m, file))
            continue;
        for (ptx_function *f = functions; f; f = f->next)
            if (f->module == m && ptx_is(f->body->name, name))
                return f;
        for (ptx_body *b = m->body; b; b = b->next)
            if (b->entry && b->has_body && ptx_is(b->name, name)) {
                ptx_function *f = ptx_function_build(m, b);
                f->next = functions;
                return functions = f;
            }
    }
    snprintf(why, room, "%s has no kernel %s of %s", loaded, name, file);
    return nullptr;
}

uint64_t ptx_parameter_bytes(const ptx_function *f)
{
    return f->param_bytes + 16;
}

bool ptx_pack(const ptx_function *f, const hs_sim_argument *arg, uint32_t n, void *to, char *why, size_t room)
{
    if (n != f->n_params) {
        snprintf(why, room, "%u arguments for %u parameters", n, f->n_params);
        return false;
    }
    for (uint32_t k = 0; k < n; k++) {
        if (arg[k].bytes != f->param[k].bytes || arg[k].align != f->param[k].align) {
            snprintf(why, room, "parameter %u has %u bytes in multiples of %u, nvcc's has %llu in multiples of %llu", k,
                     arg[k].bytes, arg[k].align, (unsigned long long)f->param[k].bytes,
                     (unsigned long long)f->param[k].align);
            return false;
        }
        memcpy(static_cast<char *>(to) + f->param[k].at, arg[k].at, arg[k].bytes);
    }
    return true;
}

/* ---- for tests ---- */

/* Reads every kernel for the current options. */
uint32_t hs_sim_ptx_survey(uint32_t *instructions, uint32_t *unknown, char *first, size_t room)
{
    uint32_t kernels = 0;
    sim_lock();
    *instructions = *unknown = 0;
    first[0] = 0;
    load_all();
    if (trouble[0]) {
        snprintf(first, room, "%s", trouble);
        ++*unknown;
    }
    for (const ptx_module *m = modules; m; m = m->next)
        for (const ptx_body *b = m->body; b; b = b->next) {
            if (!b->entry || !b->has_body)
                continue;
            ptx_function *f = ptx_function_build(m, b);
            kernels++;
            *instructions += f->n;
            if (f->unknown && !*unknown)
                snprintf(first, room, "%s: %s: %s", m->file, f->name, f->first_unknown);
            *unknown += f->unknown;
            ptx_function_free(f);
        }
    sim_unlock();
    return kernels;
}
