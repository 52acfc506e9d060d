/*
 * tests/support/replay_main.c - runs a fuzzer's saved inputs without a fuzzer.
 *
 * Arguments are files and folders of files.  Each input lies in a buffer of exactly its size, so that a
 * sanitizer sees the first byte read beyond it.  The empty input always runs.  Exit 77 when no file was found.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        perror(path);
        exit(1);
    }
    long size = ftell(f);
    rewind(f);
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
    if (size < 0 || !data || fread(data, 1, (size_t)size, f) != (size_t)size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    fclose(f);
    fprintf(stderr, "%s\n", path); /* the last line printed names the input that crashed */
    LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    return 1;
}

static int replay(const char *path)
{
    DIR *d = opendir(path);
    if (!d) {
        FILE *f = fopen(path, "rb");
        if (!f)
            return 0;
        fclose(f);
        return replay_file(path);
    }
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        char name[4096];
        if (snprintf(name, sizeof name, "%s/%s", path, e->d_name) < (int)sizeof name)
            n += replay_file(name);
    }
    closedir(d);
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    uint8_t *empty = malloc(1);
    LLVMFuzzerTestOneInput(empty, 0);
    free(empty);
    for (int i = 1; i < argc; i++)
        n += replay(argv[i]);
    fprintf(stderr, "%d inputs\n", n);
    if (n == 0)
        fprintf(stderr, "skipped: no corpus\n");
    return n ? 0 : 77;
}
