/*
 * offload/probe.h - what a volume can do: which engine works there, past the page cache or not, and how fast.
 */
#ifndef HS_OFFLOAD_PROBE_H
#define HS_OFFLOAD_PROBE_H

#include "stream/stream.h"

typedef struct hs_disk {
    hs_io engine;
    bool direct;
    char reason[160];
    double bytes_per_second; /* of scattered reads of `extent` bytes; 0 for a file too small to say */
} hs_disk;

/* Reads up to `bytes` of the file in pieces of `extent` bytes from all over it. */
hlwq_status hs_probe_disk(const char *path, hs_io io, uint64_t extent, uint64_t bytes, hs_disk *disk, hlwq_error *err);

#endif
